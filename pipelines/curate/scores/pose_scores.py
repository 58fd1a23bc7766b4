"""Scores of keypoints: visibility, size, position and motion of the subject.

Lengths are in torsos (neck to mid-hip, median over the clip) in units of the image height, so that the
distance to the dancer does not matter. A score whose joints are never visible is None.
"""

import numpy as np
import numpy.typing as npt

from ....datasets.arrays import Floats, Mask
from ....datasets.skeleton import PoseSequence

NECK, RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP = 1, 2, 5, 8, 11
ANKLES = [10, 13]
EYES_AND_EARS = [14, 15, 16, 17]
# Each joint's counterpart on the other side of the body.
MIRRORED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]
MIN_USABLE_JOINTS = 6
MIN_PERSON_RATIO = 1 / 3  # smaller people are in the background
MIN_OVERLAP = 0.3  # IoU of body boxes in consecutive frames; below it, another person


def pose_scores(pose: PoseSequence, confidence: Floats | None, aspect: float, fps: float) -> dict[str, float | None]:
    """Score the main person's pose.

    Args:
        pose: F frames, normalised to [0, 1].
        confidence: [F, 18] of the body's joints, 0..1; None: not measured.
        aspect: width / height of the image.
        fps: frames per second.
    """
    visible = pose.body_visible
    body = pose.body.astype(np.float64) * (aspect, 1.0)
    usable = visible[:, NECK] & (visible.sum(axis=1) >= MIN_USABLE_JOINTS)
    out: dict[str, float | None] = {
        "pose_confidence": None if confidence is None else float(confidence.mean()),
        "missing_pose_ratio": float(1 - usable.mean()),
        "visible_joint_ratio": float(visible.mean()),
        "head_ratio": float(visible[:, EYES_AND_EARS].any(axis=1).mean()),
        "subject_height": None,
        "in_frame_ratio": None,
        "head_above_hips_ratio": None,
        "pose_jerk": None,
        "pose_motion": None,
        "pose_gap": _longest_run(~usable),
        "subject_area": None,
        "subject_offset": None,
        "track_continuity": None,
        "torso_tilt_deg": None,
        "rotation_rate": None,
        "airborne_height": None,
    }
    if not visible.any():
        return out
    inside = np.all((pose.body >= 0) & (pose.body <= 1), axis=2)
    out["in_frame_ratio"] = float(inside[visible].mean())
    if not usable.any():
        return out
    low, high = _boxes(pose.body[usable], visible[usable])
    out["subject_height"] = float(np.median(high[:, 1] - low[:, 1]))
    out |= _place(pose.body, visible, usable)
    hips = visible[:, RIGHT_HIP] & visible[:, LEFT_HIP] & visible[:, NECK]
    if hips.any():
        middle = (pose.body[:, RIGHT_HIP, 1] + pose.body[:, LEFT_HIP, 1]) / 2
        out["head_above_hips_ratio"] = float((pose.body[hips, NECK, 1] < middle[hips]).mean())
    torso = torso_length(body, visible)
    if torso is not None:
        out |= _dynamics(*without_flips(body / torso, visible), fps) | _acrobatics(body / torso, visible, fps)
    return out


def torso_length(body: Floats, visible: Mask) -> float | None:
    """Return the median neck–hip distance; 1.3 shoulder widths if hips are never visible; None if neither is."""
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


def _boxes(body: Floats, visible: Mask) -> tuple[Floats, Floats]:
    """Return the corners [F, 2] of the visible joints' boxes inside the picture; each frame has a visible joint."""
    inside, seen = np.clip(body, 0, 1), visible[..., None]
    return inside.min(axis=1, where=seen, initial=np.inf), inside.max(axis=1, where=seen, initial=-np.inf)


def _place(body: Floats, visible: Mask, usable: Mask) -> dict[str, float | None]:
    """Score size and position of the body's box, and the share of consecutive usable frames whose boxes overlap."""
    frames = np.flatnonzero(usable)
    low, high = _boxes(body[usable], visible[usable])
    areas = np.prod(high - low, axis=1)
    common = np.clip(np.minimum(high[1:], high[:-1]) - np.maximum(low[1:], low[:-1]), 0, None).prod(axis=1)
    overlap = common / np.maximum(areas[1:] + areas[:-1] - common, 1e-9)
    neighbours = np.diff(frames) == 1
    return {
        "subject_area": float(np.median(areas)),
        "subject_offset": float(np.median(np.abs((low[:, 0] + high[:, 0]) / 2 - 0.5))),
        "track_continuity": float((overlap[neighbours] >= MIN_OVERLAP).mean()) if neighbours.any() else None,
    }


def _acrobatics(body: Floats, visible: Mask, fps: float) -> dict[str, float | None]:
    """Score the torso's tilt (0 upright, 180 upside down), its rotation, and the height of the feet above the ground.

    The ground is the 90th percentile of the lower foot's position, so that occasional kicks and jumps do not count as
    airborne.
    """
    out: dict[str, float | None] = {}
    seen = visible[:, NECK] & visible[:, RIGHT_HIP] & visible[:, LEFT_HIP]
    upward = body[:, NECK] - (body[:, RIGHT_HIP] + body[:, LEFT_HIP]) / 2
    angle = np.arctan2(upward[:, 0], -upward[:, 1])
    if seen.any():
        out["torso_tilt_deg"] = float(np.degrees(np.percentile(np.abs(angle[seen]), 95)))
    pairs = seen[1:] & seen[:-1]
    if pairs.any():
        turn = (np.diff(angle) + np.pi) % (2 * np.pi) - np.pi
        out["rotation_rate"] = float(np.percentile(np.abs(turn[pairs]), 95) * fps)
    feet = visible[:, ANKLES].all(axis=1)
    if feet.any():
        lower = body[feet][:, ANKLES, 1].max(axis=1)
        out["airborne_height"] = float(np.percentile(np.percentile(lower, 90) - lower, 95))
    return out


