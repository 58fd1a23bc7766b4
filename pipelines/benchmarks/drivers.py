"""What makes a driving video hard: motion, drastic changes of pose, occlusion, blur."""

from __future__ import annotations

import numpy as np

from ...datasets.arrays import Frames
from ...datasets.skeleton import PoseSequence
from ...models.metrics import torso_length
from ...models.metrics.pose_motion import speed
from ..common.blur import blur
from .misalignment import MIN_BOX_PX, Box, crop

NECK = 1
SPEED_HZ = 8  # at a video's own rate, the noise of an estimator doubles the speed of a calm person
CHANGE_S = 0.5
MIN_JOINT_SHARE = 0.1  # of the frames: a joint seen in fewer is an estimator's slip, not a part of the video


def motion_scores(pose: PoseSequence, aspect: float, fps: float) -> dict[str, float]:
    """Measure a driving pose; NaN: not measured.

    Args:
        pose: [F] frames.
        aspect: width / height of the video.
        fps: frames per second.

    Returns:
        `motion`: mean speed of the joints in torso lengths per second, over steps of an eighth of a second.
        `pose_change`: 95th percentile of the mean
        distance that joints move within half a second relative to the neck, in torso lengths. `occlusion`: share of
        joints that are not visible, of those that the video shows.
    """
    points, seen = pose.body * np.array([aspect, 1.0]), pose.body_visible
    torso, _ = torso_length(points, seen)
    stride = max(1, round(fps / SPEED_HZ))
    speeds = speed(np.where(seen[..., None], points, 0.0)[::stride], seen[::stride])
    shown = seen.mean(axis=0) >= MIN_JOINT_SHARE
    return {
        "motion": float(np.nanmean(speeds) * fps / stride / torso) if np.isfinite(speeds).any() else np.nan,
        "pose_change": _pose_change(points, seen, max(1, round(CHANGE_S * fps))) / torso,
        "occlusion": float(1 - seen[:, shown].mean()) if shown.any() else np.nan,
    }


def _pose_change(points: np.ndarray, seen: np.ndarray, step: int) -> float:
    """Return the 95th percentile over time of the mean distance of joints relative to the neck, `step` frames apart."""
    relative = points - points[:, NECK : NECK + 1]
    both = seen[step:] & seen[:-step] & (seen[step:, NECK] & seen[:-step, NECK])[:, None]
    counts = both.sum(axis=1)
    if not counts.any():
        return np.nan
    moved = np.where(both, np.linalg.norm(relative[step:] - relative[:-step], axis=-1), 0).sum(axis=1)
    return float(np.percentile(moved[counts > 0] / counts[counts > 0], 95))


def person_blur(frames: Frames, boxes: list[Box | None]) -> float:
    """Return the mean blur, 0 sharp to 1, of a person's box in frames [F, H, W, 3]; NaN without a box."""
    patches = [crop(image, box) for image, box in zip(frames, boxes, strict=True) if box is not None]
    values = [blur(patch[None]) for patch in patches if min(patch.shape[:2]) >= MIN_BOX_PX]
    return float(np.mean(values)) if values else np.nan
