"""Presets: functions that return a configuration. Importing this module loads nothing heavier than pydantic.

A preset may also be a `module:function` that returns a `Run`, a JSON file from `--print-config`, or that JSON.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from .. import SteadyDancerError
from ..datasets.storage import is_address
from ..datasets.text import read_text
from ..models.toydance import components_folder
from ..pipelines.benchmarks.config import XDanceConfig
from ..pipelines.cache.config import CacheConfig
from ..pipelines.curate.config import CurateConfig
from ..pipelines.curate.gates import Gates
from ..pipelines.evaluate.config import EvaluateConfig
from ..pipelines.render.config import RenderConfig
from ..pipelines.runtime.config import ClusterConfig
from ..pipelines.train.config import GalleryConfig, TrainConfig

MODULES = "STEADYDANCER_PRESET_MODULES"  # modules, with commas, whose functions may be presets of flows
WAN_480P = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"


class Run(BaseModel):
    """The configuration of all jobs, one model per job."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    curate: CurateConfig
    cache: CacheConfig
    stage1: TrainConfig
    stage2: TrainConfig
    stage3: TrainConfig
    render: RenderConfig
    evaluate: EvaluateConfig
    xdance: XDanceConfig = XDanceConfig()
    cluster: ClusterConfig = ClusterConfig()

    def stage(self, number: int) -> TrainConfig:
        """Return the configuration of training stage 1, 2 or 3."""
        return {1: self.stage1, 2: self.stage2, 3: self.stage3}[number]

    @property
    def samples_drawn(self) -> int:
        """Number of cached samples that the three stages read, to compare with the cost of the cache."""
        return sum(stage.steps * stage.global_batch_size for stage in (self.stage1, self.stage2, self.stage3))


def paper() -> Run:
    """Return the paper's configuration: 81 frames, 640² to train, 768² to render, 12,000 / 2,000 / 500 steps, 8 GPUs.

    Values that the paper does not give are the defaults of the configuration models, each with its source.
    """
    eight: dict[str, Any] = {"num_workers": 8, "global_batch_size": 8, "max_restarts": 3}
    return Run(
        curate=CurateConfig(num_frames=81),
        cache=CacheConfig(components=WAN_480P, max_area_px=640 * 640, num_gpus=1),
        stage1=TrainConfig(stage=1, steps=12_000, learning_rate=1e-4, zero_stage=2, **eight),
        stage2=TrainConfig(
            stage=2,
            steps=2_000,
            learning_rate=1e-6,
            zero_stage=3,
            offload_optimizer=True,
            gallery=GalleryConfig(num_clips=4),  # the paper selects this checkpoint by eye
            **eight,
        ),
        stage3=TrainConfig(stage=3, steps=500, learning_rate=1e-4, zero_stage=2, **eight),
        render=RenderConfig(max_area_px=1024 * 576, num_gpus=1),
        evaluate=EvaluateConfig(),
        cluster=ClusterConfig(wait_for_nodes_s=900),  # a machine with eight GPUs is started again in minutes
    )


def one_gpu() -> Run:
    """Return the paper's configuration for one GPU of 80 GB or more, with eight accumulated micro-batches.

    Stage 2 trains all 16 B parameters and needs about 262 GB for weights, gradients and optimizer state, with
    `offload_optimizer` mostly in host memory; `train --dry-run` reports whether this machine has enough.
    """
    run = paper()
    alone = {"num_workers": 1, "gradient_accumulation": 8}
    return run.model_copy(
        update={f"stage{n}": TrainConfig(**{**run.stage(n).model_dump(), **alone}) for n in (1, 2, 3)}
    )


def tiny() -> Run:
    """Return a tiny configuration for `demo`: 33 frames at 64², trained in this process, minutes on two CPU cores."""
    components = "runs/demo/components"
    small: dict[str, Any] = {
        "num_frames": 33, "num_workers": 0, "use_gpu": False, "zero_stage": 2, "dtype": "float32",
        "gradient_checkpointing": False, "global_batch_size": 4, "warmup_steps": 5, "lora_rank": 16, "lora_alpha": 16,
        "checkpoint_every_steps": 25, "evaluation_samples": 8,
    }  # fmt: skip
    return Run(
        curate=CurateConfig(
            num_frames=33,
            packet_size=4,
            num_score_frames=4,
            max_clips_per_source=4,
            shot_detector="threshold",
            text_detector="off",
        ),
        cache=CacheConfig(
            components=components,
            max_area_px=64 * 64,
            drawing_area_px=64 * 64,
            dtype="float32",
            encoder_dtype="float32",
            packet_size=8,
        ),
        stage1=TrainConfig(stage=1, steps=40, learning_rate=2e-3, **small),
        stage2=TrainConfig(stage=2, steps=20, learning_rate=1e-4, **small),
        stage3=TrainConfig(stage=3, steps=20, learning_rate=5e-4, **small),
        render=RenderConfig(
            num_frames=33,
            max_area_px=64 * 64,
            drawing_area_px=64 * 64,
            num_inference_steps=10,
            dtype="float32",
        ),
        evaluate=EvaluateConfig(),
    )


