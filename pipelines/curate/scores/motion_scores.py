"""Motion scores of a clip: camera motion, subject motion, shake, flicker, frozen frames.

Frames are uint8 [F, H, W, 3] RGB at the clip's rate, small: motion in a 128-pixel picture is precise to a tenth of a
pixel, a thousandth of its diagonal.
"""

from functools import reduce

import cv2
import numpy as np
import numpy.typing as npt

from ....datasets.arrays import Floats, Frames, Mask
from ....datasets.video.camera import (
    MIN_STILL_SHARE,
    camera_path,
    camera_steps,
    is_mostly_known,
    mean_camera_speed,
)
from .frame_scores import grey_change, grey_of
from .noise import noise

FROZEN_CHANGE = 0.1 / 255  # a repeated frame, recompressed; film grain and sensor noise change more

APART_S, EVERY_S = (
    0.5,
    0.25,
)  # gap between compared frames, in which a standing person sways; interval between comparisons
SOFT, OWN_CHANGE = (5, 5), 5  # pixels of a blur that removes scaling artefacts of fine texture; grey levels after it
LEAST_CONTRAST = 10  # grey levels, standard deviation: below it a picture shows no motion
NEXT_TO, AROUND = (
    np.ones((3, 3), np.uint8),
    np.ones((7, 7), np.uint8),
)  # pixels; a margin to the unknown outside of the picture
OWN_MOTION_PERCENTILE = 90  # over the clip: includes people who start to move late


def motion_scores(frames: Frames, fps: float) -> dict[str, float | None]:
    """Score the motion of camera and subject.

    Returns:
        camera_motion: mean speed of the background, picture diagonals per second; None if unknown.
        camera_shake: mean second difference of the camera path, diagonals per frame².
        flow_residual: mean change of luma after compensating the camera motion, 0..1: the subject's motion.
        own_motion_ratio: see `own_motion_ratio`.
        flicker: mean second difference of the whole picture's luma, 0..1.
        frozen_ratio: share of frames that repeat the previous one.
        noise: see `noise.noise`.
    """
    luma = grey_of(frames)
    means = np.array([cv2.mean(one)[0] for one in luma]) / 255
    change = grey_change(luma)
    out: dict[str, float | None] = {
        "camera_motion": None,
        "camera_shake": None,
        "flow_residual": None,
        "own_motion_ratio": None,
        "noise": None,
        "flicker": float(np.abs(np.diff(means, n=2)).mean()) if len(means) > 2 else None,
        "frozen_ratio": float((change < FROZEN_CHANGE).mean()) if len(change) else None,
    }
    matrices, agreed, residual = camera_path(luma)
    known = agreed >= MIN_STILL_SHARE
    out["own_motion_ratio"] = own_motion_ratio(luma, matrices, known, fps)
    out["noise"] = noise(luma, matrices, known)
    if not is_mostly_known(known):
        return out
    steps = camera_steps(matrices, *luma.shape[1:])
    shake = np.linalg.norm(np.diff(steps, axis=0), axis=1)[known[1:] & known[:-1]]
    return out | {
        "camera_motion": mean_camera_speed(steps, known, fps),
        "camera_shake": float(shake.mean()),
        "flow_residual": float(residual[known].mean()),
    }


def own_motion_ratio(luma: npt.NDArray[np.uint8], matrices: Floats, known: Mask, fps: float) -> float | None:
    """Measure the share of the picture that changes within half a second independently of the camera, 0..1.

    It is near 0 for a zoomed, panned or hand-held photo, and above it for a person who stands and breathes. A frame is
    warped along the camera path; a pixel has moved if it differs from all adjacent warped pixels by more than noise.
    Returns the 90th percentile over the clip; None if the camera motion is not known for half a second or the picture
    has hardly any contrast.

    Args:
        luma: [F, H, W] in levels.
        matrices: [F − 1, 2, 3] of `camera_path`.
        known: [F − 1], where they are reliable.
        fps: frames per second.
    """
    if luma[len(luma) // 2].std() < LEAST_CONTRAST:
        return None
    gap, step = max(1, round(APART_S * fps)), max(1, round(EVERY_S * fps))
    starts = [k for k in range(0, len(luma) - gap, step) if known[k : k + gap].all()]
    soft = {k: cv2.blur(luma[k], SOFT) for k in {*starts, *(k + gap for k in starts)}}
    square = np.tile(np.eye(3), (len(matrices), 1, 1))
    square[:, :2] = matrices
    shares = []
    for k in starts:
        path = reduce(lambda before, after: after @ before, square[k : k + gap])
        shares.append(_changed_share(soft[k], soft[k + gap], path[:2]))
    return float(np.percentile(shares, OWN_MOTION_PERCENTILE)) if shares else None


def _changed_share(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8], matrix: Floats) -> float:
    size = before.shape[::-1]
    moved = cv2.warpAffine(before, matrix, size)
    whole = cv2.warpAffine(np.full_like(before, 255), matrix, size)
    seen = cv2.erode(cv2.threshold(whole, 254, 255, cv2.THRESH_BINARY)[1], AROUND, borderValue=0)
    brighter, darker = cv2.subtract(after, cv2.dilate(moved, NEXT_TO)), cv2.subtract(cv2.erode(moved, NEXT_TO), after)
    changed = cv2.threshold(cv2.max(brighter, darker), OWN_CHANGE, 255, cv2.THRESH_BINARY)[1]
    return cv2.countNonZero(cv2.bitwise_and(changed, seen)) / max(1, cv2.countNonZero(seen))
