"""How near the joints of a render are to the driven ones, frame by frame: PCK, AKD, missing joints, OKS."""

from collections.abc import Sequence

import numpy as np

from ...datasets.arrays import Floats, Floats64
from .pose_points import BODY_14, NECK, Poses, Visible, mean, ratio

PCK_THRESHOLDS = (0.1, 0.2, 0.5)
# COCO's σ in the order of OpenPose's joints; the neck has none and is not scored.
OKS_SIGMAS = np.array(
    [0.026, np.nan, *(0.079, 0.072, 0.062) * 2, *(0.107, 0.087, 0.089) * 2, 0.025, 0.025, 0.035, 0.035]
)
OKS_AREA = 0.53  # area of a person as a share of the box around the joints
OKS_MIN_JOINTS = 3
OKS_THRESHOLDS = np.arange(50, 100, 5) / 100


def accuracy(poses: Poses, torso_px: float) -> dict[str, float]:
    """Compute PCK and AKD of a clip.

    PCK@α = Σ [v_D ∧ v_R ∧ e ≤ αL] / Σ v_D over frames and joints: a joint that is not found is wrong. `pck_detected`
    divides by the joints found instead, and so rewards people who vanish. AKD is the mean of e where both are visible;
    `akd_l1_px` averages (|dx| + |dy|) / 2 within frames, then over frames, as FOMM's code does.
    """
    both, errors = poses.both, poses.errors
    values = {}
    for threshold in PCK_THRESHOLDS:
        name, right = f"{round(100 * threshold)}", (both & (errors <= threshold * torso_px)).sum()
        known = torso_px > 0
        values[f"pck_{name}"] = ratio(right, poses.driven_visible.sum()) if known else np.nan
        values[f"pck_detected_{name}"] = ratio(right, both.sum()) if known else np.nan
    akd_px = mean(errors[both])
    l1 = np.abs(poses.render - poses.driven).mean(-1)
    frames = [mean(distances[found]) for distances, found in zip(l1, both, strict=True)]
    return values | {"akd_px": akd_px, "akd_l1_px": mean(np.array(frames)), "akd_torso": ratio(akd_px, torso_px)}


def missing(poses: Poses) -> dict[str, float]:
    """Compute the shares of joints that are lost or invented.

    `mkr` is the mean over frames with driven joints of lost / driven, `missing_rate` the same pooled over the clip, and
    `extra_rate` the share of the joints that are invisible in the driven track and visible in the render.
    """
    driven, lost = poses.driven_visible, poses.driven_visible & ~poses.render_visible
    frames = driven.any(1)
    return {
        "mkr": mean(lost[frames].sum(1) / driven[frames].sum(1)),
        "missing_rate": ratio(lost.sum(), driven.sum()),
        "extra_rate": ratio((~driven & poses.render_visible).sum(), (~driven).sum()),
    }


def keypoint_similarity(poses: Poses) -> Floats64:
    """Return COCO's object keypoint similarity of each frame [F].

    Σ v_D v_R exp(−e² / (2 A (2σ)²)) / Σ v_D over the 17 joints without the neck, where A is 0.53 × the area of the box
    around the driven visible joints of the frame.

    Returns:
        NaN for a frame with fewer than three driven joints, or a box without area.
    """
    scored = np.delete(np.arange(18), NECK)
    values = np.full(len(poses.driven), np.nan)
    for t, (points, visible) in enumerate(zip(poses.driven, poses.driven_visible, strict=True)):
        box = np.ptp(points[visible], axis=0) if visible.sum() >= OKS_MIN_JOINTS else np.zeros(2)
        area = OKS_AREA * box.prod()
        if area > 0 and (counted := visible[scored]).any():
            near = np.exp(-(poses.errors[t, scored] ** 2) / (2 * area * (2 * OKS_SIGMAS[scored]) ** 2))
            values[t] = near[counted & poses.render_visible[t, scored]].sum() / counted.sum()
    return values


def similarity(poses: Poses) -> dict[str, float | Floats64]:
    """Compute `oks_frames`, its mean `oks`, and `oks_ap`: the mean share of frames at or above .50, .55, …, .95."""
    frames = keypoint_similarity(poses)
    scored = frames[~np.isnan(frames)]
    shares = [(scored >= threshold).mean() for threshold in OKS_THRESHOLDS] if len(scored) else [np.nan]
    return {"oks_frames": frames, "oks": mean(frames), "oks_ap": float(np.mean(shares))}


def box_pck(
    driven: Floats,
    driven_visible: Visible,
    render: Floats,
    render_visible: Visible,
    joints: Sequence[int] = BODY_14,
    threshold: float = 0.1,
    first_frame: int = 1,
) -> float:
    """Return the share of driven joints that the render has within `threshold` × the size of the driven person.

    The size is the longer side of the box around the visible ones of a frame's first 14 driven joints, whichever joints
    are scored. A joint that is not found in the render is wrong. Frames and joints are pooled.

    Args:
        driven: [F, 18, 2] in pixels.
        driven_visible: bool [F, 18].
        render: [F, 18, 2] in pixels.
        render_visible: bool [F, 18].
        joints: those that are scored; `LIMBS` for elbows and wrists.
        threshold: share of the longer side.
        first_frame: index of the first frame that counts; frame 0 is the reference image.

    Returns:
        NaN if no scored joint is visible in the driven track.
    """
    poses = Poses.of(driven, driven_visible, render, render_visible)
    right = driven_joints = 0
    for t in range(first_frame, len(poses.driven)):
        body = poses.driven[t, list(BODY_14)][poses.driven_visible[t, list(BODY_14)]]
        side = np.ptp(body, axis=0).max() if len(body) else 0.0
        scored = np.array(joints)
        right += int((poses.both[t, scored] & (poses.errors[t, scored] <= threshold * side)).sum())
        driven_joints += int(poses.driven_visible[t, scored].sum())
    return ratio(right, driven_joints)
