"""LPIPS against the ground truth, identity over time, and the drift of the background."""

import math

import cv2
import numpy as np

from ....datasets.arrays import Floats, Floats32, Frames
from ....datasets.driving_poses import POSE_SIDE_PX
from ....datasets.local_copies import local_copy
from ....datasets.storage import StorageError
from ....datasets.video import VideoError, decode, frame_times_s, probe
from ....models.metrics import background_drift, identity_over_time
from ..judges import Judges
from ..scores import NotMeasured, Outcome, Score, score
from ..video import Video

MARGIN = 0.02  # of the picture's longer side, by which masks of persons are widened
MAX_CEILING_FRAMES = 24
_NO_FACE = ("no_face", "no face is found: faces below about 40 px, or turned away, are not")


def measure_lpips(video: Video, judges: Judges, network: str) -> dict[str, Outcome]:
    """Measure LPIPS with a network, `vgg` or `alex`, in the ranges of the protocol."""
    render, truth, detail, _ = video.compared
    judge = judges[f"lpips-{network}"]
    out: dict[str, Outcome] = {}
    for limits in video.protocol.lpips_range:
        distances = judge.distances(render, truth, zero_to_one=limits == "0..1")
        out[f"lpips[{network},{limits}]"] = Score(float(np.mean(distances)), None, detail, len(truth))
    return out


def measure_identity(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure the likeness to the face of the reference over time, and that of the driving video's own frames."""
    faces = judges["face"]
    out: dict[str, Outcome] = {"identity[ceiling]": _ceiling(video, judges)}
    names = ("identity", "identity_min", "identity_p5", "identity_slope", "identity_last_quarter", "identity_found")
    try:
        reference = faces.embed(video.image[None])[0]
    except NotMeasured as missing:
        return out | missing.scores(names)
    if np.isnan(reference).any():
        return out | NotMeasured("no_face", "no face is found in the reference image").scores(names)
    values = identity_over_time(_likeness(faces.embed(video.frames), reference), video.fps)
    parts = (values.mean, values.min, values.percentile_5, values.slope_per_s, values.last_quarter, values.found_share)
    return out | {name: score(value, *_NO_FACE) for name, value in zip(names, parts, strict=True)}


def _likeness(embeddings: Floats, reference: Floats) -> Floats:
    """Return 1 − distance of embeddings [F, D] to one [D]; NaN where no face was found."""
    return 1 - np.linalg.norm(embeddings - reference, axis=-1)


def _ceiling(video: Video, judges: Judges) -> Outcome:
    """Return the mean likeness of the driving video's faces to each other, on at most 24 frames."""
    driving = video.row["driving"]
    if not driving:
        return Score(None, "no_driving", "no driving video was given")
    try:
        embeddings = judges.remember(("faces", driving), lambda: _faces(driving, judges))
    except (VideoError, StorageError, OSError) as error:
        return Score(None, "unreadable_driving", f"the driving video cannot be read: {error}")
    found = embeddings[~np.isnan(embeddings).any(-1)]
    if len(found) < 2:
        return Score(None, "no_face", "fewer than two faces are found in the driving video")
    apart = np.linalg.norm(found[:, None] - found, axis=-1)[np.triu_indices(len(found), 1)]
    return Score(float(1 - apart.mean()))


def _faces(driving: str, judges: Judges) -> Floats32:
    with local_copy(driving) as path:
        info, times_s = probe(path), frame_times_s(path)
        picked = times_s[np.unique(np.linspace(0, len(times_s) - 1, MAX_CEILING_FRAMES).round().astype(int))]
        scale = min(1.0, 2 * POSE_SIDE_PX / max(info.height, info.width))
        frames = decode(path, picked, *(round(side * scale / 2) * 2 for side in (info.height, info.width)))
    embeddings: Floats32 = judges["face"].embed(frames)
    return embeddings


def measure_background(video: Video, judges: Judges) -> dict[str, Outcome]:
    """Measure the drift of the background, outside widened masks of the persons."""
    if len(video.frames) < 2:
        return {"background_drift": Score(None, "one_frame", "a single frame has no change")}
    drift = background_drift(video.frames, _widened(judges["person-mask"].masks(video.frames)))
    known = drift[~np.isnan(drift)]
    why = "less than a tenth of the picture is background in every frame"
    return {"background_drift": score(float(known.mean()) if len(known) else math.nan, "no_background", why)}


def _widened(masks: np.ndarray) -> np.ndarray:
    side = 2 * math.ceil(MARGIN * max(masks.shape[1:])) + 1
    kernel = np.ones((side, side), np.uint8)
    frames: list[Frames] = [np.asarray(cv2.dilate(mask.astype(np.uint8), kernel), np.uint8) for mask in masks]
    return np.stack(frames).astype(bool)
