"""What moves in a clip, and how: the camera apart from the subject, shake, flicker, frozen frames.

Frames are uint8 [F, H, W, 3] RGB at the clip's rate, small: motion of a 128-pixel picture is known to a tenth of a
pixel, a thousandth of its diagonal.
"""

import cv2
import numpy as np
import numpy.typing as npt

from .frame_scores import Frames, grey_change, grey_of

Floats = npt.NDArray[np.floating]

NUM_CORNERS, MIN_CORNERS = 120, 8
MIN_STILL_SHARE = 0.4  # of the corners that must agree on one motion: below it nobody can say what the camera does
FROZEN_CHANGE = 0.1 / 255  # a repeated frame, recompressed; film grain and sensor noise change more


def motion_scores(frames: Frames, fps: float) -> dict[str, float | None]:
    """Camera and subject.

    Returns:
        camera_motion: mean speed of the background, picture diagonals a second; None where it cannot be told.
        camera_shake: mean second difference of the camera's path, diagonals a frame².
        flow_residual: mean change of luma that is left when the camera's motion is undone, 0..1: the subject's.
        flicker: mean second difference of the whole picture's luma, 0..1.
        frozen_ratio: share of frames that repeat the one before.
    """
    luma = grey_of(frames)
    means = luma.mean(axis=(1, 2)) / 255
    change = grey_change(luma)
    out: dict[str, float | None] = {
        "camera_motion": None,
        "camera_shake": None,
        "flow_residual": None,
        "flicker": float(np.abs(np.diff(means, n=2)).mean()) if len(means) > 2 else None,
        "frozen_ratio": float((change < FROZEN_CHANGE).mean()) if len(change) else None,
    }
    steps, agreed, residual = camera_path(luma)
    known = agreed >= MIN_STILL_SHARE
    pairs = known[1:] & known[:-1]
    if pairs.sum() < len(pairs) / 2 or not len(pairs):
        return out
    diagonal = float(np.hypot(*luma.shape[1:]))
    steps = steps / diagonal
    shake = np.linalg.norm(np.diff(steps, axis=0), axis=1)[pairs]
    return out | {
        "camera_motion": float(np.linalg.norm(steps[known], axis=1).mean() * fps),
        "camera_shake": float(shake.mean()),
        "flow_residual": float(residual[known].mean()),
    }


def camera_path(luma: npt.NDArray[np.uint8]) -> tuple[Floats, Floats, Floats]:
    """Motion of the picture's centre in pixels [F − 1, 2], share of corners that agree, and residual change 0..1.

    Corners are followed from frame to frame, and the shift, turn and scaling that most of them agree on is the
    camera's. Where there are too few corners, nothing agrees.
    """
    num_steps, (height, width) = len(luma) - 1, luma.shape[1:]
    steps, agreed, residual = np.zeros((num_steps, 2)), np.zeros(num_steps), np.zeros(num_steps)
    centre = np.array([width / 2, height / 2])
    cv2.setRNGSeed(0)  # of the random samples among which the best agreement is found
    for index in range(num_steps):
        found = _camera_step(luma[index], luma[index + 1])
        if found is None:
            continue
        matrix, agreed[index] = found
        steps[index] = matrix[:, :2] @ centre + matrix[:, 2] - centre
        moved = cv2.warpAffine(luma[index], matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
        residual[index] = cv2.absdiff(moved, luma[index + 1]).mean() / 255
    return steps, agreed, residual


def _camera_step(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> tuple[Floats, float] | None:
    corners = cv2.goodFeaturesToTrack(before, NUM_CORNERS, 0.01, 4)
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
