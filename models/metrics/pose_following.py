"""Motion following: all numbers of one person's driven and rendered joints, of several people, and of the start gap."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.arrays import Floats, Floats64
from .assignment import assign
from .pose_accuracy import accuracy, keypoint_similarity, missing, similarity
from .pose_motion import jerk_ratio, jumps, motion
from .pose_points import Poses, Visible, mean, torso_length

WRIST, MIDDLE_KNUCKLE = 0, 9  # of a hand's 21 points
RESOLVED_GAP, RESOLVED_EXCESS = 0.5, 1.3  # in torso lengths; as a ratio of jumps


def pose_metrics(
    driven: Floats, driven_visible: Visible, render: Floats, render_visible: Visible, width: float, height: float
) -> dict[str, Any]:
    """Compute how well a render follows the driven joints.

    Print the same numbers of the driving clip against its own coded copy beside them: they are the estimator's limit.

    Args:
        driven: [F, 18, 2], OpenPose's joints in pixels. Coordinates of invisible joints are not read.
        driven_visible: bool [F, 18].
        render: [F, 18, 2] in pixels of a picture of the same size.
        render_visible: bool [F, 18].
        width: of the picture, in pixels.
        height: of the picture, in pixels.

    Returns:
        Floats, and float64 arrays where stated; NaN for what cannot be measured. `torso_px` and `torso_rule`
        (`torso_length`); `pck_10`, `pck_20`, `pck_50`, `pck_detected_…`, `akd_px`, `akd_l1_px`, `akd_torso`
        (`pose_accuracy.accuracy`); `mkr`, `missing_rate`, `extra_rate` (`missing`); `oks_frames` [F], `oks`, `oks_ap`
        (`similarity`); `motion_ratio`, `velocity_correlation`, `lag`, `lag_correlation`, `curve` [17],
        `mirror_correlation` (`pose_motion.motion`); `jerk_ratio`; `speed` [F − 1], `jump`, `jump_driven`,
        `jump_excess` (`jumps`).

    Raises:
        ValueError: shapes differ, or the picture has no area.
    """
    if not (width > 0 and height > 0):
        raise ValueError(f"A picture of {width} × {height} pixels has no area.")
    poses = Poses.of(driven, driven_visible, render, render_visible)
    torso_px, torso_rule = torso_length(poses.driven, poses.driven_visible)
    return {
        "torso_px": torso_px,
        "torso_rule": torso_rule,
        **accuracy(poses, torso_px),
        **missing(poses),
        **similarity(poses),
        **motion(poses, width),
        "jerk_ratio": jerk_ratio(poses),
        **jumps(poses, torso_px),
    }


def hand_metrics(driven: Floats, driven_visible: Visible, render: Floats, render_visible: Visible) -> dict[str, float]:
    """Compute PCK, AKD and missing joints of one hand; its length is the median ‖wrist − middle knuckle‖.

    Args:
        driven: [F, 21, 2] in pixels.
        driven_visible: bool [F, 21].
        render: [F, 21, 2] in pixels.
        render_visible: bool [F, 21].
    """
    poses = Poses.of(driven, driven_visible, render, render_visible)
    measured = poses.driven_visible[:, [WRIST, MIDDLE_KNUCKLE]].all(1)
    lengths = np.linalg.norm(poses.driven[measured, WRIST] - poses.driven[measured, MIDDLE_KNUCKLE], axis=-1)
    hand_px = float(np.median(lengths)) if measured.any() else np.nan
    return {"hand_px": hand_px, **accuracy(poses, hand_px), **missing(poses)}


def start_gap(
    reference: Floats, reference_visible: Visible, driven: Floats, driven_visible: Visible, torso_px: float
) -> float:
    """Return the mean distance between the reference pose and the first driven pose, in torso lengths.

    Args:
        reference: [18, 2] in pixels.
        reference_visible: bool [18].
        driven: [18, 2] of frame 0, in pixels.
        driven_visible: bool [18].
        torso_px: `torso_length` of the driven clip.

    Returns:
        NaN if no joint is visible in both.
    """
    poses = Poses.of(
        np.asarray(driven)[None],
        np.asarray(driven_visible)[None],
        np.asarray(reference)[None],
        np.asarray(reference_visible)[None],
    )
    return mean(poses.errors[poses.both]) / torso_px


def resolved_share(gaps: Floats, jump_excesses: Floats) -> tuple[float, int]:
    """Return the share of pairs with a start gap of 0.5 or more whose `jump_excess` is at most 1.3, and their number.

    Pairs without either value are left out.
    """
    gaps, excesses = np.asarray(gaps, np.float64), np.asarray(jump_excesses, np.float64)
    counted = (gaps >= RESOLVED_GAP) & ~np.isnan(excesses)
    return mean((excesses[counted] <= RESOLVED_EXCESS).astype(np.float64)), int(counted.sum())


def match_people(
    driven: Floats, driven_visible: Visible, render: Floats, render_visible: Visible
) -> tuple[Floats64, NDArray[np.int64]]:
    """Assign rendered people to driven ones so that the sum of their clip-mean OKS is largest.

    Args:
        driven: [P, F, 18, 2] in pixels.
        driven_visible: bool [P, F, 18].
        render: [Q, F, 18, 2] in pixels.
        render_visible: bool [Q, F, 18].

    Returns:
        The clip-mean OKS [P, Q] (NaN where no frame is scored), and the rendered person of each driven one [P]; −1
        without one.
    """
    matrix = np.array(
        [
            [mean(keypoint_similarity(Poses.of(d, dv, r, rv))) for r, rv in zip(render, render_visible, strict=True)]
            for d, dv in zip(driven, driven_visible, strict=True)
        ]
    ).reshape(len(driven), len(render))
    return matrix, assign(np.nan_to_num(matrix))


def people_metrics(
    driven: Floats,
    driven_visible: Visible,
    render: Floats,
    render_visible: Visible,
    width: float,
    height: float,
) -> dict[str, Any]:
    """Compute `pose_metrics` of several people, after `match_people`; arguments are as for these.

    Returns:
        `oks_matrix` [P, Q]; `assignment` [P]; `people`, the `pose_metrics` of each driven person, where one without a
        rendered person counts as missing in every frame; and `num_extra`, the rendered people that nobody drives.
    """
    matrix, assignment = match_people(driven, driven_visible, render, render_visible)
    people = []
    for person, index in enumerate(assignment):
        missing_track = (np.zeros_like(driven[person]), np.zeros_like(driven_visible[person]))
        track = (render[index], render_visible[index]) if index >= 0 else missing_track
        people.append(pose_metrics(driven[person], driven_visible[person], *track, width, height))
    num_extra = len(render) - int((assignment >= 0).sum())
    return {"oks_matrix": matrix, "assignment": assignment, "people": people, "num_extra": num_extra}