def _longest_run(flags: Mask) -> int:
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


def count_tracks(poses: list[PoseSequence]) -> tuple[int, float]:
    """Count people from a third of the main person's height; also return the largest other height over the main's."""
    heights = [_median_height(pose) for pose in poses]
    if heights[0] == 0:
        return len(poses), 0.0
    ratios = [height / heights[0] for height in heights[1:]]
    return 1 + sum(ratio >= MIN_PERSON_RATIO for ratio in ratios), min(1.0, max(ratios, default=0.0))


def _median_height(pose: PoseSequence) -> float:
    seen = np.flatnonzero(pose.body_visible.sum(axis=1) >= 2)
    return float(np.median([np.ptp(pose.body[f, pose.body_visible[f], 1]) for f in seen])) if len(seen) else 0.0


def appearance_change(frames: npt.NDArray[np.uint8], pose: PoseSequence) -> float | None:
    """Return the largest change of the torso's mean colour between consecutive frames, 0..1.

    A turning person changes it gradually; a switch of the track to another person changes it at once. None if the torso
    is not visible in two consecutive frames.

    Args:
        frames: [F, H, W, 3] RGB, those of the pose.
        pose: F frames, normalised to [0, 1].
    """
    corners = pose.body[:, [RIGHT_SHOULDER, LEFT_SHOULDER, LEFT_HIP, RIGHT_HIP]]
    seen = pose.body_visible[:, [RIGHT_SHOULDER, LEFT_SHOULDER]].all(axis=1)
    colours = np.full((len(frames), 3), np.nan)
    size = np.array(frames.shape[2:0:-1])
    for index in np.flatnonzero(seen):
        known = corners[index][pose.body_visible[index][[RIGHT_SHOULDER, LEFT_SHOULDER, LEFT_HIP, RIGHT_HIP]]]
        # If the hips are invisible, use the chest down to half the shoulder width.
        low, high = known.min(axis=0), known.max(axis=0)
        high[1] = max(high[1], low[1] + 0.5 * (high[0] - low[0]) * size[0] / size[1])
        (left, top), (right, bottom) = (np.clip(point, 0, 1) * size for point in (low, high))
        patch = frames[index, int(top) : int(bottom) + 1, int(left) : int(right) + 1]
        if patch.size:
            colours[index] = patch.reshape(-1, 3).mean(axis=0) / 255
    change = np.abs(np.diff(colours, axis=0)).mean(axis=1)
    return float(np.nanmax(change)) if np.isfinite(change).any() else None


def without_flips(body: Floats, visible: Mask) -> tuple[Floats, Mask]:
    """Swap left and right back where an estimator confused them; return joints [F, 18, 2] and their visibility.

    While a person turns, an estimator sometimes confuses front and back: all joints swap sides at once without motion.
    A frame is mirrored if that brings the joints closer to the previous ones.
    """
    body, visible = body.copy(), visible.copy()
    is_near, flips = _may_be_mirrored(body, visible), False
    for frame in range(1, len(body)):
        if not (is_near[frame - 1] or flips):
            continue
        known = visible[frame] & visible[frame][MIRRORED] & visible[frame - 1]
        unflipped, flipped = (
            np.linalg.norm(body[frame][order] - body[frame - 1], axis=1)[known].sum()
            for order in (slice(None), MIRRORED)
        )
        flips = bool(flipped < unflipped)
        if flips:
            body[frame], visible[frame] = body[frame][MIRRORED], visible[frame][MIRRORED]
    return body, visible


def _may_be_mirrored(body: Floats, visible: Mask) -> Mask:
    """Return which frames after the first may be closer to the previous one if mirrored, up to rounding: [F − 1]."""
    known = visible[1:] & visible[1:, MIRRORED] & visible[:-1]
    unflipped, flipped = (
        np.where(known, np.linalg.norm(body[1:, order] - body[:-1], axis=2), 0).sum(axis=1)
        for order in (slice(None), MIRRORED)
    )
    return np.asarray(flipped < unflipped * (1 + 1e-9) + 1e-9)


def _dynamics(body: Floats, visible: Mask, fps: float) -> dict[str, float | None]:
    """Compute mean speed and p95 of the second difference over joints visible in all differenced frames."""
    speed = np.linalg.norm(np.diff(body, axis=0), axis=2)[visible[1:] & visible[:-1]]
    jerk = np.linalg.norm(np.diff(body, n=2, axis=0), axis=2)[visible[2:] & visible[1:-1] & visible[:-2]]
    return {
        "pose_motion": float(speed.mean() * fps) if speed.size else None,
        "pose_jerk": float(np.percentile(jerk, 95)) if jerk.size else None,
    }
