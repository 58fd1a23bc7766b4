"""Drift of a render's background, where the driving camera stands still."""

from typing import NamedTuple

import cv2
import numpy as np

from ...datasets.arrays import Floats64, Frames, Mask
from ...datasets.video.camera import MIN_CAMERA_TRAVEL, camera_speed
from .person_regions import dilate
from .pixels import background_drift

CAMERA_SIDE = 256  # pixels of the longer side, in which the camera's motion is measured
# A wall without a corner does not tell whether the camera moves, and looks the same if it does. Above this drift of the
# driving video itself, it is no such wall.
MAX_EVEN_DRIFT = 0.01


class Background(NamedTuple):
    """Background drift of a render.

    Attributes:
        drift: mean |I_t − I_0| / 255 outside of people, for t ≥ 1 [F − 1]; NaN where less than 10 % of the picture
            remains.
        mean: over the measured frames; NaN if `reason` is given.
        driving: the same mean of the driving video itself: what a still camera, grain and compression leave. A render
            can be below it.
        camera_travel: how far the driving camera goes, in picture diagonals; NaN if unknown.
        reason: `moving_camera`, `unknown_camera`, `little_background` or `one_frame`; None if `mean` is measured.
    """

    drift: Floats64
    mean: float
    driving: float
    camera_travel: float
    reason: str | None = None


def measure_background(frames: Frames, masks: Mask, driving: Frames, driving_masks: Mask, fps: float) -> Background:
    """Measure the background drift of a render.

    Args:
        frames: the render, uint8 RGB [F, H, W, 3].
        masks: [F, H, W], true on its people; they are dilated here.
        driving: the driving video [G, h, w, 3], in consecutive frames.
        driving_masks: [G, h, w].
        fps: frames per second of the driving video.
    """
    wide = dilate(driving_masks)
    own = _mean(background_drift(driving, wide))
    speed = camera_speed(*_small(driving, wide, fps))
    travel = np.nan if speed is None else speed * len(driving) / fps
    drift = background_drift(frames, dilate(masks))
    mean = _mean(drift)
    if len(frames) < 2:
        reason = "one_frame"
    elif travel >= MIN_CAMERA_TRAVEL:
        reason = "moving_camera"
    elif speed is None and not own <= MAX_EVEN_DRIFT:
        reason = "unknown_camera"
    elif np.isnan(mean):
        reason = "little_background"
    else:
        return Background(drift, mean, own, travel)
    return Background(drift, np.nan, own, travel, reason)


def _small(frames: Frames, masks: Mask, fps: float) -> tuple[np.ndarray, float, Mask]:
    """Return luma [G, h, w], fps and masks at the size in which the camera is followed."""
    scale = min(1.0, CAMERA_SIDE / max(frames.shape[1:3]))
    size = tuple(max(1, round(length * scale)) for length in (frames.shape[2], frames.shape[1]))
    luma = [cv2.resize(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for one in frames]
    people = [cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for mask in masks]
    return np.stack(luma), fps, np.stack(people)


def _mean(drift: Floats64) -> float:
    return float(np.nanmean(drift)) if np.isfinite(drift).any() else np.nan
