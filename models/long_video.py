"""Videos of any length: windows of 81 frames that overlap, begin with related noise and are fused in every step.

The paper says no more than that. What stands in a later window's first frame is ours: **every window is a whole clip as
the network was trained on them.** It opens with latent frame 0 of the video, the reference image, and goes on with
`window_frames` − 1 frames of motion from wherever it stands. So its image condition is the trained one (the image under
mask 1, then grey), its first latent frame is one picture and all others are four, its pose clip opens with the first
pose, and the identity is anchored in the image anew in every window. What the network must bridge is the gap between
the image and a pose that does not follow from it, for which its third training stage prepares it; it does so in frames
where the window before it still outweighs it. Under a mask of zeros, the alternative, it was never trained.

Latent frame 0 is pixel frame 0; latent frame k ≥ 1 is pixel frames 4k−3 to 4k. A window of W latent frames holds
latent frame 0 and W−1 latent frames of motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .guidance import Branch, BranchVelocity
from .pipeline_inputs import InputError

WINDOW_FRAMES = 81
WINDOW_OVERLAP = 20  # pixel frames: five latent ones to bridge the gap; a quarter of a window's motion is made twice


@dataclass(frozen=True)
class Window:
    """A stretch of the video that the network sees at once: latent frames 0 and `start` … `stop` − 1.

    Attributes:
        start: first latent frame of its motion, ≥ 1.
        stop: one after the last.
        weights: float32 [1 + stop − start], its share in the fused velocity of each of its latent frames.
    """

    start: int
    stop: int
    weights: Tensor

    @property
    def latent_frames(self) -> Tensor:
        """Indices of its latent frames, int64."""
        return torch.tensor([0, *range(self.start, self.stop)])

    @property
    def pixel_frames(self) -> list[int]:
        """Indices of its pixel frames: 0, then four for each latent frame of motion."""
        return [0, *range(4 * self.start - 3, 4 * self.stop - 3)]


def plan_windows(
    num_frames: int, window_frames: int = WINDOW_FRAMES, window_overlap: int = WINDOW_OVERLAP
) -> list[Window]:
    """Windows over `num_frames` pixel frames, as few as will do, all of full length and evenly spaced.

    Args:
        num_frames: 4k + 1.
        window_frames: 4k + 1; the network was trained at 81.
        window_overlap: pixel frames that neighbours share at least, a multiple of 4 below `window_frames` − 1.

    Returns:
        Windows whose weights in each latent frame sum to 1 exactly. Where a window overlaps those before it, it rises
        linearly from 1 / (n + 1) to n / (n + 1) over the n shared frames, and what they had falls by the same factor.
        Latent frame 0 belongs to the first window alone: in the others it is seen and not moved.

    Raises:
        InputError: (a ValueError) the sizes are not as they must be.
    """
    if window_frames % 4 != 1 or window_frames < 5:
        raise InputError(f"window_frames must be 4k + 1 and at least 5, such as 81, not {window_frames}.")
    if window_overlap % 4 or not 0 <= window_overlap < window_frames - 1:
        raise InputError(
            f"window_overlap must be a multiple of 4 from 0 to below {window_frames - 1}, not {window_overlap}."
        )
    num_motion, length, overlap = num_frames // 4, min(window_frames, num_frames) // 4, window_overlap // 4
    spare = num_motion - length
    num_windows = 1 + (-(-spare // (length - overlap)) if spare else 0)
    starts = [1 + round(k * spare / max(1, num_windows - 1)) for k in range(num_windows)]
    weights = torch.zeros(num_windows, 1 + num_motion, dtype=torch.float64)
    weights[0, : 1 + length] = 1
    for k, (before, start) in enumerate(pairwise(starts), 1):
        shared = before + length - start
        rising = torch.arange(1, shared + 1, dtype=torch.float64) / (shared + 1)
        weights[:k, start : start + shared] *= 1 - rising
        weights[k, start : start + length] = 1
        weights[k, start : start + shared] = rising
    # Multiples of 2⁻²⁰ add up without rounding; what cutting to them leaves over goes to the largest share.
    weights = (weights * 2**20).round() / 2**20
    weights[weights.argmax(dim=0), torch.arange(1 + num_motion)] += 1 - weights.sum(dim=0)
    return [
        Window(start, start + length, weights[k, [0, *range(start, start + length)]].float())
        for k, start in enumerate(starts)
    ]


def free_noise(noise: Tensor, windows: Sequence[Window], generator: torch.Generator | None) -> Tensor:
    """FreeNoise: the noise of the first window, carried on over the others so that all of them see the same noise.

    The frames that a window adds to the one before take the noise of those that it leaves behind, shuffled. So each
    window holds a permutation of the first one's noise, and frames a window apart are not alike in order.

    Args:
        noise: [B,16,W,h,w] of the first window.
        windows: as planned.
        generator: shuffles; with one window it is not asked.

    Returns:
        [B,16,T,h,w] for the whole video; the first W frames are `noise`.
    """
    for before, window in pairwise(windows):
        num_new = window.start - before.start
        device = "cpu" if generator is None else generator.device
        order = torch.randperm(num_new, generator=generator, device=device).to(noise.device)
        noise = torch.cat([noise, noise[:, :, before.start + order]], dim=2)
    return noise


def window_key(branch: Branch, index: int) -> Any:
    """What a branch of guidance is called in window `index`; the first one's keep their names."""
    return f"{branch} of window {index}" if index else branch


class FusedVelocity:
    """The velocity of a long video: each window's own, v_k, fused by linear weights, v = Σ_k w_k v_k.

    It is asked in every step of `denoise`, so that the windows grow together from the first step on. Guidance is linear
    in the branches' velocities, so that fusing before guiding is the same as after.

    Args:
        velocity: (latents, timestep, key) -> velocity of one window, with keys of `window_key`.
        windows: as planned.
    """

    def __init__(self, velocity: BranchVelocity, windows: Sequence[Window]) -> None:
        self._velocity = velocity
        self._windows = windows

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        """The video's latents [B,16,T,H,W] -> float32 of the same shape."""
        fused = torch.zeros_like(latents, dtype=torch.float32)
        for index, window in enumerate(self._windows):
            frames = window.latent_frames.to(latents.device)
            velocity = self._velocity(latents[:, :, frames], timestep, window_key(branch, index)).float()
            fused[:, :, frames] += velocity * window.weights.to(latents.device)[:, None, None]
        return fused
