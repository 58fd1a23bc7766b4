"""Pose following: how well a render follows the driven joints, beside the estimator's limit, and the start gap.

In clips whose driving video and its own coded copy correlate by less than .5, the estimator sees no motion: all metrics
of motion are null, `not_measurable`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....datasets.skeleton import PoseSequence
from ....models.metrics import START_STEPS, hand_metrics, start_gap
from ....models.metrics.pose_following import RESOLVED_EXCESS, RESOLVED_GAP
from ....models.metrics.pose_motion import hides_start
from ..catalogue import CEILINGS, METRICS
from ..judges import Judges
from ..pose_tracks import (
    Driven,
    compare_people,
    driven_people,
    estimator_name,
    reference_people,
    rendered_people,
    source_name,
)
from ..scores import NotMeasured, Outcome, Score, score
from ..video import Video

_UNSEEN = ("no_pose", "no joint is seen in both")
_NO_TORSO = ("no_torso", "the driven motion shows neither neck and hip nor both shoulders, which give the scale")
_STILL = ("no_motion", "no joint that the driving clip moves is seen in two frames in a row of both")
_SHORT_JUMP = ("too_short", f"more than {START_STEPS} steps are needed")
_HIDDEN_JUMP = ("no_pose", f"a joint is seen to move in fewer than half of the first {START_STEPS} steps of the render")
_NO_JUMP = ("no_motion", f"no joint is seen to move both in the first {START_STEPS} steps and after them")
# Metric → why it is null if it has no value, where joints are seen in both.
_WHY = {
    "motion_ratio": _STILL,
    "velocity_correlation": _STILL,
    "mirror_correlation": _STILL,
    "lag": ("uncorrelated", "no lag of up to 8 frames correlates by .5 or more"),
    "lag_correlation": ("no_motion", "the render stands still"),
    "jump": _NO_JUMP,
    "jump_driven": _NO_JUMP,
    "jump_excess": _NO_JUMP,
    "jerk_ratio": ("too_short", "no joint that moves is seen in four frames in a row of both"),
    "oks": ("no_pose", "no frame has three driven joints that span a box"),
    "oks_ap": ("no_pose", "no frame has three driven joints that span a box"),
    "extra_rate": ("all_driven", "every joint is driven in every frame"),
    "torso_px": _NO_TORSO,
}
_OF_DRIVEN = ("extra_rate", "torso_px", "jump_driven", "oks", "oks_ap")  # also null where no joint is seen in both


def measure(video: Video, judges: Judges, pose_model: str) -> dict[str, Outcome]:
    """Measure how a video follows its driving clip.

    Args:
        video: the video.
        judges: has the estimator.
        pose_model: of the configuration.

    Raises:
        NotMeasured: there is no driving clip, no estimator, or nobody is found in the clip.
    """
    name = estimator_name(video, pose_model)
    driven = driven_people(video, name, judges)
    count = len(driven.people[0])
    shown = [person[np.arange(count)] for person in rendered_people(video, name, judges)]
    height, width = video.size
    compared = compare_people(driven.people, shown, width, height)
    main = _without_hidden_jump(compared["people"][0])
    notes = [*([f"the first {count} frames"] if count < len(video.frames) else []), *filter(None, [driven.note])]
    detail = "; ".join([source_name(driven.source, judges), *notes])
    values: dict[str, Outcome] = {key: _plain(key, main, detail, count) for key in main if key in METRICS}
    values["mirrored"] = _mirrored(main, detail)
    values |= _ceilings(driven) | _people(driven, compared) | _hands(driven, compared, width, height)
    values |= _start_gap(video, driven, main, judges)
    return values if driven.is_measurable else values | _not_measurable(driven)


def _without_hidden_jump(main: Mapping[str, Any]) -> Mapping[str, Any]:
    """Remove a jump that is the largest of the few steps that the estimator saw: the render may jump in the others."""
    return {**main, "jump": math.nan, "jump_excess": math.nan} if hides_start(main) else main


def _plain(name: str, values: Mapping[str, Any], detail: str, count: int) -> Score:
    return score(values[name], *_why(name, values), detail, count)


def _why(name: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """Return the reason and the explanation of a null among the values of `pose_metrics`."""
    if name.startswith(("pck_", "akd_torso")) and not values["torso_rule"]:
        return _NO_TORSO
    if math.isnan(values["akd_px"]) and name not in _OF_DRIVEN:
        return _UNSEEN
    if name in ("lag", "lag_correlation") and math.isnan(values["motion_ratio"]):
        return _STILL
    if name.startswith("jump") and len(values["speed"]) <= START_STEPS:
        return _SHORT_JUMP
    if name in ("jump", "jump_excess") and hides_start(values):
        return _HIDDEN_JUMP
    return _WHY.get(name, _UNSEEN)


def _mirrored(main: Mapping[str, Any], detail: str) -> Score:
    mirrored, plain = main["mirror_correlation"], main["velocity_correlation"]
    known = math.isfinite(mirrored) and math.isfinite(plain)
    return Score(float(mirrored > plain), detail=detail) if known else Score(None, *_why("mirror_correlation", main))


def _not_measurable(driven: Driven) -> dict[str, Outcome]:
    """Return a null for every metric of motion."""
    ceiling = driven.clip.ceiling
    found = math.nan if ceiling is None else ceiling["velocity_correlation"]
    words = (
        "no joint that moves is found in both"
        if math.isnan(found)
        else f"it reaches a velocity correlation of {found:.2f}"
    )
    why = f"the driving clip against its own coded copy: {words}, and .5 is needed"
    return NotMeasured("not_measurable", why).scores(name for name, metric in METRICS.items() if metric.is_motion)


def _ceilings(driven: Driven) -> dict[str, Outcome]:
    ceiling = driven.clip.ceiling
    if ceiling is None:
        why = "supplied keypoints have no estimator whose limit could be measured"
        return NotMeasured("supplied_keypoints", why).scores(f"{name}[ceiling]" for name in CEILINGS)
    return {f"{name}[ceiling]": score(ceiling[name], *_why(name, ceiling)) for name in CEILINGS}


def _people(driven: Driven, compared: Mapping[str, Any]) -> dict[str, Outcome]:
    """Return the metrics of all persons; a driven one that nobody is matched to counts as missing."""
    people = compared["people"]
    found = [one["oks"] for one, index in zip(people, compared["assignment"], strict=True) if index >= 0]
    return {
        "people_driven": Score(float(len(driven.people))),
        "people_extra": Score(float(compared["num_extra"])),
        "people_pck_10": score(_mean([one["pck_10"] for one in people]), *_why("pck_10", people[0])),
        "people_oks": score(_mean(found), *_UNSEEN),
    }


def _hands(driven: Driven, compared: Mapping[str, Any], width: int, height: int) -> dict[str, Outcome]:
    """Return the metrics of the main person's hands, averaged over those that are driven."""
    own: PoseSequence = driven.people[0]
    index = int(compared["assignment"][0])
    shown: Sequence[PoseSequence] = compared["tracks"]
    render = shown[index].hands if index >= 0 else np.full_like(own.hands, -1)
    seen, found = ((hands != -1).any(-1) & np.isfinite(hands).all(-1) for hands in (own.hands, render))
    size = np.array([width, height], np.float64)
    sides = [
        hand_metrics(own.hands[:, side] * size, seen[:, side], render[:, side] * size, found[:, side])
        for side in (0, 1)
        if seen[:, side].any()
    ]
    unseen = "no hand is found in both, or wrist and middle knuckle are not"
    why = ("no_hands", unseen if sides else "no hand is found in the driven motion")
    keys = {"hands_pck_20": "pck_20", "hands_akd": "akd_torso", "hands_missing_rate": "missing_rate"}
    return {name: score(_mean([side[key] for side in sides]), *why) for name, key in keys.items()}


