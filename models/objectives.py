"""Training objectives of the three stages.

An objective maps (velocity, batch) to loss terms: "loss" is minimised, the others are logged. Stages 1 and 3 share
`action_supervision` (stage 3 changes the pose, not the loss); stage 2 uses `condition_decoupled_distillation`. The
batch contains all random draws (noise, sigma, dropouts).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from .condition_reconciliation import image_to_video_channels, pad_text
from .conditions import Conditions, NullConditions
from .flow_matching import add_noise, shift_sigma, timestep_of, velocity_target


@dataclass(frozen=True)
class TrainingBatch:
    """Samples of one training step, with all random draws.

    latents, noise [B,16,T,H,W] float32; conditions, after dropout; null: the conditions of no pose and no text;
    sigma [B] in [0,1].
    """

    latents: Tensor
    conditions: Conditions
    null: NullConditions
    noise: Tensor
    sigma: Tensor

    def to(self, device: torch.device | str) -> TrainingBatch:
        """Return the batch on another device."""
        return TrainingBatch(
            self.latents.to(device),
            self.conditions.to(device),
            self.null.to(device),
            self.noise.to(device),
            self.sigma.to(device),
        )


class Velocity(Protocol):
    """A network seen as a velocity field."""

    def __call__(self, noisy_latents: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        """Return the velocity [B,16,T,H,W] at `noisy_latents` [B,16,T,H,W] and `timestep` [B] = 1000 σ."""


Objective = Callable[[Velocity, TrainingBatch], dict[str, Tensor]]
LossWeight = Callable[[Tensor], Tensor]


def steadydancer_velocity(model: nn.Module, alignment_seeds: Sequence[int] | None = None) -> Velocity:
    """Wrap a `SteadyDancerTransformer3DModel`, or an engine around one, as a velocity field.

    `alignment_seeds`, one per sample, determine the dropout of the alignment unit if it trains with dropout.
    """

    def velocity(noisy_latents: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        arguments = conditions.model_arguments()
        return model(noisy_latents, timestep, **arguments, alignment_seeds=alignment_seeds, return_dict=False)[0]

    return velocity


def wan_velocity(base: WanTransformer3DModel) -> Velocity:
    """Wrap a plain image-to-video Wan (36 channels, T frames, features of the image only) as a velocity field.

    It ignores the pose in the conditions.
    """

    def velocity(noisy_latents: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        dtype = base.patch_embedding.weight.dtype
        return base(
            image_to_video_channels(noisy_latents, conditions.image_latents).to(dtype),
            timestep,
            pad_text(conditions.prompt_embeds).to(dtype),
            conditions.image_embeds.to(dtype),
            return_dict=False,
        )[0]

    return velocity


def action_supervision(weight: LossWeight = torch.ones_like) -> Objective:
    """Return the objective of stages 1 and 3: L_fidelity = mean |v(x_t, t, c) − (ε − x0)|².

    v -> `velocity`, x_t -> `noisy` of the batch, t -> `timestep_of(sigma)`, c -> `conditions`, ε -> `noise`, x0 ->
    `latents`. `weight` maps sigma [B] to the loss weight of each sample [B]. Terms: loss, fidelity.
    """

    def objective(velocity: Velocity, batch: TrainingBatch) -> dict[str, Tensor]:
        latents = add_noise(batch.latents, batch.noise, batch.sigma)
        fidelity = _fidelity(velocity(latents, timestep_of(batch.sigma), batch.conditions), batch, weight)
        return {"loss": fidelity, "fidelity": fidelity.detach()}

    return objective


def condition_decoupled_distillation(
    teacher: Velocity,
    distillation_weight: float = 1.0,
    weight: LossWeight = torch.ones_like,
    unconditional_text: Literal["same", "empty"] = "same",
    decoupled: bool = True,
) -> Objective:
    """Eq. 6: L = L_fidelity + λ L_distill, L_distill = mean |v_u,teacher(x_t, t) − v_u,student(x_t, t)|².

    λ -> `distillation_weight`, v_u,teacher -> `teacher`, v_u,student -> the objective's `velocity`; v_u is a velocity
    without pose: null pose, same x_t, t and image. L_fidelity, with the pose, is that of `action_supervision`. So the
    student follows the pose if there is one and stays the frozen teacher if there is none. `unconditional_text` selects
    the text of v_u in both networks: the sample's, or the empty prompt. Terms: loss, fidelity, distillation.

    `decoupled=False` is the paper's ablation "normal distillation", L_distill = mean |v_teacher(x_t, t) −
    v_student(x_t, t, c)|²: the student with pose has to match the teacher, which never sees the pose, so the two terms
    conflict (the paper reports a collapse). `unconditional_text` is not used then.
    """

    def objective(velocity: Velocity, batch: TrainingBatch) -> dict[str, Tensor]:
        unconditional = batch.conditions.without_pose(batch.null)
        if unconditional_text == "empty" and decoupled:
            unconditional = unconditional.without_text(batch.null)
        latents, timestep = add_noise(batch.latents, batch.noise, batch.sigma), timestep_of(batch.sigma)
        with torch.no_grad():
            target = teacher(latents, timestep, unconditional)
        predicted = velocity(latents, timestep, batch.conditions)
        distilled = velocity(latents, timestep, unconditional) if decoupled else predicted
        fidelity = _fidelity(predicted, batch, weight)
        distillation = _weighted_mse(distilled, target, weight(batch.sigma))
        return {
            "loss": fidelity + distillation_weight * distillation,
            "fidelity": fidelity.detach(),
            "distillation": distillation.detach(),
        }

    return objective


def gaussian_weight(shift: float = 5.0) -> LossWeight:
    """Return the weight w(t) = exp(−2 ((t − 500) / 1000)²), lowered to a minimum of 0 and scaled to mean 1.

    As DiffSynth-Studio trains Wan: minimum and mean are taken over 1000 sigmas, evenly spaced before the `shift`, so
    middle times weigh most and pure noise nothing. The unit mean preserves the scale of the learning rate.
    """
    grid = shift_sigma(torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1], shift)
    lowest = _bell(grid).min().item()
    mean = (_bell(grid) - lowest).mean().item()
    return lambda sigma: (_bell(sigma) - lowest) / mean


def simulate_first_latent_motion(pose_latents: Tensor, target: Tensor) -> Tensor:
    """Simulate a start gap in latent frames: z̃1 = z0 + (z_T* − z0) / T*; all other frames are unchanged.

    z -> `pose_latents` [B,16,T,H,W]; T* -> `target` int64 [B] in 1..T-1, where 1 leaves the sample unchanged. The first
    step then has the pace of a larger movement, as if the driving video did not start at the reference image's pose.
    """
    first = pose_latents[:, :, 0]
    aimed = pose_latents[torch.arange(len(pose_latents)), :, target]
    pace = target.to(pose_latents).view(-1, 1, 1, 1)
    moved = torch.where(pace == 1, aimed, first + (aimed - first) / pace)
    return torch.cat([pose_latents[:, :, :1], moved.unsqueeze(2), pose_latents[:, :, 2:]], dim=2)


def _bell(sigma: Tensor) -> Tensor:
    return torch.exp(-2 * (sigma - 0.5) ** 2)


def _fidelity(predicted: Tensor, batch: TrainingBatch, weight: LossWeight) -> Tensor:
    return _weighted_mse(predicted, velocity_target(batch.latents, batch.noise), weight(batch.sigma))


def _weighted_mse(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    # Average per sample first, so that the mean over samples does not depend on their distribution over ranks.
    squared = (predicted.float() - target.float()).square().flatten(1).mean(1)
    return (weight * squared).mean()
