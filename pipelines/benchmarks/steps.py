"""The row stage of `xdance build`: one image or driving video → its pose and what is measured of it alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...datasets.driving_poses import MIN_FRAMES, decode_driving
from ...datasets.images import ImageError, read_image
from ...datasets.schema import Row
from ...datasets.skeleton import PoseSequence
from ...datasets.text import TextError, read_caption
from ...datasets.video import frame_times_s, probe
from ...models.pose.estimator import PoseEstimator
from ...models.pose.track import PoseTrack
from ..common.poses import find_poses, load_pose_estimator
from ..runtime.local_files import on_local_copies, reading_video
from ..runtime.stage import BadClip, Stage
from .config import XDanceConfig
from .drivers import motion_scores, person_blur
from .misalignment import Box, flatness, person_box

NUM_PICTURES = 8  # frames of a video that style and blur are measured in

_FIELDS: list[tuple[str, pa.DataType]] = [
    *((name, pa.string()) for name in ("id", "role", "source_path", "style", "dynamics", "caption", "pose_model")),
    *((name, pa.int32()) for name in ("width", "height", "num_frames", "num_people")),
    *((name, pa.float64()) for name in ("fps", "flatness", "blur", "motion", "pose_change", "occlusion")),
    ("pose", pa.large_binary()),
    *((name, pa.string()) for name in ("verdict", "reason", "detail")),
]
SCHEMA = pa.schema(_FIELDS)
MEASURES = ("caption", "pose_model", "width", "height", "num_frames", "num_people", "fps", "flatness", "blur", "motion",
            "pose_change", "occlusion", "pose", "verdict")  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Pictures, times and poses of a file."""

    width: int
    height: int
    times_s: np.ndarray
    pictures: np.ndarray
    """[n, h, w, 3] of `shown`, perhaps scaled down"""
    shown: np.ndarray
    """[n], indices of the pictures"""
    model: str
    num_people: int | None
    pose: PoseSequence


def load_estimator(config: XDanceConfig) -> PoseEstimator | None:
    """Load the pose estimator once per worker."""
    return load_pose_estimator(config.pose_model, "cuda" if config.num_gpus else "cpu")


@on_local_copies("source_path")
def measure_file(row: Row, config: XDanceConfig, estimator: PoseEstimator | None) -> Row:
    """Find the main person of a file, and measure what needs no second file.

    Raises:
        BadClip: the file cannot be read (`unreadable_image`, a reason of `VideoError`), is too short, or shows nobody
            (`no_pose`).
    """
    path = Path(row["source_path"])
    one = _image(path, config, estimator) if row["role"] == "image" else _video(path, config, estimator)
    boxes = [person_box(one.pose[int(k) : int(k) + 1]) for k in one.shown]
    out = {
        **row,
        "caption": _caption(path),
        "pose_model": one.model,
        "width": one.width,
        "height": one.height,
        "num_frames": len(one.times_s),
        "num_people": one.num_people,
        "flatness": _flatness(one.pictures, boxes),
        "pose": one.pose.to_bytes(),
        "verdict": "ok",
    }
    if row["role"] == "driving":
        fps = (len(one.times_s) - 1) / float(one.times_s[-1])
        scores = motion_scores(one.pose, one.width / one.height, fps)
        scores["blur"] = person_blur(one.pictures, boxes)
        out |= {"fps": fps, **{name: None if np.isnan(value) else value for name, value in scores.items()}}
    return out


def _image(path: Path, config: XDanceConfig, estimator: PoseEstimator | None) -> Measured:
    try:
        pixels = read_image(path).pixels
    except ImageError as error:
        raise BadClip("unreadable_image", str(error)) from error
    model, number, tracks = find_poses(path, np.zeros(1), lambda: pixels[None], config.pose_model, estimator)
    pose = _main(path, model, tracks)
    height, width = pixels.shape[:2]
    return Measured(width, height, np.zeros(1), pixels[None], np.zeros(1, int), model or "", number, pose)


def _video(path: Path, config: XDanceConfig, estimator: PoseEstimator | None) -> Measured:
    with reading_video(path):
        info = probe(path)
        times_s = frame_times_s(path)[: config.num_frames]
        if len(times_s) < MIN_FRAMES:
            raise BadClip("too_short", f"{path} has {len(times_s)} frames, but at least {MIN_FRAMES} are needed")
        read: list[np.ndarray] = []

        def frames() -> np.ndarray:
            read.append(decode_driving(path, times_s))
            return read[0]

        model, number, tracks = find_poses(path, times_s, frames, config.pose_model, estimator)
        pose = _main(path, model, tracks)
        shown = np.unique(np.linspace(0, len(times_s) - 1, NUM_PICTURES).astype(int))
        pictures = read[0][shown] if read else decode_driving(path, times_s[shown])
    return Measured(info.width, info.height, times_s, pictures, shown, model or "", number, pose)


def _main(path: Path, model: str | None, tracks: list[PoseTrack]) -> PoseSequence:
    """Return the pose of the first person who is visible."""
    seen = [track.pose for track in tracks if track.pose.body_visible.any()]
    if not seen:
        what = "no pose model is installed (see `steadydancer weights check`)" if model is None else "no person found"
        raise BadClip("no_pose", f"{path}: {what}")
    return seen[0]


def _flatness(pictures: np.ndarray, boxes: list[Box | None]) -> float | None:
    values = [flatness(image, box) for image, box in zip(pictures, boxes, strict=True) if box is not None]
    values = [value for value in values if not np.isnan(value)]
    return float(np.mean(values)) if values else None


def _caption(path: Path) -> str | None:
    try:
        return read_caption(path)
    except TextError as error:
        raise BadClip("unreadable_caption", str(error)) from error


def stages(config: XDanceConfig) -> list[Stage]:
    """Return the only stage: a file's pictures are read once for its pose and its measures."""
    reads: tuple[str, ...] = ("id", "role", "source_path")
    return [Stage("measure", measure_file, reads, MEASURES, load=load_estimator, num_gpus=config.num_gpus)]
