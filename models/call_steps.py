"""The middle and the end of a call of the pipeline: sampling that can be watched and stopped, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers import AutoencoderKLWan
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from .encoders import decode_chunks, to_frames
from .sampling import denoise


@dataclass
class SteadyDancerOutput(BaseOutput):
    """`frames[0]` is the video.

    Attributes:
        frames: [1, F, H, W, 3], float32 in [0, 1] for "np" and bytes for "uint8"; a list of one list of F images for
            "pil"; normalised latents [1, 16, T, h, w] for "latent".
    """

    frames: Any


class _Interrupted(Exception):
    """Carries the latents out of the sampling loop."""

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.latents = latents


def sample(
    pipeline: Any,
    velocity: Any,
    noise: Tensor,
    callback: Callable[[int, Tensor, Tensor], None] | None,
    **settings: Any,
) -> Tensor:
    """`denoise` with the pipeline's progress bar, and only until its `interrupt` is set.

    Args:
        pipeline: a `SteadyDancerPipeline`.
        velocity: as `denoise` asks it.
        noise: [1, 16, T, h, w].
        callback: called with (step, timestep, latents) after every step; it may set the pipeline's `_interrupt`.
        settings: further arguments of `denoise`.
    """
    with pipeline.progress_bar(total=settings["num_inference_steps"]) as progress:

        def after_step(step: int, timestep: Tensor, latents: Tensor) -> None:
            progress.update()
            if callback is not None:
                callback(step, timestep, latents)
            if pipeline.interrupt:
                raise _Interrupted(latents)

        try:
            return denoise(velocity, noise, callback=after_step, **settings)
        except _Interrupted as interrupted:
            return interrupted.latents


def decode_as(output_type: str, vae: AutoencoderKLWan, latents: Tensor) -> Any:
    """Frames of latents [1, 16, T, h, w] in the kind that `SteadyDancerOutput` tells of."""
    if output_type == "latent":
        return latents
    pieces = decode_chunks(vae, latents[0])
    if output_type == "np":
        return np.concatenate([((pixels + 1) / 2).permute(1, 2, 3, 0).cpu().numpy() for pixels in pieces])[None]
    frames = np.concatenate([to_frames(pixels) for pixels in pieces])
    return frames[None] if output_type == "uint8" else [[Image.fromarray(frame) for frame in frames]]
