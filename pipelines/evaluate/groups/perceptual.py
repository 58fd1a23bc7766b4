"""LPIPS against the ground truth, identity over time, and the drift of the background."""

from typing import NamedTuple

import numpy as np

from ....datasets.arrays import Floats32, Frames
from ....datasets.local_copies import local_copy
from ....datasets.storage import StorageError
from ....datasets.video import VideoError, decode, frame_times_s, probe
from ....models.metrics.background import Background, measure_background
from ....models.metrics.identity import Identity, IdentityJudge, identity, mean_similarity
from ....models.metrics.variants import LPIPS_VARIANTS, variant_of
from ..catalogue import FACE, PERSON_CROP
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
    parts = ("identity", "identity_min", "identity_p5", "identity_slope", "identity_last_quarter", "identity_found")
    return [f"{part}[{judge}]" for part in parts]


def _identity_scores(found: Identity) -> list[Score]:
    reason = found.reason or "too_few"
    return [score(value, reason, _WHY.get(reason, "it is found in too few frames")) for value in found.over_time]


def _ceiling(video: Video, judges: Judges, judge: IdentityJudge) -> Outcome:
    """Return the mean likeness of different frames of the driving video, at most 24."""
    driving = video.row["driving"]
    if not driving:
        return Score(None, "no_driving", "no driving video was given")
    try:
        features = judges.remember((judge.name, driving), lambda: _embedded(driving, judge))
    except (VideoError, StorageError, OSError) as error:
        return Score(None, "unreadable_driving", f"the driving video cannot be read: {error}")
    why = f"{_WHY[judge.missing]}, or in one frame of the driving video only"
    return score(mean_similarity(judge, features), judge.missing, why)


def _embedded(driving: str, judge: IdentityJudge) -> Floats32:
    return judge.embed(_read(driving, FACE_SIDE_PX, MAX_CEILING_FRAMES).frames)


class _Clip(NamedTuple):
    frames: Frames
    fps: float


def _read(driving: str, longest_px: int, num_frames: int | None = None, seconds: float | None = None) -> _Clip:
    """Read a driving video: `num_frames` spread over it, or all frames of its first `seconds`.

    Raises:
        VideoError: it cannot be decoded.
        StorageError: it cannot be fetched.
    """
    with local_copy(driving) as path:
        info, times_s = probe(path), frame_times_s(path)
        if num_frames is not None:
            times_s = times_s[np.unique(np.linspace(0, len(times_s) - 1, num_frames).round().astype(int))]
        if seconds is not None:
            times_s = times_s[times_s <= times_s[0] + seconds]
        scale = min(1.0, longest_px / max(info.height, info.width))
        size = (max(2, round(side * scale / 2) * 2) for side in (info.height, info.width))
        span = float(times_s[-1] - times_s[0])
        return _Clip(decode(path, times_s, *size), (len(times_s) - 1) / span if span > 0 else 1.0)


def measure_drift(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure the drift of the background outside of people, where the driving camera stands still."""
    driving = video.row["driving"]
    if not driving:
        raise NotMeasured("no_driving", "no driving video was given, so that it is unknown whether the camera moves")
    masks = judges["person-mask"].masks
    seconds = min(MAX_CAMERA_S, float(video.times_s[video.positions[-1]]))
    try:
        clip = _read(driving, CAMERA_SIDE_PX, seconds=seconds)
    except (VideoError, StorageError, OSError) as error:
        raise NotMeasured("unreadable_driving", f"the driving video cannot be read: {error}") from error
    found = measure_background(video.frames, masks(video.frames), clip.frames, masks(clip.frames), clip.fps)
    return _drift_scores(found)


def _drift_scores(found: Background) -> dict[str, Outcome]:
    reason = found.reason or "one_frame"
    travel = "the driving background has too few corners to follow"
    return {
        "background_drift": score(found.mean, reason, _WHY[reason]),
        "background_drift[driving]": score(found.driving, "little_background", _WHY["little_background"]),
        "camera_travel": score(found.camera_travel, "unknown_camera", travel),
    }
