"""Luma of frames, and how blurred they are. NumPy and OpenCV, no network.

Frames are uint8 [F, H, W, 3] RGB.
"""

import cv2
import numpy as np
import numpy.typing as npt

from ...datasets.arrays import Floats32, Frames


def grey_of(frames: Frames) -> npt.NDArray[np.uint8]:
    """Convert RGB frames to luma (BT.601) in levels: [F, H, W]."""
    return converted(frames, cv2.COLOR_RGB2GRAY)


def luma_of(frames: Frames) -> Floats32:
    """Convert RGB frames to luma (BT.601): [F, H, W], 0..1."""
    return np.divide(grey_of(frames), np.float32(255), dtype=np.float32)


def converted(frames: Frames, code: int) -> npt.NDArray[np.uint8]:
    """Convert the colour space of all frames in one call, stacked into one tall picture."""
    height, width = frames.shape[1:3]
    tall = cv2.cvtColor(np.ascontiguousarray(frames).reshape(-1, width, 3), code)
    return np.asarray(tall.reshape(-1, height, width, *tall.shape[2:]), np.uint8)


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
