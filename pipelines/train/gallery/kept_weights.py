"""The trained weights of some steps, kept so that a person can look at what they do and choose among them.

OUT/trained/step-NNNNNN/ holds `trained.safetensors`, what the stage trains and nothing else: with LoRA the adapters and
the new modules in float32, in stage 2 the whole network in the compute dtype. A checkpoint is made of just that, so the
checkpoint of any of these steps can be made later, to the bit as if the stage had ended there (`pick`). `keep` writes
them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from ....datasets.artifact import RECORD
from ....datasets.storage.atomic import atomic_folder, write_json
from ....datasets.storage.digests import content_digest
from ....models.checkpoints.components import load_components
from ....models.checkpoints.folders import resolve_folder
from ....models.diffusers_internals import float32_modules
from ....models.lora.adapters import save_trained
from ..config import TrainConfig
from ..frozen_components import bundle
from ..networks import load_student, torch_dtype
from ..run_folder import TrainingRefused
from .folder import checkpoint_folders, trained_folder, trained_steps

WEIGHTS = "trained.safetensors"


def network_at(out: Path, steps: int, device: torch.device) -> Any:
    """The transformer with the weights of the run in `out` after `steps`, as it is loaded for rendering.

    Raises:
        TrainingRefused: they are not kept.
    """
    checkpoint = checkpoint_folders(out).get(steps)
    if checkpoint is not None:
        config = TrainConfig.model_validate(json.loads((checkpoint / RECORD).read_text())["config"])
        loaded = load_components(checkpoint, ("transformer",), torch_dtype(config), device, kind="steadydancer")
        return loaded["transformer"]
    config, student, weights, _ = _read(out, steps)
    student.load_state_dict(weights, assign=True)
    if config.trains_lora:
        student.fuse_lora(safe_fusing=True)  # as a checkpoint is merged: the other way rounds otherwise
        student.unload_lora()
    kept = {*float32_modules(student)}
    for name, weight in student.named_parameters():  # rounded as a checkpoint is, and then as one is loaded
        weight.data = weight.data.to(torch_dtype(config))
        if kept & set(name.split(".")):
            weight.data = weight.data.float()
    student.disable_gradient_checkpointing()
    return student.to(device).eval()


def pick(out: Path, steps: int) -> Path:
    """Make the checkpoint of the run in `out` after `steps`, OUT/checkpoint-NNNNNN; the folder, also if it is there.

    The next stage, `render` and `SteadyDancerPipeline.from_pretrained` take it as they take OUT/checkpoint.

    Raises:
        TrainingRefused: the weights of that step are not kept; the message names those that are.
    """
    there = checkpoint_folders(out).get(steps)
    if there is not None:
        return there
    config, student, weights, record = _read(out, steps)
    place = out / f"checkpoint-{steps:06d}"
    told = {"steps": steps, "loss_before": None, "loss_after": None, "picked": True}
    with atomic_folder(place) as aside:
        write_parts(aside, config, student, weights, record)
        write_json(aside / RECORD, {**record, **told, "digest": content_digest(aside / "transformer")})
    return place


def write_parts(
    folder: Path, config: TrainConfig, network: Any, weights: dict[str, torch.Tensor], record: dict[str, Any]
) -> None:
    """What a checkpoint holds beside its record: transformer, the stage's adapter, and copies if they are asked for."""
    lora = folder / "lora" if config.trains_lora else None
    save_trained(network, weights, folder / "transformer", lora, torch_dtype(config))
    if config.bundle:
        bundle(folder, record["components"]["path"])


def _read(out: Path, steps: int) -> tuple[TrainConfig, Any, dict[str, torch.Tensor], dict[str, Any]]:
    """(configuration, network with its adapters, all its weights after `steps`, what a record says of the run)."""
    folder = trained_folder(out, steps)
    if not (folder / RECORD).exists():
        kept = ", ".join(map(str, sorted({*trained_steps(out), *checkpoint_folders(out)})))
        raise TrainingRefused(f"steps: {out} keeps no weights of {steps} steps, but of: {kept or 'none'}")
    settings = json.loads((folder / RECORD).read_text())["settings"]
    config = TrainConfig.model_validate(settings["config"])
    parent = settings["from_checkpoint"] and resolve_folder(settings["from_checkpoint"], ("transformer",))
    student = load_student(config, settings["base"], parent, torch.device("cpu"))
    trained = load_file(folder / WEIGHTS)
    if wrong := trained.keys() ^ {name for name, weight in student.named_parameters() if weight.requires_grad}:
        raise TrainingRefused(f"{folder} holds other trained weights than this version trains: {min(wrong)}")
    return config, student, {**student.state_dict(), **trained}, settings["record"]
