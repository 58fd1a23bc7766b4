"""Scores of frames: cuts, exposure, sharpness. NumPy and OpenCV, no network. `blur` is in `pipelines/common`.

Frames are uint8 [F, H, W, 3] RGB.
"""

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from ....datasets.arrays import Floats64, Frames
from ...common.blur import blur, converted, grey_of, luma_of

__all__ = [
    "blur",
    "find_cuts",
    "grey_change",
    "grey_of",
    "histogram_change",
    "luma_change",
    "luma_of",
    "technical_scores",
]


def histogram_change(frames: Frames) -> Floats64:
    """Compute half the L1 distance of consecutive frames' HSV histograms: [F − 1], 0 (same) to 1 (no common colour).

    A moving dancer keeps the picture's colours, a cut does not.
    """
    histograms = []
    for hsv in converted(frames, cv2.COLOR_RGB2HSV):
        histogram = cv2.calcHist([hsv], [0, 1, 2], None, [12, 4, 8], [0, 180, 0, 256, 0, 256])
        # Smooth, so that a small drift of brightness across a bin's edge is not a cut.
        histogram = cv2.GaussianBlur(histogram.reshape(12, 32), (3, 3), 0).ravel()
        histograms.append(histogram / histogram.sum())
    return np.abs(np.diff(np.asarray(histograms, dtype=np.float64), axis=0)).sum(axis=1) / 2


def luma_change(frames: Frames) -> Floats64:
    """Compute the mean absolute change of luma between consecutive frames: [F − 1], 0..1."""
    return grey_change(grey_of(frames))


def grey_change(grey: npt.NDArray[np.uint8]) -> Floats64:
    """Compute `luma_change` from luma in levels [F, H, W]."""
    size = 255 * max(1, grey[0].size)
    return np.array([cv2.norm(one, other, cv2.NORM_L1) / size for one, other in pairwise(grey)])


def find_cuts(change: Floats64, threshold: float) -> list[int]:
    """Find the first frames of new shots: the change is large, also relative to its neighbours.

    Args:
        change: `histogram_change` of the whole source, [F − 1].
        threshold: smallest change that can be a cut, 0..1.
    """
    cuts = []
    for i in map(int, np.flatnonzero(change > threshold)):
        neighbours = np.delete(change[max(0, i - 4) : i + 5], min(i, 4))
        # Flashing lights and camera shake change every frame; a cut is isolated.
        if neighbours.size == 0 or change[i] > 2.5 * np.median(neighbours):
            cuts.append(i + 1)
    return cuts


def technical_scores(frames: Frames) -> dict[str, float]:
    """Compute brightness, contrast, colourfulness, sharpness and `technical_quality`, means over frames.

    `technical_quality` is the geometric mean of exposure (1 between 25 % and 85 % of full brightness), contrast (1 from
    0.2 on) and sharpness (1 from 0.01 on), each clipped to 0..1. It is not an aesthetic score.
    """
    luma = luma_of(frames)
    scale = 256 / min(luma.shape[1:])
    sharpness = [
        cv2.meanStdDev(
            cv2.Laplacian(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), cv2.CV_32F)
        )[1].item()
        ** 2
        for image in luma
    ]
    # Colour varies slowly: every fourth pixel suffices.
    opponents = np.stack([_opponents(np.ascontiguousarray(frame[::2, ::2])) for frame in frames])
    spread, centre = np.hypot(opponents[:, 0], opponents[:, 1]).T
    out = {
        "brightness": float(luma.mean()),
        "contrast": float(np.mean([cv2.meanStdDev(image)[1].item() for image in luma])),
        "colourfulness": float((spread + 0.3 * centre).mean() / 255),
        "sharpness": float(np.mean(sharpness)),
    }
    exposure = np.clip(min(out["brightness"] / 0.25, (1 - out["brightness"]) / 0.15), 0, 1)
    parts = (exposure, min(out["contrast"] / 0.2, 1), min(out["sharpness"] / 0.01, 1))
    out["technical_quality"] = float(np.prod(parts) ** (1 / 3))
    return out


def _opponents(frame: npt.NDArray[np.uint8]) -> Floats64:
    """Compute standard deviation and mean of red − green and yellow − blue: [2, 2], in levels."""
    red, green, blue = cv2.split(frame)
    first = cv2.subtract(red, green, dtype=cv2.CV_16S)
    twice_second = cv2.subtract(cv2.add(red, green, dtype=cv2.CV_16S), cv2.add(blue, blue, dtype=cv2.CV_16S))
    out = np.array([[value.item() for value in cv2.meanStdDev(one)[::-1]] for one in (first, twice_second)])
    return out / [[1], [2]]
