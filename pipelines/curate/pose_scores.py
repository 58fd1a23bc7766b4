"""What keypoints say about a clip: who is seen, how much of them, how they move.

Lengths are in torsos (neck to mid-hip, median over the clip) in units of the image height, so that a near and a far
dancer score alike. A score whose joints are never seen is None.
"""

import numpy as np
import numpy.typing as npt

from ...datasets.skeleton import PoseSequence

Floats = npt.NDArray[np.floating]

NECK, RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP = 1, 2, 5, 8, 11
MIN_USABLE_JOINTS = 6


def pose_scores(pose: PoseSequence, confidence: Floats, aspect: float, fps: float) -> dict[str, float | None]:
    """Scores of the main person's pose.

    Args:
        pose: F frames, normalised to [0, 1].
        confidence: [F, 18] of the body's joints, 0..1.
        aspect: width / height of the image.
        fps: frames a second.
    """
    visible = pose.body_visible
    body = pose.body.astype(np.float64) * (aspect, 1.0)
    usable = visible[:, NECK] & (visible.sum(axis=1) >= MIN_USABLE_JOINTS)
    out: dict[str, float | None] = {
        "pose_confidence": float(confidence.mean()),
        "missing_pose_ratio": float(1 - usable.mean()),
        "visible_joint_ratio": float(visible.mean()),
        "subject_height": None,
        "in_frame_ratio": None,
        "head_above_hips_ratio": None,
        "pose_jerk": None,
        "pose_motion": None,
    }
    if not visible.any():
        return out
    inside = np.all((pose.body >= 0) & (pose.body <= 1), axis=2)
    out["in_frame_ratio"] = float(inside[visible].mean())
    if not usable.any():
        return out
    heights = [np.ptp(np.clip(pose.body[f, visible[f], 1], 0, 1)) for f in np.flatnonzero(usable)]
    out["subject_height"] = float(np.median(heights))
    hips = visible[:, RIGHT_HIP] & visible[:, LEFT_HIP] & visible[:, NECK]
    if hips.any():
        middle = (pose.body[:, RIGHT_HIP, 1] + pose.body[:, LEFT_HIP, 1]) / 2
        out["head_above_hips_ratio"] = float((pose.body[hips, NECK, 1] < middle[hips]).mean())
    torso = torso_length(body, visible)
    if torso is not None:
        out |= _dynamics(body / torso, visible, fps)
    return out


def torso_length(body: Floats, visible: npt.NDArray[np.bool_]) -> float | None:
    """Median neck–hip distance; 1.3 shoulder widths where the hips are not seen; None where neither is."""
    hips = visible[:, NECK] & visible[:, RIGHT_HIP] & visible[:, LEFT_HIP]
    if hips.any():
        middle = (body[hips, RIGHT_HIP] + body[hips, LEFT_HIP]) / 2
        length = np.median(np.linalg.norm(body[hips, NECK] - middle, axis=1))
    else:
        shoulders = visible[:, RIGHT_SHOULDER] & visible[:, LEFT_SHOULDER]
        if not shoulders.any():
            return None
        length = 1.3 * np.median(
            np.linalg.norm(body[shoulders, RIGHT_SHOULDER] - body[shoulders, LEFT_SHOULDER], axis=1)
        )
    return float(length) if length > 1e-3 else None


def _dynamics(body: Floats, visible: npt.NDArray[np.bool_], fps: float) -> dict[str, float | None]:
    """Mean speed and 95th percentile of the second difference, over joints seen in every frame that is differenced."""
    speed = np.linalg.norm(np.diff(body, axis=0), axis=2)[visible[1:] & visible[:-1]]
    jerk = np.linalg.norm(np.diff(body, n=2, axis=0), axis=2)[visible[2:] & visible[1:-1] & visible[:-2]]
    return {
        "pose_motion": float(speed.mean() * fps) if speed.size else None,
        "pose_jerk": float(np.percentile(jerk, 95)) if jerk.size else None,
    }
