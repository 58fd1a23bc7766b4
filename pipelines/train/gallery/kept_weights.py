"""Trained weights of some steps, kept for galleries and for `pick`. `weights_writer` writes them.

OUT/trained/step-NNNNNN/trained.safetensors has only the weights that the stage trains: with LoRA the adapters and the
new modules in float32, in stage 2 the whole network in the compute dtype. `pick` builds the checkpoint of such a step
from them, bit-identical to that of a stage that ended there.
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
from ....models.checkpoints.folders import resolve_folder
from ....models.components import load_components
from ....models.diffusers_internals import float32_modules
from ....models.lora.adapters import save_trained
from ..config import TrainConfig
from ..frozen_components import bundle
from ..networks import load_student, torch_dtype
from ..run_folder import TrainingRefused
from .folder import checkpoint_folders, trained_folder, trained_steps

WEIGHTS = "trained.safetensors"


def network_at(out: Path, steps: int, device: torch.device) -> Any:
    """Load the transformer with the weights of the run in `out` after `steps`, as a checkpoint is loaded to render.

    Raises:
        TrainingRefused: the weights of that step are not kept.
    """
    checkpoint = checkpoint_folders(out).get(steps)
    if checkpoint is not None:
        config = TrainConfig.model_validate(json.loads((checkpoint / RECORD).read_text())["config"])
        loaded = load_components(checkpoint, ("transformer",), torch_dtype(config), device, kind="steadydancer")
        return loaded["transformer"]
    config, student, weights, _ = _read(out, steps)
    student.load_state_dict(weights, assign=True)
    if config.trains_lora:
        student.fuse_lora(safe_fusing=True)  # merged as in a checkpoint: another order rounds differently
        student.unload_lora()
    kept = {*float32_modules(student)}
    for name, weight in student.named_parameters():  # rounded as when a checkpoint is saved and loaded
        weight.data = weight.data.to(torch_dtype(config))
        if kept & set(name.split(".")):
            weight.data = weight.data.float()
    student.disable_gradient_checkpointing()
    return student.to(device).eval()


def pick(out: Path, steps: int) -> Path:
    """Write the checkpoint of the run in `out` after `steps` to OUT/checkpoint-NNNNNN unless it exists; return it.

    The next stage, `render` and `SteadyDancerPipeline.from_pretrained` load it like OUT/checkpoint.

    Raises:
        TrainingRefused: the weights of that step are not kept; the message lists the steps that are.
    """
    existing = checkpoint_folders(out).get(steps)
    if existing is not None:
        return existing
    config, student, weights, record = _read(out, steps)
    place = out / f"checkpoint-{steps:06d}"
    facts = {"steps": steps, "loss_before": None, "loss_after": None, "picked": True}
    with atomic_folder(place) as aside:
        write_parts(aside, config, student, weights, record)
        write_json(aside / RECORD, {**record, **facts, "digest": content_digest(aside / "transformer")})
    return place


def write_parts(
    folder: Path, config: TrainConfig, network: Any, weights: dict[str, torch.Tensor], record: dict[str, Any]
) -> None:
    """Write the contents of a checkpoint: transformer, the stage's adapter, and with `bundle` the frozen components."""
    lora = folder / "lora" if config.trains_lora else None
    save_trained(network, weights, folder / "transformer", lora, torch_dtype(config))
    if config.bundle:
        bundle(folder, record["components"]["path"])


def _read(out: Path, steps: int) -> tuple[TrainConfig, Any, dict[str, torch.Tensor], dict[str, Any]]:
    """Read (configuration, network with adapters, all its weights after `steps`, record of the run)."""
    folder = trained_folder(out, steps)
    if not (folder / RECORD).exists():
        kept = ", ".join(map(str, sorted({*trained_steps(out), *checkpoint_folders(out)})))
        raise TrainingRefused(f"steps: {out} has no weights for step {steps}; steps with weights: {kept or 'none'}")
    settings = json.loads((folder / RECORD).read_text())["settings"]
    config = TrainConfig.model_validate(settings["config"])
    parent = settings["from_checkpoint"] and resolve_folder(settings["from_checkpoint"], ("transformer",))
    student = load_student(config, settings["base"], parent, torch.device("cpu"))
    trained = load_file(folder / WEIGHTS)
    if mismatch := trained.keys() ^ {name for name, weight in student.named_parameters() if weight.requires_grad}:
        raise TrainingRefused(f"{folder} does not have the weights that this version trains: {min(mismatch)} differs")
    return config, student, {**student.state_dict(), **trained}, settings["record"]
