"""What a stage trains and what it minimises: the student, the frozen teacher, the objective."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ...datasets.storage import Location
from ...models.checkpoints.components import load_components
from ...models.checkpoints.transformer_files import Kind
from ...models.conditions import Conditions
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
from .config import NETWORK_FIELDS, TrainConfig
from .data.pose_simulation import PoseSimulation
from .memory_optimizations import checkpoint_blocks, shard_frozen
from .run_folder import checkpoint_folder


def load_student(config: TrainConfig, base: str | None, from_checkpoint: Path | None, device: torch.device) -> Any:
    """The transformer that the stage trains, on `device`, with the weights to train marked.

    Stage 1 begins from the plain Wan at `base`, whose added inputs get zero weights; stages 2 and 3 from a checkpoint.
    The seed decides the weights that begin at random.
    """
    torch.manual_seed(config.seed)
    if from_checkpoint is None:
        from ...models.transformer import SteadyDancerTransformer3DModel

        wan = _load(str(base), "wan", config, device)
        variant = config.model_dump(include=set(NETWORK_FIELDS))
        student = SteadyDancerTransformer3DModel.from_wan(wan, copy=False, **variant)
    else:
        student = _load(checkpoint_folder(from_checkpoint), "steadydancer", config, device)
    _set_alignment_dropout(student, config.alignment_dropout)
    if config.trains_lora:
        add_lora(student, config.lora_rank, config.lora_alpha, config.lora_targets)
    else:
        student.requires_grad_(True)
    if config.gradient_checkpointing:
        student.enable_gradient_checkpointing(checkpoint_blocks(config))
    return student.to(device).train()


def _load(source: str | Location, kind: Kind, config: TrainConfig, device: torch.device) -> Any:
    """A transformer in the stage's dtype. It goes from the file to the device; no worker has it in host memory."""
    return load_components(source, ["transformer"], dtype=torch_dtype(config), device=device, kind=kind)["transformer"]


def _set_alignment_dropout(student: Any, probability: float) -> None:
    """Dropout belongs to the stage, not to the weights: a checkpoint brings the one that it was trained with."""
    student.register_to_config(alignment_dropout=probability)
    if student.pose_modulation.alignment is not None:
        student.pose_modulation.alignment.dropout = probability


def load_objective(config: TrainConfig, base: str | None, device: torch.device) -> Objective:
    """The stage's objective; stage 2's has the frozen base model in it, cut up among the workers if there are several.

    All workers call this, and the objective, together.
    """
    weight: LossWeight = gaussian_weight(config.flow_shift) if config.loss_weighting == "gaussian" else torch.ones_like
    if config.stage != 2:
        return action_supervision(weight)
    teacher = _load(str(base), "wan", config, device).requires_grad_(False)
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
    """Stage 3's change of the pose, with the VAE of the base where poses have to be encoded anew."""
    if config.stage != 3:
        return None
    vae = None
    if config.pose_simulation_unit == "frame":
        vae = load_components(str(base), ["vae"], device=device)["vae"]
    return PoseSimulation(config, vae, folder)


def engine_velocity(engine: Any, config: TrainConfig, alignment_seeds: Sequence[int] | None = None) -> Velocity:
    """The engine's network as a velocity field that computes in the stage's dtype and answers in float32.

    `alignment_seeds`: of the alignment unit's dropout, one a sample, for a training step.
    """
    dtype = torch_dtype(config)
    velocity = steadydancer_velocity(engine, alignment_seeds)

    def in_dtype(noisy_latents: torch.Tensor, timestep: torch.Tensor, conditions: Conditions) -> torch.Tensor:
        return velocity(noisy_latents.to(dtype), timestep, conditions.to(dtype=dtype)).float()

    return in_dtype


def torch_dtype(config: TrainConfig) -> torch.dtype:
    """The stage's compute dtype."""
    return torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
