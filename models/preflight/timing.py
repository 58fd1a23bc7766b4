"""Seconds and memory of a video on this machine: a few steps and the decoding are measured, the whole is projected."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..encoders import decode_chunks
from ..guidance import BranchVelocity, in_pose_guidance_interval
from ..sampling import denoise

MIN_STEPS = 4  # two of each kind: the first one also computes what is kept


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of the sampler's steps: of the first of each kind, and the median of those that follow it.

    Attributes:
        first: first step without pose guidance.
        step: a later one.
        first_with_pose: first step with pose guidance, which evaluates a third branch; 0 without any.
        step_with_pose: a later one.
    """

    first: float
    step: float
    first_with_pose: float = 0.0
    step_with_pose: float = 0.0

    def project(self, num_plain: int, num_with_pose: int) -> float:
        """Return the seconds of so many steps: the first of each kind is measured, and the others are alike."""
        plain = self.first + (num_plain - 1) * self.step
        return plain + (self.first_with_pose + (num_with_pose - 1) * self.step_with_pose if num_with_pose else 0.0)


def count_steps(num_steps: int, interval: tuple[float, float], is_guided: bool = True) -> tuple[int, int]:
    """Return how many steps of a video have no pose guidance, and how many have it."""
    with_pose = sum(in_pose_guidance_interval(step / num_steps, interval) for step in range(num_steps))
    return (num_steps - with_pose, with_pose) if is_guided else (num_steps, 0)


def measure_steps(
    velocity: BranchVelocity, noise: Tensor, num_steps: int, is_guided: bool = True
) -> tuple[StepSeconds, Tensor]:
    """Sample a few steps, the first half of them without pose guidance; return their seconds, and the latents.

    Args:
        velocity: of the network.
        noise: [B, 16, T, H, W], on the device that computes.
        num_steps: an even number; below `MIN_STEPS`, the first step of a kind stands for the later ones.
        is_guided: whether text and pose guide; otherwise all steps are of one kind.
    """
    half = num_steps // 2
    guidance: dict[str, Any] = {"guidance_scale": 1.0, "pose_guidance_scale": 0.0}
    if is_guided:
        guidance = {"pose_guidance_interval": ((half - 0.5) / num_steps, 1.0)}
    marks = [now(noise.device)]

    def mark(*_: Any) -> None:
        marks.append(now(noise.device))

    latents = denoise(velocity, noise, num_inference_steps=num_steps, callback=mark, **guidance)
    seconds = [after - before for before, after in pairwise(marks)]
    if not is_guided:
        return StepSeconds(*_first_and_later(seconds)), latents
    return StepSeconds(*_first_and_later(seconds[:half]), *_first_and_later(seconds[half:])), latents


def _first_and_later(seconds: Sequence[float]) -> tuple[float, float]:
    return seconds[0], statistics.median(seconds[1:] or seconds)


def measure_decoding(vae: Any, latents: Tensor) -> float:
    """Return the seconds of decoding the latents [16, T, H, W] of a video, piece by piece."""
    start = now(latents.device)
    for _ in decode_chunks(vae, latents):
        pass
    return now(latents.device) - start


def now(device: torch.device | str) -> float:
    """Return a time in seconds, after all that a GPU was given to compute."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak(device: torch.device | str) -> None:
    """Empty the cache of the GPU, and reset its peak memory."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device | str) -> float | None:
    """Return the peak memory of a GPU since `reset_peak` in GB; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if torch.device(device).type == "cuda" else None