def tiny_cluster() -> Run:
    """Return `tiny` for a Ray cluster: each stage is trained by two workers, and survives two losses of one."""
    run = tiny()
    for name in ("stage1", "stage2", "stage3"):
        run = change(run, name, num_workers=2, max_restarts=2)
    return run


def toydance() -> Run:
    """Return the configuration that makes the shipped ToyDance checkpoints: 33 frames at 96², hours on two CPU cores.

    The components, with the base, are those of the package; see `docs/toydance.md`.
    """
    small: dict[str, Any] = {
        "num_frames": 33, "num_workers": 2, "use_gpu": False, "zero_stage": 2, "dtype": "float32",
        "gradient_checkpointing": False, "merge_text_padding": True, "global_batch_size": 16, "flow_shift": 3.0,
        "optimizer": "muon", "weight_decay": 0.0, "ema_decay": 0.998, "learning_rate_schedule": "cosine",
        "warmup_steps": 50, "lora_rank": 64, "lora_alpha": 64, "checkpoint_every_steps": 100,
    }  # fmt: skip
    size: dict[str, Any] = {"max_area_px": 96 * 96, "drawing_area_px": 72 * 72, "dtype": "float32"}
    return Run(
        curate=CurateConfig(
            num_frames=33,
            fps=16.0,
            packet_size=4,
            num_score_frames=4,
            max_clips_per_source=1,
            shot_detector="threshold",
            text_detector="off",
            person_counter="off",
            aesthetic_model="off",
            smoothness_model="off",
            pose_model="auto",  # the keypoints beside the training clips
            gates=Gates(min_side_px=96),
        ),
        cache=CacheConfig(components=str(components_folder()), encoder_dtype="float32", packet_size=64, **size),
        # All weights in each stage: rank 64 is near the width of 160, where a LoRA computes more and learns less.
        stage1=TrainConfig(
            stage=1, steps=3000, learning_rate=3e-3, muon_learning_rate=1.5e-2, trained_weights="all", **small
        ),
        stage2=TrainConfig(stage=2, steps=250, learning_rate=6e-4, muon_learning_rate=2.4e-3, **small),
        stage3=TrainConfig(
            stage=3, steps=250, learning_rate=1e-3, muon_learning_rate=4e-3, trained_weights="all", **small
        ),
        render=RenderConfig(
            num_frames=33,
            num_inference_steps=2,  # 0.4 dB above 4 steps; elbows and wrists alike
            flow_shift=3.0,
            guidance_scale=1.0,
            pose_model="toydance",
            main_person_only=True,
            on_missing_reference="keep",  # methods are compared on all pairs, also where the small estimator fails
            packet_size=4,
            crf=12,
            chroma="4:4:4",
            **size,
        ),
        evaluate=EvaluateConfig(),
    )


def toydance_demo() -> Run:
    """Return the configuration of `demo`: the shipped ToyDance checkpoints, each trained on for 50 steps.

    AdamW, because on a CPU Muon's orthogonalisation in bfloat16 takes as long as a forward and backward pass of two
    clips.
    """
    short: dict[str, Any] = {
        "steps": 50, "continue_stage": True, "num_workers": 0, "global_batch_size": 2, "optimizer": "adamw",
        "learning_rate": 1e-4, "warmup_steps": 5, "ema_decay": 0.9, "checkpoint_every_steps": 25,
        "evaluation_samples": 8, "validation_share": 0.0,
    }  # fmt: skip
    run = change(toydance(), "curate", pose_model="toydance")
    run = change(run, "evaluate", metrics=("basic",))  # the demo measures poses itself, on the same videos
    for name in ("stage1", "stage2", "stage3"):
        run = change(run, name, **short)
    return run


def with_control(run: Run) -> Run:
    """Return a run whose stage 2 is the control of stage 3: stage 2 trained on for as many steps as stage 3.

    It starts from a checkpoint of stage 2. What stage 3 gains over it is not due to more training.
    """
    return change(run, "stage2", steps=run.stage3.steps, continue_stage=True)


