"""Quality metrics of a render that need no pretrained weights.

Clips are uint8 RGB [F, H, W, 3]. PSNR and SSIM are computed frame by frame on [0, 1] with torchmetrics.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..datasets.arrays import Floats32, Frames

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

START_STEPS = 8  # `start_gap_jump` searches the first eight steps from frame to frame
_BATCH = 8  # frames at once: eleven-tap windows over a whole clip would fill the memory


def psnr(frames: Frames, truth: Frames) -> float:
    """Return the mean over frames of 20 log10(1 / √mse) in dB; infinite if all frames are equal.

    Raises:
        ValueError: the clips differ in shape.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    _check_same_shape(frames, truth)
    values = [
        peak_signal_noise_ratio(*pair, data_range=1.0, reduction="none", dim=(1, 2, 3))
        for pair in _batches(frames, truth)
    ]
    return torch.cat(values).mean().item()


def ssim(frames: Frames, truth: Frames) -> float:
    """Return the mean over frames of the structural similarity (at most 1): Gaussian window 11 × 11, σ 1.5.

    Raises:
        ValueError: the clips differ in shape, or are smaller than the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check_same_shape(frames, truth)
    values = [
        structural_similarity_index_measure(*pair, sigma=1.5, kernel_size=11, data_range=1.0, reduction="none")
        for pair in _batches(frames, truth)
    ]
    return torch.cat([torch.as_tensor(value).reshape(-1) for value in values]).mean().item()


def first_frame_psnr(frames: Frames, reference: Frames) -> float:
    """Return the PSNR in dB of frame 0 against the reference image [H, W, 3]: how well it is preserved."""
    return psnr(frames[:1], reference[None])


def autoencoder_ceiling(vae: AutoencoderKLWan, reference: Frames) -> float:
    """Return the PSNR in dB of the reference image [H, W, 3] after encoding and decoding by the autoencoder.

    It is the upper limit of `first_frame_psnr` for any render: compare the two.
    """
    from .encoders import decode_latents, encode_video

    return psnr(decode_latents(vae, encode_video(vae, reference[None])), reference[None])


def temporal_flickering(frames: Frames) -> float | None:
    """Return (255 − mean |f_i − f_{i+1}|) / 255 in [0, 1], as VBench: 1 for a still clip; None for one frame."""
    if len(frames) < 2:
        return None
    return float((255 - np.mean([np.abs(step).mean() for step in _steps(frames)])) / 255)


def start_gap_jump(frames: Frames) -> float | None:
    """Return the largest of the first eight steps ‖f_{t+1} − f_t‖ over the median of the later ones.

    1 is an even motion; a large value is a jump from the reference into the driven motion. None if the clip has no
    later steps, or no motion in them.
    """
    lengths = np.array([np.sqrt((step**2).mean()) for step in _steps(frames)])
    if len(lengths) <= START_STEPS:
        return None
    median = float(np.median(lengths[START_STEPS:]))
    return float(lengths[:START_STEPS].max()) / median if median > 0 else None


def _steps(frames: Frames) -> Iterator[Floats32]:
    return (after.astype(np.float32) - before for before, after in pairwise(frames))


def _check_same_shape(frames: Frames, truth: Frames) -> None:
    if frames.shape != truth.shape:
        raise ValueError(
            f"A clip of shape {frames.shape} cannot be compared with one of shape {truth.shape}: resize or trim one."
        )


def _batches(frames: Frames, truth: Frames) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pairs = [(frames[start : start + _BATCH], truth[start : start + _BATCH]) for start in range(0, len(frames), _BATCH)]
    return [(_to_unit(ours), _to_unit(theirs)) for ours, theirs in pairs]


def _to_unit(frames: Frames) -> torch.Tensor:
    return torch.from_numpy(frames.astype(np.float32) / 255).permute(0, 3, 1, 2)
