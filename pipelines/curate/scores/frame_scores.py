"""Scores of frames: cuts, exposure, sharpness, blur. NumPy and OpenCV, no network.

Frames are uint8 [F, H, W, 3] RGB.
"""

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from ....datasets.arrays import Floats32, Floats64, Frames


def histogram_change(frames: Frames) -> Floats64:
    """Compute half the L1 distance of consecutive frames' HSV histograms: [F − 1], 0 (same) to 1 (no common colour).

    A moving dancer keeps the picture's colours, a cut does not.
    """
    histograms = []
    for hsv in _converted(frames, cv2.COLOR_RGB2HSV):
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


def grey_of(frames: Frames) -> npt.NDArray[np.uint8]:
    """Convert RGB frames to luma (BT.601) in levels: [F, H, W]."""
    return _converted(frames, cv2.COLOR_RGB2GRAY)


def luma_of(frames: Frames) -> Floats32:
    """Convert RGB frames to luma (BT.601): [F, H, W], 0..1."""
    return np.divide(grey_of(frames), np.float32(255), dtype=np.float32)


def _converted(frames: Frames, code: int) -> npt.NDArray[np.uint8]:
    """Convert the colour space of all frames in one call, stacked into one tall picture."""
    height, width = frames.shape[1:3]
    tall = cv2.cvtColor(np.ascontiguousarray(frames).reshape(-1, width, 3), code)
    return np.asarray(tall.reshape(-1, height, width, *tall.shape[2:]), np.uint8)


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


def blur(frames: Frames) -> float:
    """Measure the blur of frames, mean: 0 (sharp) to 1; a short side above 256 pixels is scaled down.

    Crété-Roffet and others, "The blur effect" (2007): a blurred picture hardly changes when blurred again.
    Unlike the Laplacian's variance it does not depend on how much of the picture is plain.
    """
    values = []
    for image in luma_of(frames):
        scale = min(1.0, 256 / min(image.shape))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        for kernel in ((1, 9), (9, 1)):
            steps, left = (_steps(one, kernel) for one in (small, cv2.blur(small, kernel)))
            lost = cv2.subtract(steps, cv2.min(steps, left))
            values.append(1 - cv2.sumElems(lost)[0] / max(cv2.sumElems(steps)[0], 1e-6))
    # Take the blurrier direction: a moving camera blurs one of them.
    return float(np.mean(np.max(np.reshape(values, (-1, 2)), axis=1)))


def _steps(image: Floats32, kernel: tuple[int, int]) -> Floats32:
    """Compute the absolute change from pixel to pixel along the kernel."""
    before, after = (image[:-1], image[1:]) if kernel[1] > 1 else (image[:, :-1], image[:, 1:])
    return np.asarray(cv2.absdiff(before, after), np.float32)
