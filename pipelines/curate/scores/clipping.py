"""Whether the subject is overexposed: a white studio is no fault, a body without shading is."""

import numpy as np

from ....datasets.arrays import Frames
from ....datasets.skeleton import PoseSequence
from .frame_scores import grey_of

CLIPPED = 250  # luma in levels from which nothing is told apart
NUM_FRAMES = 6  # spread over the clip
# Joints that the body lies between: arms, legs, both sides of the trunk and across it, neck to nose.
LIMBS = np.array(
    [(2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13), (2, 8), (5, 11), (2, 11), (5, 8), (1, 0)]
)
ALONG = np.array([0.2, 0.4, 0.6, 0.8])[:, None]  # of a limb; its ends lie on the outline


def subject_clipped_ratio(frames: Frames, pose: PoseSequence) -> float | None:
    """Share of points along the seen limbs that are as bright as can be, 0..1; None where no limb is seen.

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
