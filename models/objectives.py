"""What each training stage minimises.

An objective maps (velocity, batch) to loss terms; key "loss" is what is minimised, the others are for the log.
Stage 1 and stage 3 share `action_supervision` (stage 3 changes the pose, not the loss), stage 2 takes
`condition_decoupled_distillation`. Random draws (noise, sigma, dropouts) come with the batch.
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
from .flow_matching import noisy, shift_sigma, timestep_of, velocity_target


@dataclass(frozen=True)
class TrainingBatch:
    """One step's samples with every random draw already made.

    latents, noise [B,16,T,H,W] float32; conditions (after dropout); null: what stands for no pose and no text;
    sigma [B] in [0,1].
    """

    latents: Tensor
    conditions: Conditions
    null: NullConditions
    noise: Tensor
    sigma: Tensor

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same batch on another device."""
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
        """Velocity [B,16,T,H,W] at `noisy_latents` [B,16,T,H,W] and `timestep` [B] = 1000 σ."""


Objective = Callable[[Velocity, TrainingBatch], dict[str, Tensor]]
LossWeight = Callable[[Tensor], Tensor]


def steadydancer_velocity(model: nn.Module, alignment_seeds: Sequence[int] | None = None) -> Velocity:
    """A `SteadyDancerTransformer3DModel`, or an engine wrapped around one, as a velocity field.

    `alignment_seeds`, one a sample, say what the alignment unit leaves out if it trains with dropout.
    """

    def velocity(noisy_latents: Tensor, timestep: Tensor, conditions: Conditions) -> Tensor:
        told = conditions.model_arguments()
        return model(noisy_latents, timestep, **told, alignment_seeds=alignment_seeds, return_dict=False)[0]

    return velocity


def wan_velocity(base: WanTransformer3DModel) -> Velocity:
    """A plain image-to-video Wan (36 channels, T frames, features of the image only) as a velocity field.

    It never sees the pose, whatever the conditions hold.
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
    """Fidelity, mean |v(x_t, t, c) − (ε − x0)|²: the network learns to move the image as the pose says.

    `weight` maps sigma [B] to the loss weight of each sample [B]. Terms: loss, fidelity.
    """

    def objective(velocity: Velocity, batch: TrainingBatch) -> dict[str, Tensor]:
        latents = noisy(batch.latents, batch.noise, batch.sigma)
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

    The student follows the pose where it is given (v_c against the data) and stays the frozen `teacher` where it is
    not (v_u: null pose, same x_t, t and image). λ -> `distillation_weight`; `unconditional_text` says whether
    v_u keeps the sample's text or takes the empty prompt, in both networks. Terms: loss, fidelity, distillation.

    `decoupled=False` is the paper's ablation "normal distillation", L_distill = mean |v_teacher(x_t, t) −
    v_student(x_t, t, c)|²: the student is held to the teacher, who never sees the pose, where it follows the pose
    itself, so that the two terms pull apart (the paper reports a collapse). `unconditional_text` is then not read.
    """

    def objective(velocity: Velocity, batch: TrainingBatch) -> dict[str, Tensor]:
        unconditional = batch.conditions.without_pose(batch.null)
        if unconditional_text == "empty" and decoupled:
            unconditional = unconditional.without_text(batch.null)
        latents, timestep = noisy(batch.latents, batch.noise, batch.sigma), timestep_of(batch.sigma)
        with torch.no_grad():
            target = teacher(latents, timestep, unconditional)
        predicted = velocity(latents, timestep, batch.conditions)
        held = velocity(latents, timestep, unconditional) if decoupled else predicted
        fidelity = _fidelity(predicted, batch, weight)
        distillation = _weighted_mse(held, target, weight(batch.sigma))
        return {
            "loss": fidelity + distillation_weight * distillation,
            "fidelity": fidelity.detach(),
            "distillation": distillation.detach(),
        }

    return objective


def gaussian_weight(shift: float = 5.0) -> LossWeight:
    """The weight w(t) = exp(−2 ((t − 500) / 1000)²), lowered so that its least value is 0 and scaled to mean 1.

    As DiffSynth-Studio trains Wan: least value and mean are taken over 1000 sigmas spaced evenly before the `shift`,
    so middle times weigh most and pure noise nothing. A unit mean keeps the learning rate's meaning.
    """
    grid = shift_sigma(torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1], shift)
    lowest = _bell(grid).min().item()
    mean = (_bell(grid) - lowest).mean().item()
    return lambda sigma: (_bell(sigma) - lowest) / mean


def simulate_first_latent_motion(pose_latents: Tensor, target: Tensor) -> Tensor:
    """Pose simulation in latent frames: z̃1 = z0 + (z_T* − z0) / T*; all other frames stay.

    pose_latents [B,16,T,H,W]; `target` T* int64 [B] in 1..T-1, where 1 leaves the sample as it is. The first step then
    has the pace of a larger movement, as when a driving video does not start at the reference image's pose.
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
    # Mean per sample first: the mean over samples is then the same however they are spread over ranks.
    squared = (predicted.float() - target.float()).square().flatten(1).mean(1)
    return (weight * squared).mean()
