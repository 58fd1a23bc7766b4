"""Tracks of people through a clip with OpenPose's joints, the output of every pose estimator."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...datasets.arrays import Floats32
from ...datasets.skeleton import PoseSequence

_JOINTS = (0, *range(2, 18))  # OpenPose's joints without the neck (index 1)


@dataclass(frozen=True)
class PoseTrack:
    """One person through a clip.

    Attributes:
        pose: keypoints; frames without the person have −1 everywhere and nothing visible.
        confidence: [F, 18] in [0, 1], one per body joint, 0 where the person was not found; None if it was not
            measured, as for supplied keypoints.
    """

    pose: PoseSequence
    confidence: Floats32 | None


def to_openpose(
    points: Floats32, scores: Floats32, joints: Sequence[int], shoulders: Sequence[int]
) -> tuple[Floats32, Floats32]:
    """Convert points [..., K, 2] and scores [..., K] in another order to OpenPose's [..., 18, 2] and [..., 18].

    The neck is the midpoint of the shoulders, with the lower of their scores.

    Args:
        points: keypoints.
        scores: their confidences.
        joints: indices of OpenPose's 17 joints without the neck in the other order.
        shoulders: indices of the two shoulders in the other order.
    """
    body = np.empty((*points.shape[:-2], 18, 2), np.float32)
    confidence = np.empty((*scores.shape[:-1], 18), np.float32)
    body[..., _JOINTS, :], confidence[..., _JOINTS] = points[..., list(joints), :], scores[..., list(joints)]
    body[..., 1, :] = points[..., list(shoulders), :].mean(axis=-2)
    confidence[..., 1] = scores[..., list(shoulders)].min(axis=-1)
    return body, confidence
