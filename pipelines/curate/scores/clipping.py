"""Overexposure of the subject: a white studio is fine, a body without shading is not."""

import numpy as np

from ....datasets.arrays import Frames
from ....datasets.skeleton import PoseSequence
from .frame_scores import grey_of

CLIPPED = 250  # luma in levels from which no detail remains
NUM_FRAMES = 6  # spread over the clip
# Pairs of joints with body between them: arms, legs, the sides and diagonals of the trunk, neck to nose.
LIMBS = np.array(
    [(2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13), (2, 8), (5, 11), (2, 11), (5, 8), (1, 0)]
)
ALONG = np.array([0.2, 0.4, 0.6, 0.8])[:, None]  # positions on a limb; its ends may be on the outline


def subject_clipped_ratio(frames: Frames, pose: PoseSequence) -> float | None:
    """Return the share of points on visible limbs that are overexposed, 0..1; None if no limb is visible.

    Args:
        frames: [F, H, W, 3] RGB, those of the pose.
        pose: F frames, normalised to [0, 1].
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(int))
    height, width = frames.shape[1:3]
    total = clipped = 0
    for index in chosen:
        seen = LIMBS[pose.body_visible[index][LIMBS].all(axis=1)]
        first, last = (pose.body[index, seen[:, end]][:, None] for end in (0, 1))
        points = (first + (last - first) * ALONG).reshape(-1, 2)
        points = points[((points >= 0) & (points < 1)).all(axis=1)]
        if len(points) == 0:
            continue
        x, y = (points * (width, height)).astype(int).T
        luma = grey_of(frames[index][y, x][None, None])
        total, clipped = total + luma.size, clipped + int((luma >= CLIPPED).sum())
    return clipped / total if total else None