def toydance_control() -> Run:
    """Return the configuration that makes the shipped control of stage 3, see `with_control`."""
    return with_control(toydance())


def toydance_ablations() -> Run:
    """Return the reference of `reproduce ablations`: the three stages of ToyDance at a length that 40 rows can have.

    Each packet trains on one core; steps are chosen so that all rows at three seeds take 12 CPU hours at most. Driving
    poses are the keypoints beside the videos, so that what is wrong with them is known.
    """
    short: dict[str, Any] = {
        "num_workers": 0, "warmup_steps": 20, "ema_decay": 0.97, "checkpoint_every_steps": 20, "evaluation_samples": 8,
        "trackers": (), "asynchronous_checkpoints": False,
    }  # fmt: skip
    run = toydance()
    for stage, steps in ((1, 160), (2, 30), (3, 40)):
        run = change(run, f"stage{stage}", steps=steps, **short)
    run = change(run, "render", pose_model="supplied")
    return change(run, "evaluate", pose_model="toydance", metrics=("first_frame", "pixels"))


PRESETS: dict[str, Callable[[], Run]] = {
    "tiny": tiny,
    "tiny_cluster": tiny_cluster,
    "toydance": toydance,
    "toydance_demo": toydance_demo,
    "toydance_ablations": toydance_ablations,
    "one_gpu": one_gpu,
    "paper": paper,
}


def load(preset: str, modules: Sequence[str] | None = None) -> Run:
    """Load a configuration.

    Args:
        preset: a name in `PRESETS`, `module:function`, the path of a JSON file, or JSON.
        modules: modules of which a function may be called; None: any, for a preset of the one who runs the command.

    Raises:
        SteadyDancerError: the preset is unknown, or a field is invalid; the message names the field.
    """
    try:
        if preset in PRESETS:
            return PRESETS[preset]()
        if preset.lstrip().startswith("{"):
            return Run.model_validate_json(preset)
        if preset.lower().endswith(".json") or is_address(preset):
            return Run.model_validate_json(read_text(preset))
        if ":" in preset:
            if modules is not None and preset.partition(":")[0] not in modules:
                raise SteadyDancerError(
                    f"preset {preset}: a flow calls functions of modules in {MODULES} alone, because whoever starts a "
                    "flow could call any: set that variable for the worker, or pass a JSON file (--print-config)"
                )
            run = _call(*preset.split(":", 1))
            # Validate again, because `model_copy` does not.
            return Run.model_validate(run.model_dump() if isinstance(run, Run) else run)
    except ValidationError as error:
        raise SteadyDancerError(explain(error, preset if len(preset) < 80 else "the preset")) from error
    except SteadyDancerError:
        raise
    except (OSError, ImportError, AttributeError, ValueError) as error:
        raise SteadyDancerError(f"cannot read preset {preset}: {error}") from error
    raise SteadyDancerError(f"unknown preset {preset}; choose {', '.join(PRESETS)}, module:function, or FILE.json")


def load_for_flow(preset: str) -> Run:
    """Load a configuration that is a flow's parameter: functions of the modules that the worker allows.

    Raises:
        SteadyDancerError: see `load`; or the preset is a function of another module.
    """
    return load(preset, [name for name in os.environ.get(MODULES, "").split(",") if name])


def _call(module: str, function: str) -> Any:
    # The module may be in the current directory; at the end of the path it does not shadow a library.
    sys.path.append(str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), function)()
    finally:
        sys.path.pop()


def explain(error: ValidationError, source: str) -> str:
    """Format a validation error as lines of `field: message (got value)`."""
    lines = []
    for e in error.errors():
        given = "" if isinstance(e["input"], dict) else f" (got {str(e['input'])[:60]})"
        lines.append(f"  {'.'.join(map(str, e['loc'])) or e['type']}: {e['msg'].removeprefix('Value error, ')}{given}")
    incomplete = any(e["type"] == "missing" for e in error.errors())
    hint = "; --print-config prints a complete one" if incomplete else ""
    return f"{source} is not a valid configuration{hint}:\n" + "\n".join(lines[:8])


def change(run: Run, job: str, **fields: Any) -> Run:
    """Return a validated copy of a run with fields of one job changed; fields that are None stay unchanged."""
    given = {name: value for name, value in fields.items() if value is not None}
    data = run.model_dump()
    data[job].update(given)
    try:
        return Run.model_validate(data)
    except ValidationError as error:
        raise SteadyDancerError(explain(error, "this command")) from error
