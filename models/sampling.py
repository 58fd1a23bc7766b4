"""The sampler: from noise to a video latent, with guidance in every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from .flow_matching import NUM_TRAIN_TIMESTEPS, sigma_grid, unshifted_sigmas
from .guidance import BranchVelocity, evaluate, guide, in_pose_guidance_interval, needed_branches

Solver = Literal["unipc", "dpm++"]
PoseGuidanceUnit = Literal["step", "timestep"]


def released_scheduler(num_inference_steps: int, flow_shift: float, solver: Solver = "unipc") -> Any:
    """Build a solver on the released grid of sigmas; diffusers' own grid differs by up to 4e-3.

    "unipc" is UniPC (order 2, bh2), the released default; "dpm++" is DPM-Solver++ (2M), the release's option.
    """
    options: dict[str, Any] = {
        "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": flow_shift,
    }
    if solver == "unipc":
        scheduler = UniPCMultistepScheduler(**options)
        scheduler.set_timesteps(sigmas=unshifted_sigmas(num_inference_steps))
    elif solver == "dpm++":
        scheduler = DPMSolverMultistepScheduler(**options)
        scheduler.set_timesteps(num_inference_steps)
        # This scheduler accepts no sigmas as argument, but reads sigmas and timesteps by the index of the step.
        scheduler.sigmas = sigma_grid(num_inference_steps, flow_shift)
        scheduler.timesteps = released_scheduler(num_inference_steps, flow_shift).timesteps
    else:
        raise ValueError(f"solver must be 'unipc' or 'dpm++', not {solver!r}")
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
    pose_guidance_unit: PoseGuidanceUnit = "step",
    solver: Solver = "unipc",
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Follow the guided velocity from noise `latents` [B,16,T,H,W] to data; returns float32 of the same shape.

    Args:
        velocity: (latents, timestep [B], branch) -> velocity. Only needed branches are evaluated: 91 evaluations at 40
            steps. If it has a method `many(latents, timestep, branches) -> dict`, that is called once per step instead.
        latents: pure noise.
        num_inference_steps: number of steps.
        flow_shift: shift of the sigmas; 3.0 is released for 480p areas.
        guidance_scale: w_txt of Eq. 7; 1 turns the text guidance off.
        pose_guidance_scale: w_pose of Eq. 8; 0 turns the pose guidance off.
        pose_guidance_interval: the pose guides strictly inside this interval.
        pose_guidance_unit: unit of the interval: "step", the share of the steps, as released; or "timestep", t / 1000,
            as printed.
        solver: "unipc" or "dpm++", see `released_scheduler`.
        callback: called with (step, timestep, latents) after every step.

    Raises:
        FloatingPointError: a velocity is not finite; the message names the step.
    """
    latents = latents.float()
    scheduler = released_scheduler(num_inference_steps, flow_shift, solver)
    for step, timestep in enumerate(scheduler.timesteps):
        guided = guided_velocity(
            velocity, latents, timestep, step, num_inference_steps,
            guidance_scale, pose_guidance_scale, pose_guidance_interval, pose_guidance_unit,
        )  # fmt: skip
        latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        if callback is not None:
            callback(step, timestep, latents)
    return latents


def guided_velocity(
    velocity: BranchVelocity,
    latents: Tensor,
    timestep: Tensor,
    step: int,
    num_inference_steps: int,
    guidance_scale: float,
    pose_guidance_scale: float,
    pose_guidance_interval: tuple[float, float],
    pose_guidance_unit: PoseGuidanceUnit,
) -> Tensor:
    """Evaluate the needed branches at one step and combine them by `guide`: float32 of the shape of `latents`.

    Arguments as in `denoise`; `step` counts from 0.

    Raises:
        FloatingPointError: the velocity is not finite; the message names the step and the branches.
        ValueError: `pose_guidance_unit` is unknown.
    """
    if pose_guidance_unit not in get_args(PoseGuidanceUnit):
        raise ValueError(f"pose_guidance_unit must be 'step' or 'timestep', not {pose_guidance_unit!r}")
    share = step / num_inference_steps if pose_guidance_unit == "step" else timestep.item() / NUM_TRAIN_TIMESTEPS
    pose_guided = in_pose_guidance_interval(share, pose_guidance_interval)
    branches = needed_branches(guidance_scale, pose_guidance_scale, pose_guided)
    times = timestep.to(latents.device).expand(latents.shape[0])
    velocities = {branch: v.float() for branch, v in evaluate(velocity, latents, times, branches).items()}
    guided = guide(velocities, guidance_scale, pose_guidance_scale)
    if not guided.isfinite().all():
        broken = [branch for branch, v in velocities.items() if not v.isfinite().all()]
        raise FloatingPointError(
            f"the velocity at step {step} of {num_inference_steps} (timestep {timestep.item()}) is not finite, in "
            f"{', '.join(broken) or 'the guided sum'}: look for NaN in latents and conditions; float16 overflows "
            "where bfloat16 does not"
        )
    return guided
