"""LPIPS against the ground truth, identity over time, and the drift of the background."""

import numpy as np

from ....models.metrics.background import Background, measure_background
from ....models.metrics.identity import Identity, IdentityJudge, identity, mean_similarity
from ....models.metrics.variants import LPIPS_VARIANTS, variant_of
from ..catalogue import FACE, PERSON_CROP
from ..driving import driven_part, spread_frames
from ..families.identity import OVER_TIME
from ..judges import Judges
from ..scores import Features, NotMeasured, Outcome, Score, score
from ..video import Video
from .sets import feature_name

MAX_CEILING_FRAMES = 24
FACE_SIDE_PX, CAMERA_SIDE_PX = 1536, 512  # longer sides at which driving videos are read
MAX_CAMERA_S = 30.0
_WHY = {
    "no_face": "no face is found: faces below about 40 px, or turned away, are not",
    "no_face_in_reference": "no face is found in the reference image",
    "no_person": "no person is found",
    "no_person_in_reference": "no person is found in the reference image",
    "moving_camera": "the driving camera moves, so that the background should change",
    "unknown_camera": "the driving background has too few corners to tell whether the camera moves",
    "little_background": "less than a tenth of the picture is background in every frame",
    "one_frame": "a single frame has no change",
}


def measure_lpips(video: Video, judges: Judges, network: str) -> dict[str, Outcome]:
    """Measure LPIPS with a network, `vgg` or `alex`, in the variants of the protocol."""
    render, truth, detail, _ = video.compared
    judge = judges[f"lpips-{network}"]
    video.require_side(judge.min_side)
    out: dict[str, Outcome] = {}
    for name, (own, zero_to_one) in LPIPS_VARIANTS.items():
        if own == network and variant_of(name) in video.protocol.lpips:
            distances = judge.distances(render, truth, zero_to_one=zero_to_one)
            out[name] = Score(float(np.mean(distances)), None, detail, len(truth))
    return out


def measure_face(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure the likeness to the face of the reference over time."""
    return _measure_identity(video, judges, judges["face"], FACE)


def measure_person(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure the likeness of the whole person to the reference over time."""
    return _measure_identity(video, judges, judges.person_crops(), PERSON_CROP)


def _measure_identity(video: Video, judges: Judges, judge: IdentityJudge, name: str) -> dict[str, Outcome]:
    """Measure identity, its ceiling by the driving video, and the features of the reference for the floor."""
    out: dict[str, Outcome] = {f"identity[{name},ceiling]": _ceiling(video, judges, judge)}
    try:
        reference = judge.embed(video.image[None])
    except NotMeasured as missing:
        return out | missing.scores([*_identity_names(name), "features"])
    found = identity(judge, judge.embed(video.frames), reference[0], video.fps)
    known = reference[~np.isnan(reference).any(axis=1)]
    out[feature_name(name, "reference")] = Features(known)
    return out | dict(zip(_identity_names(name), _identity_scores(found), strict=True))


def _identity_names(judge: str) -> list[str]:
    return [f"{name}[{judge}]" for name in OVER_TIME]


def _identity_scores(found: Identity) -> list[Score]:
    reason = found.reason or "too_few"
    return [score(value, reason, _WHY.get(reason, "it is found in too few frames")) for value in found.over_time]


def _ceiling(video: Video, judges: Judges, judge: IdentityJudge) -> Outcome:
    """Return the mean likeness of different frames of the driving video, at most 24."""
    driving = video.row["driving"]
    if not driving:
        return Score(None, "no_driving", "no driving video was given")
    try:
        features = judges.remember(
            (judge.name, driving), lambda: judge.embed(spread_frames(driving, MAX_CEILING_FRAMES, FACE_SIDE_PX))
        )
    except NotMeasured as missing:
        return Score(None, missing.reason, missing.detail)
    why = f"{_WHY[judge.missing]}, or in one frame of the driving video only"
    return score(mean_similarity(judge, features), judge.missing, why)


def measure_drift(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure the drift of the background outside of people, where the driving camera stands still."""
    clip, fps = driven_part(video, CAMERA_SIDE_PX, MAX_CAMERA_S)
    masks = judges["person-mask"].masks
    found = measure_background(video.frames, masks(video.frames), clip, masks(clip), fps)
    return _drift_scores(found)


def _drift_scores(found: Background) -> dict[str, Outcome]:
    reason = found.reason or "one_frame"
    bare = "less than a tenth of the driving video's pictures is background, or it has a single frame"
    travel = "the driving background has too few corners to follow, or the driving video has a single frame"
    return {
        "background_drift": score(found.mean, reason, _WHY[reason]),
        "background_drift[driving]": score(found.driving, "little_background", bare),
        "camera_travel": score(found.camera_travel, "unknown_camera", travel),
    }
