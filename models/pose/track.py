"""What every pose estimator gives: persons through a clip, in OpenPose's numbering."""

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
        confidence: [F, 18] in [0, 1], one per body joint, 0 where the person was not found; None where nobody measured
            it, as of keypoints that were supplied.
    """

    pose: PoseSequence
    confidence: Floats32 | None


def to_openpose(
    points: Floats32, scores: Floats32, joints: Sequence[int], shoulders: Sequence[int]
) -> tuple[Floats32, Floats32]:
    """[..., 18, 2] and [..., 18] of [..., K, 2] and [..., K] in another numbering.

    The neck is the middle of the shoulders and as sure as the less sure of them.

    Args:
        points: keypoints.
        scores: their confidences.
        joints: the 17 joints without the neck, in OpenPose's order, in the other numbering.
        shoulders: the two shoulders in the other numbering.
    """
    body = np.empty((*points.shape[:-2], 18, 2), np.float32)
    confidence = np.empty((*scores.shape[:-1], 18), np.float32)
    body[..., _JOINTS, :], confidence[..., _JOINTS] = points[..., list(joints), :], scores[..., list(joints)]
    body[..., 1, :] = points[..., list(shoulders), :].mean(axis=-2)
    confidence[..., 1] = scores[..., list(shoulders)].min(axis=-1)
    return body, confidence
