"""The rows of the ablations, as data: each is a named difference of configuration from another row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ... import SteadyDancerError
from ...pipelines.train.config import TrainConfig
from ..presets import Run, change


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        name: of the row, in options and folders.
        title: in the table.
        group: rows that are compared with each other.
        stage: training stage of the row; None renders the parent's checkpoint with other settings.
        parent: row whose checkpoint it starts from, at the same seed; None: the base.
        versus: row that it is compared with; None for references.
        place: where the paper makes the claim.
        train: fields of the stage's configuration that differ from the reference.
        render: fields of the rendering configuration that differ.
        lacks: parts of the reference's network that the row's network does not have.
        adds: parts that only the row's network has.
        reshapes: weights that both have, in other shapes.
        steps_divisor: part of the stage's steps, for curves.
        steps_of: stage whose number of steps it takes; None: its own.
    """

    name: str
    title: str
    group: str
    stage: int | None
    parent: str | None
    versus: str | None
    place: str = ""
    train: Mapping[str, Any] = field(default_factory=dict)
    render: Mapping[str, Any] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    reshapes: tuple[str, ...] = ()
    steps_divisor: int = 1
    steps_of: int | None = None


def _of_stage_1(name: str, title: str, group: str, place: str, **difference: Any) -> Row:
    shapes = {key: difference.pop(key) for key in ("lacks", "adds", "reshapes", "steps_divisor") if key in difference}
    return Row(name, title, group, 1, None, "stage1", place, train=difference, **shapes)


_TEMPORAL = tuple(f"pose_modulation.temporal.{k}.temporal.weight" for k in range(3))
_GUIDED: Mapping[str, Any] = {"num_inference_steps": 20}  # at 4 steps, the interval in timesteps would be empty

# Warping and generator bridge from the pose of the image; `reference_first` shows what that alone does.
_REFERENCE_FIRST: Mapping[str, Any] = {"first_pose": "reference"}
_ALTERNATIVES: tuple[tuple[str, str, str, Mapping[str, Any]], ...] = (
    ("pose_warping", "Pose warping in place of pose simulation", "warping", _REFERENCE_FIRST),
    ("pose_generator", "Pose generator in place of pose simulation", "generator", _REFERENCE_FIRST),
    ("feature_mapping", "Feature mapping in place of pose simulation", "mapping", {}),
)

