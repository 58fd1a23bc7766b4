"""The camera's motion in a clip, from corners that most of the picture's background agrees on.

Luma is uint8 [F, H, W], small: motion in a 128-pixel picture is precise to a tenth of a pixel, a thousandth of its
diagonal.
"""

import cv2
import numpy as np
import numpy.typing as npt

from ..arrays import Floats, Floats64, Mask

NUM_CORNERS, MIN_CORNERS = 120, 8
MIN_STILL_SHARE = 0.4  # of the corners that must agree on one motion; below it the camera motion is unknown
MIN_CAMERA_TRAVEL = 0.03  # picture diagonals; a camera that travels less in the whole clip counts as still


def camera_path(luma: npt.NDArray[np.uint8], people: Mask | None = None) -> tuple[Floats, Floats, Floats]:
    """Estimate the camera motion from each frame to the next.

    Corners are tracked from frame to frame; the shift, rotation and scaling that most of them agree on is the camera's.
    With too few corners, `agreed` is 0.

    Args:
        luma: [F, H, W] in levels.
        people: [F, H, W], true where no corners are taken; None: everywhere. A dancer before an even wall has most of
            the corners, and her motion would pass for the camera's.

    Returns:
        matrices: [F − 1, 2, 3], pixels of one frame to those of the next.
        agreed: [F − 1], share of corners that agree.
        residual: [F − 1], mean change of luma after compensating the motion, 0..1.
    """
    num_steps, (height, width) = len(luma) - 1, luma.shape[1:]
    matrices, agreed, residual = np.tile(np.eye(2, 3), (num_steps, 1, 1)), np.zeros(num_steps), np.zeros(num_steps)
    allowed = None if people is None else np.where(people, 0, 255).astype(np.uint8)
    cv2.setRNGSeed(0)  # of RANSAC's random samples
    for index in range(num_steps):
        found = _camera_step(luma[index], luma[index + 1], None if allowed is None else allowed[index])
        if found is None:
            continue
        matrices[index], agreed[index] = found
        moved = cv2.warpAffine(luma[index], matrices[index], (width, height), borderMode=cv2.BORDER_REPLICATE)
        residual[index] = cv2.norm(moved, luma[index + 1], cv2.NORM_L1) / (255 * moved.size)
    return matrices, agreed, residual


def camera_steps(matrices: Floats, height: int, width: int) -> Floats64:
    """Return the motion of the picture's middle by `camera_path`'s matrices, [F − 1, 2] in picture diagonals."""
    centre = np.array([width / 2, height / 2])
    return np.asarray((matrices[:, :, :2] @ centre + matrices[:, :, 2] - centre) / np.hypot(height, width))


def is_mostly_known(known: Mask) -> bool:
    """Check whether at least half of the pairs of neighbouring steps, and at least one, are known.

    Args:
        known: [F − 1], true where `agreed` reaches `MIN_STILL_SHARE`.
    """
    pairs = known[1:] & known[:-1]
    return bool(len(pairs)) and pairs.sum() >= len(pairs) / 2


def mean_camera_speed(steps: Floats, known: Mask, fps: float) -> float:
    """Return the mean length of the known steps [F − 1, 2] in diagonals per second."""
    return float(np.linalg.norm(steps[known], axis=1).mean() * fps)


def camera_speed(luma: npt.NDArray[np.uint8], fps: float, people: Mask | None = None) -> float | None:
    """Measure the mean speed of the background in picture diagonals per second; None if it is unknown.

    Args:
        luma: [F, H, W] in levels.
        fps: frames per second.
        people: see `camera_path`.
    """
    matrices, agreed, _ = camera_path(luma, people)
    known = agreed >= MIN_STILL_SHARE
    return mean_camera_speed(camera_steps(matrices, *luma.shape[1:]), known, fps) if is_mostly_known(known) else None


def _camera_step(
    before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8], allowed: npt.NDArray[np.uint8] | None
) -> tuple[Floats, float] | None:
    corners = cv2.goodFeaturesToTrack(before, NUM_CORNERS, 0.01, 4, mask=allowed)
    if corners is None or len(corners) < MIN_CORNERS:
        return None
    moved, status, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, winSize=(13, 13), maxLevel=3)  # type: ignore[call-overload]
    kept = status[:, 0] == 1
    if kept.sum() < MIN_CORNERS:
        return None
    matrix, inliers = cv2.estimateAffinePartial2D(
        corners[kept], moved[kept], method=cv2.RANSAC, ransacReprojThreshold=0.7
    )
    return None if matrix is None else (np.asarray(matrix), float(inliers.mean()))