def _start_gap(video: Video, driven: Driven, main: Mapping[str, Any], judges: Judges) -> dict[str, Outcome]:
    """Return the start gap, and whether a large one is resolved."""
    names = ("start_gap", "start_gap_resolved")
    try:
        people = reference_people(video, driven.source, judges)
    except NotMeasured as missing:
        return missing.scores(names)
    if not people:
        return NotMeasured("no_pose", "no person is found in the reference image").scores(names)
    height, width = video.size
    size, reference, own = np.array([width, height], np.float64), people[0].pose, driven.people[0]
    gap = start_gap(
        reference.body[0] * size, reference.body_visible[0], own.body[0] * size, own.body_visible[0], main["torso_px"]
    )
    apart = ("no_pose", "the reference and the first driven frame have no joint in common")
    measured = score(gap, *(apart if main["torso_rule"] else _NO_TORSO))
    excess = main["jump_excess"]
    if measured.value is None:
        resolved = measured
    elif gap < RESOLVED_GAP:
        resolved = Score(None, "small_gap", f"pairs with a start gap of {RESOLVED_GAP:g} or more count")
    elif math.isnan(excess):
        resolved = Score(None, *_why("jump_excess", main))
    else:
        resolved = Score(float(excess <= RESOLVED_EXCESS))
    return {"start_gap": measured, "start_gap_resolved": resolved}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