_ROWS = (
    Row("stage1", "Stage 1", "stages", 1, None, None, "Table 3"),
    Row("stage2", "Stage 2, condition-decoupled distillation", "stages", 2, "stage1", "stage1", "Table 3, Figure 14"),
    Row("stage3", "Stage 3, pose simulation of frames", "stages", 3, "stage2", "stage2", "Table 3, Figure 15"),
    _of_stage_1("without_ssae", "Stage 1 without SSAE", "modules", "Table 3, Figure 13",
                pose_modulation_modules=("temporal", "alignment"), lacks=("pose_modulation.spatial",)),
    _of_stage_1("without_tmcm", "Stage 1 without TMCM", "modules", "Table 3, Figure 13",
                pose_modulation_modules=("spatial", "alignment"), lacks=("pose_modulation.temporal",)),
    _of_stage_1("without_faau", "Stage 1 without FAAU", "modules", "Table 3, Figure 13",
                pose_modulation_modules=("spatial", "temporal"), lacks=("pose_modulation.alignment",),
                reshapes=("patch_embedding_fuse.weight",)),
    _of_stage_1("latent_addition", "Eq. 2 in place of Eq. 3: latents added", "fusion", "Figure 12, row 1",
                pose_fusion="latent_addition", lacks=("patch_embedding_fuse",)),
    _of_stage_1("adapter", "Adapter in place of Eq. 3", "fusion", "Figure 12, row 2",
                pose_fusion="adapter", lacks=("patch_embedding_fuse",), adds=("pose_adapter",)),
    _of_stage_1("without_augmentation", "Without Eq. 4", "fusion", "Figure 12, row 3",
                condition_augmentation=False, lacks=("patch_embedding_ref_c", "patch_embedding")),
    _of_stage_1("faau_spatial", "FAAU over the pixels of a frame (printed)", "printed", "Section 3.4",
                alignment_axis="spatial"),
    _of_stage_1("tmcm_pointwise", "TMCM pointwise in time (printed)", "printed", "Section 3.4",
                temporal_kernel_size=1, reshapes=_TEMPORAL),
    _of_stage_1("clip_concatenated", "Image features concatenated (printed)", "printed", "Section 3.3",
                image_feature_fusion="concatenation"),
    _of_stage_1("references_shared", "Eq. 4 before one embedding (printed)", "printed", "Eq. 4",
                reference_embedding="shared", lacks=("patch_embedding_ref_c", "patch_embedding")),
    *(
        Row(f"normal_distillation_{name}", f"Stage 2 with normal distillation, λ = {weight:g}", "distillation", 2,
            "stage1", "stage2", "Table 3, Figure 14",
            train={"distillation": "normal", "distillation_weight": weight})
        for name, weight in (("tenth", 0.1), ("one", 1.0), ("ten", 10.0))
    ),
    Row("stage2_longer", "Stage 2 trained on for as long as stage 3", "start gap", 2, "stage2", None, "Figure 15",
        train={"continue_stage": True}, steps_of=3),
    Row("stage3_without", "Stage 3 without pose simulation", "start gap", 3, "stage2", "stage3", "Figure 15",
        train={"pose_simulation_probability": 0.0}),
    Row("stage3_latent", "Stage 3, pose simulation of latent frames", "start gap", 3, "stage2", "stage3", "B.1",
        train={"pose_simulation_unit": "latent"}),
    *(
        Row(name, title, "start gap", 3, "stage2", "stage3", "B.1, Figure 17",
            train={"pose_simulation_probability": 0.0, "start_gap_module": kind}, render=render,
            adds=("pose_modulation.start_gap",))
        for name, title, kind, render in _ALTERNATIVES
    ),
    Row("reference_first", "Stage 3, frame 0 driven by the pose of the image", "start gap", None, "stage3", "stage3",
        "B.1", render=_REFERENCE_FIRST),
    Row("guidance", "DC-CFG, window counted in steps (released)", "guidance", None, "stage3", None, "B.3",
        render={**_GUIDED}),
    Row("guidance_off", "Without pose guidance", "guidance", None, "stage3", "guidance", "B.3, Figure 18",
        render={**_GUIDED, "pose_guidance_scale": 0.0}),
    Row("guidance_timesteps", "DC-CFG, window counted in timesteps (printed)", "guidance", None, "stage3", "guidance",
        "B.3", render={**_GUIDED, "pose_guidance_unit": "timestep"}),
    Row("guidance_shift", "DC-CFG, negative pose with shift (printed)", "guidance", None, "stage3", "guidance", "B.3",
        render={**_GUIDED, "negative_pose_shift": True}),
    *(
        _of_stage_1(f"steps_{divisor}", f"Stage 1, 1/{divisor} of the steps", "steps", "Figure 5",
                    steps_divisor=divisor)
        for divisor in (8, 4, 2)
    ),
    *(
        # Sources are held out by hash, so that smaller sets are parts of larger ones.
        _of_stage_1(f"clips_{divisor}", f"Stage 1, about 1/{divisor} of the clips", "clips", "Table 1",
                    validation_share=1 - 1 / divisor)
        for divisor in (16, 4)
    ),
)  # fmt: skip
ROWS: Mapping[str, Row] = MappingProxyType({row.name: row for row in _ROWS})
GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "stages": "Stages",
        "modules": "Synergistic Pose Modulation Modules",
        "fusion": "Condition-Reconciliation Mechanism",
        "printed": "As printed, where the release differs",
        "distillation": "Normal distillation",
        "start gap": "Motion discontinuity mitigation",
        "guidance": "Guidance",
        "steps": "Steps of stage 1",
        "clips": "Clips of stage 1",
    }
)


def choose(words: Iterable[str]) -> list[Row]:
    """Return rows by name or group in the table's order, with the rows that they start from and are compared with.

    Without words, all rows.

    Raises:
        SteadyDancerError: a word is neither a row nor a group.
    """
    asked = list(words)
    unknown = [word for word in asked if word not in ROWS and word not in GROUPS]
    if unknown:
        raise SteadyDancerError(
            f"{', '.join(map(repr, unknown))} is no row of the ablations; choose some of {', '.join(ROWS)}, or the "
            f"groups {', '.join(GROUPS)}"
        )
    wanted = {name for name, row in ROWS.items() if not asked or name in asked or row.group in asked}
    while more := {name for row in wanted for name in (ROWS[row].parent, ROWS[row].versus) if name} - wanted:
        wanted |= more
    return [row for name, row in ROWS.items() if name in wanted]


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return rows so that each comes after the one it starts from, otherwise in their order."""
    done: list[Row] = []
    left = list(rows)
    while left:
        names = {row.name for row in done}
        done.append(next(row for row in left if row.parent is None or row.parent in names))
        left.remove(done[-1])
    return done


def configure(run: Run, row: Row, seed: int) -> Run:
    """Return the configuration of a row at a training seed.

    Order, noise, times and dropouts of training follow the seed alone, and so does the noise of a render: rows of one
    seed are paired.
    """
    configured = change(run, "render", seed=run.render.seed + seed, **row.render)
    if row.stage is None:
        return configured
    steps = run.stage(row.steps_of or row.stage).steps // row.steps_divisor
    return change(configured, f"stage{row.stage}", seed=seed, steps=max(steps, 1), **row.train)


def training_of(run: Run, row: Row, seed: int) -> TrainConfig | None:
    """Return the training configuration of a row; None if it only renders."""
    return None if row.stage is None else configure(run, row, seed).stage(row.stage)
