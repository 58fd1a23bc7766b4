"""Networks and loss of a stage: the student, the frozen teacher, the objective."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ...datasets.storage import Location
from ...models.checkpoints.files import CheckpointError
from ...models.checkpoints.transformer_files import Kind
from ...models.components import load_components
from ...models.conditions import Conditions
from ...models.inference.text_padding import merge_text_padding
from ...models.lora.adapters import add_lora
from ...models.objectives import (
    LossWeight,
    Objective,
    Velocity,
    action_supervision,
    condition_decoupled_distillation,
    gaussian_weight,
    steadydancer_velocity,
    wan_velocity,
)
from ...models.quantised_linear import has_quantised_layers
from .config import NETWORK_FIELDS, TrainConfig
from .data.pose_simulation import PoseSimulation
from .memory_optimizations import checkpoint_blocks, shard_frozen
from .run_folder import checkpoint_folder


def load_student(config: TrainConfig, base: str | None, from_checkpoint: Path | None, device: torch.device) -> Any:
    """Load the transformer that the stage trains, on `device`, with `requires_grad` set on the weights to train.

    Stage 1 starts from the plain Wan at `base`, whose added inputs get zero weights; stages 2 and 3 start from a
    checkpoint. Randomly initialised weights follow the seed.
    """
    torch.manual_seed(config.seed)
    if from_checkpoint is None:
        from ...models.transformer import SteadyDancerTransformer3DModel

        wan = _load(str(base), "wan", config, device)
        variant = config.model_dump(include=set(NETWORK_FIELDS))
        student = SteadyDancerTransformer3DModel.from_wan(wan, copy=False, **variant)
    else:
        student = _load(checkpoint_folder(from_checkpoint), "steadydancer", config, device)
        if config.start_gap_module != "none":
            student.add_start_gap_module(config.start_gap_module)
    if config.merge_text_padding:
        merge_text_padding(student)
    _set_alignment_dropout(student, config.alignment_dropout)
    if config.trains_lora:
        add_lora(student, config.lora_rank, config.lora_alpha, config.lora_targets)
    else:
        student.requires_grad_(True)
    if config.gradient_checkpointing:
        student.enable_gradient_checkpointing(checkpoint_blocks(config))
    return student.to(device).train()


def _load(source: str | Location, kind: Kind, config: TrainConfig, device: torch.device) -> Any:
    """Load a transformer in the stage's dtype directly to the device, without a copy in host memory.

    Raises:
        CheckpointError: its weights are quantised, or it cannot be loaded.
    """
    network = load_components(source, ["transformer"], dtype=torch_dtype(config), device=device, kind=kind)[
        "transformer"
    ]
    if has_quantised_layers(network):
        raise CheckpointError(
            f"{source} has quantised weights, which can be rendered with but not trained: pass the checkpoint that it "
            "was converted from"
        )
    return network


def _set_alignment_dropout(student: Any, probability: float) -> None:
    """Set the stage's dropout in place of the one that the checkpoint was trained with."""
    student.register_to_config(alignment_dropout=probability)
    if student.pose_modulation.alignment is not None:
        student.pose_modulation.alignment.dropout = probability


def load_objective(config: TrainConfig, base: str | None, device: torch.device) -> Objective:
    """Load the stage's objective; for stage 2 with the frozen teacher, sharded over the workers if there are several.

    All workers must call this function and the objective together.
    """
    weight: LossWeight = gaussian_weight(config.flow_shift) if config.loss_weighting == "gaussian" else torch.ones_like
    if config.stage != 2:
        return action_supervision(weight)
    teacher = _load(str(base), "wan", config, device).requires_grad_(False)
    if config.merge_text_padding:
        merge_text_padding(teacher)
    if config.shard_teacher and dist.get_world_size() > 1:
        teacher = shard_frozen(teacher)
    return condition_decoupled_distillation(
        wan_velocity(teacher),
        config.distillation_weight,
        weight,
        unconditional_text=config.uncond_text,
        decoupled=config.distillation == "condition_decoupled",
    )


def load_pose_simulation(
    config: TrainConfig, base: str | None, folder: Path, device: torch.device
) -> PoseSimulation | None:
    """Load stage 3's pose simulation (None for other stages), with the base's VAE if poses must be encoded."""
    if config.stage != 3:
        return None
    vae = None
    if config.pose_simulation_unit == "frame":
        vae = load_components(str(base), ["vae"], device=device)["vae"]
    return PoseSimulation(config, vae, folder)


def engine_velocity(engine: Any, config: TrainConfig, alignment_seeds: Sequence[int] | None = None) -> Velocity:
    """Wrap the engine's network as a velocity field that computes in the stage's dtype and returns float32.

    Args:
        engine: a DeepSpeed engine.
        config: the stage.
        alignment_seeds: seeds of the alignment unit's dropout, one per sample, for a training step.
    """
    dtype = torch_dtype(config)
    velocity = steadydancer_velocity(engine, alignment_seeds)

    def in_dtype(noisy_latents: torch.Tensor, timestep: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        return velocity(noisy_latents.to(dtype), timestep, conditions.to(dtype=dtype)).float()

    return in_dtype


def torch_dtype(config: TrainConfig) -> torch.dtype:
    """Return the stage's compute dtype."""
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
