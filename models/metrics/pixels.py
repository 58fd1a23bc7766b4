"""Compare clips pixel by pixel: PSNR against a truth, and the change from frame to frame.

Clips are uint8 RGB [F, H, W, 3]. A value that cannot be measured is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...datasets.arrays import Floats, Floats64, Frames

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

START_STEPS = 8  # a jump at the start of the driven motion is searched among the first eight steps
# A frame that equals its truth has infinite PSNR, which JSON does not hold and which makes every mean infinite. At
# 100 dB one 8-bit sample in 150,000 is one level off.
MAX_PSNR_DB = 100.0
MIN_BACKGROUND = 0.1  # share of the picture; drift of a smaller background is not measured

Masks = NDArray[np.bool_]


def psnr_per_frame(frames: Frames, truth: Frames) -> Floats64:
    """Return 10 log10(1 / mse) in dB of each frame [F], over all pixels and channels in [0, 1]; inf where equal.

    Raises:
        ValueError: the clips differ in shape.
    """
    require_same_shape(frames, truth)
    return np.array([_decibel(np.mean(_difference(*pair) ** 2)) for pair in zip(frames, truth, strict=True)])


def psnr(frames: Frames, truth: Frames, cap_db: float = MAX_PSNR_DB) -> float:
    """Return the mean over frames of the PSNR in dB, where no frame counts for more than `cap_db`.

    A frame that equals its truth counts as `cap_db`. With `cap_db=math.inf` one such frame makes the mean infinite.

    Raises:
        ValueError: the clips differ in shape.
    """
    values = np.minimum(psnr_per_frame(frames, truth), cap_db)
    return float(values.mean()) if len(values) else np.nan


def psnr_of_mean_error(frames: Frames, truth: Frames) -> float:
    """Return the PSNR in dB of the mean squared error of the whole clip, which its worst frames decide.

    It is 1 to 3 dB below `psnr` on clips whose frames differ in quality: never compare the two.
    """
    require_same_shape(frames, truth)
    errors = [np.mean(_difference(*pair) ** 2) for pair in zip(frames, truth, strict=True)]
    return _decibel(np.mean(errors)) if errors else np.nan


def masked_psnr(
    frames: Frames, truth: Frames, masks: Masks, first_frame: int = 1, cap_db: float = MAX_PSNR_DB
) -> float:
    """Return the PSNR in dB of a clip inside masks, without the frames before `first_frame`.

    The squared error is pooled over all masked pixels of all counted frames before the logarithm, so that frames count
    by their masked area. Average over clips, not over pixels of several clips.

    Args:
        frames: the render.
        truth: same shape as `frames`.
        masks: bool [F, H, W]; for two people, the union of their silhouettes.
        first_frame: index of the first frame that counts; frame 0 is the reference image and says nothing about motion.
        cap_db: value of a clip without any error in the masks, and the largest value.

    Returns:
        NaN if no pixel is masked.

    Raises:
        ValueError: clips or masks differ in shape.
    """
    require_same_shape(frames, truth)
    if masks.shape != frames.shape[:3]:
        raise ValueError(f"Masks of shape {masks.shape} do not fit frames of shape {frames.shape}.")
    kept = masks.astype(bool)[first_frame:]
    count = 3 * int(kept.sum())
    if not count:
        return np.nan
    pairs = zip(frames[first_frame:], truth[first_frame:], kept, strict=True)
    return min(_decibel(sum(float((_difference(*pair)[mask] ** 2).sum()) for *pair, mask in pairs) / count), cap_db)


def first_frame_psnr(frames: Frames, reference: Frames) -> float:
    """Return the PSNR in dB of frame 0 against the reference image [H, W, 3]; inf if equal."""
    return float(psnr_per_frame(frames[:1], reference[None])[0])


def autoencoder_ceiling(vae: AutoencoderKLWan, reference: Frames) -> float:
    """Return the PSNR in dB of the reference image [H, W, 3] after encoding and decoding by the autoencoder.

    It is the upper limit of `first_frame_psnr` for any render: compare the two.
    """
    from ..encoders import decode_latents, encode_video

    return first_frame_psnr(decode_latents(vae, encode_video(vae, reference[None])), reference)


def first_frame_gap(mse_render: float, mse_ceiling: float) -> tuple[float, float, float, float]:
    """Compare the error of a render's first frame with that of the ceiling: the autoencoder and the same codec.

    Args:
        mse_render: mean squared error of the render's frame 0 against the reference, in [0, 1].
        mse_ceiling: the same of the reference after the autoencoder's round trip and the codec of the render.

    Returns:
        PSNR of the render and of the ceiling in dB, their difference in dB (at most 0 if the ceiling holds), and the
        share of the render's error that the ceiling explains.
    """
    ours, ceiling = _decibel(mse_render), _decibel(mse_ceiling)
    return ours, ceiling, ours - ceiling, mse_ceiling / mse_render if mse_render > 0 else np.nan


def temporal_flickering(frames: Frames) -> float:
    """Return 1 − mean |f_i − f_{i+1}| / 255 in [0, 1], as VBench: 1 for a still clip; NaN for one frame."""
    steps = [np.abs(step).mean() for step in _steps(frames)]
    return 1 - float(np.mean(steps)) / 255 if steps else np.nan


def motion_smoothness(frames: Frames, interpolated: Floats) -> float:
    """Return 1 − mean |g_i − f_{2i+1}| / 255, as VBench: how well a network predicts every other frame.

    Args:
        frames: [F, H, W, 3]. With an even F, the last frame is not compared.
        interpolated: g [n, 3, H, W] in [0, 1], the middle between frames 2i and 2i + 2; clipped, and truncated (not
            rounded) to 8 bits, as VBench does.

    Returns:
        NaN for fewer than three frames.

    Raises:
        ValueError: the number or the shape of the interpolated frames does not fit.
    """
    dropped = frames[1 : len(frames) - 1 : 2]
    if not len(dropped):
        return np.nan
    # In float32, as VBench computes it before it cuts off.
    images = np.clip(np.asarray(interpolated, np.float32) * 255, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    require_same_shape(images, dropped)
    errors = [np.abs(_difference(*pair)).mean() for pair in zip(images, dropped, strict=True)]
    return 1 - float(np.mean(errors))


def pixel_steps(frames: Frames) -> Floats64:
    """Return the root mean square √mean (f_{t+1} − f_t)² of each step [F − 1], in levels of 0…255."""
    return np.array([np.sqrt((step**2).mean()) for step in _steps(frames)])


def pixel_jump(frames: Frames, num_start_steps: int = START_STEPS) -> float:
    """Return the largest of the first steps of `pixel_steps` over the median of the later ones.

    1 is an even motion; a large value is a jump from the reference into the driven motion. The motion itself need not
    be even: compare the value with that of the truth.

    Returns:
        NaN if the clip has no later steps, or no motion in them.
    """
    steps = pixel_steps(frames)
    if len(steps) <= num_start_steps:
        return np.nan
    median = float(np.median(steps[num_start_steps:]))
    return float(steps[:num_start_steps].max()) / median if median > 0 else np.nan


def background_drift(frames: Frames, masks: Masks) -> Floats64:
    """Return the mean |I_t − I_0| / 255 outside the people of frames 0 and t, for t ≥ 1 [F − 1].

    It is meaningful only where the camera of the driving video stands still.

    Args:
        frames: [F, H, W, 3].
        masks: bool [F, H, W], true on people; dilate them first, by about 2 % of the picture.

    Returns:
        NaN for a frame that leaves less than 10 % of the picture.
    """
    if masks.shape != frames.shape[:3]:
        raise ValueError(f"Masks of shape {masks.shape} do not fit frames of shape {frames.shape}.")
    people = masks.astype(bool)
    values = np.full(max(len(frames) - 1, 0), np.nan)
    for t in range(1, len(frames)):
        background = ~(people[0] | people[t])
        if background.mean() >= MIN_BACKGROUND:
            values[t - 1] = np.abs(_difference(frames[t], frames[0]))[background].mean()
    return values


def require_same_shape(frames: Frames, truth: Frames) -> None:
    """Raise ValueError if the clips differ in shape."""
    if frames.shape != truth.shape:
        raise ValueError(
            f"A clip of shape {frames.shape} cannot be compared with one of shape {truth.shape}: resize or trim one."
        )


def _difference(one: Frames, other: Frames) -> Floats64:
    return (one.astype(np.float64) - other) / 255


def _decibel(mse: float | np.floating) -> float:
    return -10 * float(np.log10(mse)) if mse > 0 else np.inf


def _steps(frames: Frames) -> Iterator[Floats64]:
    """Yield f_{t+1} − f_t of each frame; of unsigned bytes the difference would wrap."""
    return (after.astype(np.float64) - before for before, after in pairwise(frames))
