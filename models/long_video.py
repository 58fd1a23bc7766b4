"""Long videos: overlapping windows of 81 frames that start from related noise and are fused in every step.

The paper specifies only this much. How a later window opens is our choice and a setting: see `window_openings`.

Latent frame 0 is pixel frame 0; latent frame k ≥ 1 is pixel frames 4k−3 to 4k. A window of W latent frames holds one
for its opening and W−1 of motion; without an opening, it holds only the motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .guidance import Branch, BranchVelocity, evaluate
from .pipeline_inputs import InputError

WindowOpening = Literal["reference", "tail", "none"]  # explained in `window_openings`
WINDOW_FRAMES = 81
WINDOW_OVERLAP = 20  # pixel frames: five latent frames to bridge the gap; a quarter of a window's motion is made twice


@dataclass(frozen=True)
class Window:
    """A part of the video that the network sees at once: an opening, and latent frames `start` … `stop` − 1.

    Attributes:
        start: first latent frame of its motion, ≥ 1.
        stop: one after the last.
        weights: float32, the window's share of the fused velocity in each of its `latent_frames`.
        opening: what comes before its motion; the first window opens with the reference in any case.
    """

    start: int
    stop: int
    weights: Tensor
    opening: WindowOpening = "reference"

    @property
    def latent_frames(self) -> Tensor:
        """Indices in the video of the window's latent frames, int64. The first is 0 if it has an opening.

        With `tail`, only the noise of the opening is that of latent frame 0; what it becomes is no frame of the video.
        """
        opening = [] if self.opening == "none" else [0]
        return torch.tensor([*opening, *range(self.start, self.stop)])

    @property
    def pixel_frames(self) -> list[int]:
        """Indices of the frames of its pose clip, 4k + 1: the frame of its opening, then those of its motion.

        The reference is at frame 0. `tail` opens with the frame before the motion. `none` has the same pose clip, since
        a clip begins with a single frame; its latent is left out.
        """
        first = 0 if self.opening == "reference" else 4 * self.start - 4
        return [first, *range(4 * self.start - 3, 4 * self.stop - 3)]


def plan_windows(
    num_frames: int,
    window_frames: int = WINDOW_FRAMES,
    window_overlap: int = WINDOW_OVERLAP,
    window_opening: WindowOpening = "reference",
) -> list[Window]:
    """Plan the fewest windows that cover `num_frames` pixel frames, all of full length and evenly spaced.

    Args:
        num_frames: 4k + 1.
        window_frames: 4k + 1; the network was trained at 81.
        window_overlap: minimum number of pixel frames that neighbours share, a multiple of 4 below `window_frames` − 1.
        window_opening: opening of all windows after the first. It changes neither their places nor their weights.

    Returns:
        Windows whose weights in each latent frame sum to exactly 1. Over the n frames that a window shares with earlier
        ones, its weight w rises linearly from 1 / (n + 1) to n / (n + 1), and theirs are multiplied by 1 − w.
        Latent frame 0 belongs to the first window; the others see it and do not change it.

    Raises:
        InputError: (a ValueError) `window_frames`, `window_overlap` or `window_opening` is invalid.
    """
    if window_opening not in get_args(WindowOpening):
        raise InputError(f"window_opening must be one of {', '.join(get_args(WindowOpening))}, not {window_opening!r}.")
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
    # Multiples of 2⁻²⁰ add up without rounding; the largest weight takes the remainder.
    weights = (weights * 2**20).round() / 2**20
    weights[weights.argmax(dim=0), torch.arange(1 + num_motion)] += 1 - weights.sum(dim=0)
    planned: list[Window] = []
    for k, start in enumerate(starts):
        window = Window(start, start + length, weights[k], window_opening if k else "reference")
        planned.append(replace(window, weights=weights[k, window.latent_frames].float()))
    return planned


def free_noise(noise: Tensor, windows: Sequence[Window], generator: torch.Generator | None) -> Tensor:
    """Extend the noise of the first window to the whole video, as FreeNoise: all windows see the same noise.

    The frames that a window adds take the noise of the frames that it leaves behind, shuffled. So each window holds a
    permutation of the first window's noise, and frames one window apart are not in the same order.

    Args:
        noise: [B,16,W,h,w] of the first window.
        windows: from `plan_windows`.
        generator: draws the permutations; not used with one window.

    Returns:
        [B,16,T,h,w] for the whole video; the first W frames are `noise`.
    """
    for before, window in pairwise(windows):
        num_new = window.start - before.start
        device = "cpu" if generator is None else generator.device
        order = torch.randperm(num_new, generator=generator, device=device).to(noise.device)
        noise = torch.cat([noise, noise[:, :, before.start + order]], dim=2)
    return noise


def draw_noise(
    windows: Sequence[Window],
    height: int,
    width: int,
    generator: torch.Generator | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw the noise of a video of height × width pixels, float32 [1,16,T,h,w]: that of one window, then `free_noise`.

    A CPU generator draws the same numbers for every device.
    """
    shape = (1, 16, len(windows[0].weights), height // 8, width // 8)
    place = torch.device(device)
    return free_noise(randn_tensor(shape, generator, place, torch.float32), windows, generator)


def window_key(branch: Branch, index: int) -> Any:
    """Return the name of a guidance branch in window `index`; in the first window, the branch's own name."""
    return f"{branch} of window {index}" if index else branch


class FusedVelocity:
    """The velocity of a long video: v = Σ_k w_k v_k, the sum of the windows' velocities with linear weights.

    v_k -> `velocity` of window k, w_k -> `Window.weights`. Fusing in every step of `denoise` keeps the windows
    consistent from the first step. Guidance is linear in the branches' velocities, so fusing before or after guiding is
    the same.

    Windows that open with the tail of the one before cannot be fused so: `window_openings.sample_in_turn`.

    Args:
        velocity: (latents, timestep, key) -> velocity of one window, with keys from `window_key`.
        windows: from `plan_windows`.
    """

    def __init__(self, velocity: BranchVelocity, windows: Sequence[Window]) -> None:
        self._velocity = velocity
        self._windows = windows

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        """Return the fused velocity, float32, for the video's latents [B,16,T,H,W]."""
        return self.many(latents, timestep, [branch])[branch]

    def many(self, latents: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> dict[Branch, Tensor]:
        """Return the fused velocity of each branch; the branches of a window are evaluated together (`evaluate`)."""
        fused = {branch: torch.zeros_like(latents, dtype=torch.float32) for branch in branches}
        for index, window in enumerate(self._windows):
            frames = window.latent_frames.to(latents.device)
            weights = window.weights.to(latents.device)[:, None, None]
            keys = [window_key(branch, index) for branch in branches]
            velocities = evaluate(self._velocity, latents[:, :, frames], timestep, keys)
            for branch, key in zip(branches, keys, strict=True):
                fused[branch][:, :, frames] += velocities[key].float() * weights
        return fused
