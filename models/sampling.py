"""From noise to a video latent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from .flow_matching import NUM_TRAIN_TIMESTEPS, unshifted_sigmas
from .guidance import Branch, BranchVelocity, guide, in_pose_guidance_interval, needed_branches


def released_scheduler(num_inference_steps: int, flow_shift: float) -> UniPCMultistepScheduler:
    """UniPC (order 2, bh2) on the released grid of sigmas; diffusers' own grid differs by up to 4e-3."""
    scheduler = UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=flow_shift,
    )
    scheduler.set_timesteps(sigmas=unshifted_sigmas(num_inference_steps))
    return scheduler


@torch.no_grad()
def denoise(
    velocity: BranchVelocity,
    latents: Tensor,
    *,
    num_inference_steps: int,
    flow_shift: float = 5.0,
    guidance_scale: float = 5.0,
    pose_guidance_scale: float = 1.0,
    pose_guidance_interval: tuple[float, float] = (0.1, 0.4),
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Follow the guided velocity from pure noise `latents` [B,16,T,H,W] to data, float32 of the same shape.

    `velocity(latents, timestep [B], branch)` is asked only for the branches that count: 91 times at 40 steps. If it has
    `many(latents, timestep, branches) -> dict`, that is asked instead, once a step. flow_shift 3.0 is released for
    480p areas. `callback(step, timestep, latents)` is called after every step.
    """
    latents = latents.float()
    scheduler = released_scheduler(num_inference_steps, flow_shift)
    many = getattr(velocity, "many", None)
    for step, timestep in enumerate(scheduler.timesteps):
        pose_guided = in_pose_guidance_interval(step, num_inference_steps, pose_guidance_interval)
        branches = needed_branches(guidance_scale, pose_guidance_scale, pose_guided)
        times = timestep.to(latents.device).expand(latents.shape[0])
        velocities: dict[Branch, Tensor]
        if many is None:
            velocities = {branch: velocity(latents, times, branch).float() for branch in branches}
        else:
            velocities = {branch: v.float() for branch, v in many(latents, times, branches).items()}
        guided = guide(velocities, guidance_scale, pose_guidance_scale)
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        if callback is not None:
            callback(step, timestep, latents)
    return latents
