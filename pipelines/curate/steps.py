"""The steps of a curation, each a function on one row: probe → shots → score → pose."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ...datasets.artifact import content_digest, json_digest
from ...datasets.schema import Row, columns_of
from ...datasets.video import VideoError, decode, decode_low_resolution, probe
from ...models.pose_estimator import PoseEstimator
from ..fetched import fetched
from ..poses import find_poses, load_pose_estimator
from ..stage import BadClip, Stage
from .config import CHEAP_GATES, CurateConfig
from .frame_scores import Frames, find_cuts, histogram_change, luma_change, technical_scores
from .pose_scores import pose_scores
from .select import failed_gate

T = TypeVar("T")

LOW_RESOLUTION_PX = 128
SCORE_SIDE_PX = 256
POSE_SIDE_PX = 512


def open_source(path: str) -> Row:
    """The row with which a source begins its walk."""
    return {"source_path": path, "clip_id": json_digest(path)[:16]}


@fetched("source_path")
def probe_source(row: Row, config: CurateConfig, tools: None = None) -> Row:
    """Identity by content, and what demuxing tells; nothing is decoded."""
    path = Path(row["source_path"])
    caption = path.with_suffix(".txt")
    info = _read(lambda: probe(path))
    return {
        **row,
        "source_id": content_digest(path),
        "source_bytes": path.stat().st_size,
        "prompt": caption.read_text(errors="replace").strip() or None if caption.is_file() else None,
        "codec": info.codec,
        "width": info.width,
        "height": info.height,
        "rotation_deg": info.rotation_deg,
        "fps": info.fps,
        "duration_s": info.duration_s,
        "num_source_frames": info.num_frames,
    }


@fetched("source_path")
def find_shots(row: Row, config: CurateConfig, tools: None = None) -> list[Row]:
    """One low-resolution pass over the source: its shots, cut into windows of `num_frames`, and their motion.

    A shot that is too short for a window stays in the table as a rejected row; nothing is dropped in silence.
    """
    path = Path(row["source_path"])
    times_s, frames = _read(lambda: decode_low_resolution(path, 1 / config.fps, LOW_RESOLUTION_PX))
    change, motion = histogram_change(frames), luma_change(frames)
    bounds = [0, *find_cuts(change, config.cut_threshold), len(frames)]
    rows: list[Row] = []
    num_windows = 0
    for shot, (first, stop) in enumerate(pairwise(bounds)):
        windows = range(first, stop - config.num_frames + 1, config.num_frames)
        for start in windows or [first]:
            # The frame that ends a clip is its last one; the change into it belongs to the clip, the next does not.
            end = start + config.num_frames if windows else stop
            span = {"start_s": float(times_s[start]), "end_s": float(times_s[end - 1]), "num_frames": end - start}
            clip = {
                **row,
                **span,
                "clip_id": json_digest([row["source_id"], *span.values(), config.fps])[:16],
                "shot_index": shot,
                "cut_score": float(change[start : end - 1].max(initial=0.0)),
                "motion_magnitude": float(motion[start : end - 1].mean()) if end - start > 1 else None,
            }
            num_windows += bool(windows)
            if not windows:
                seconds = (config.num_frames - 1) / config.fps
                detail = f"{span['end_s'] - span['start_s']:.2f} s, {seconds:.2f} s are needed"
                clip |= {"verdict": "rejected", "reason": "too_short", "detail": detail}
            elif config.max_clips_per_source and num_windows > config.max_clips_per_source:
                detail = f"clip {num_windows} of its source, at most {config.max_clips_per_source} are asked"
                clip |= {"verdict": "rejected", "reason": "max_clips_per_source", "detail": detail}
            rows.append(clip)
    return rows


@fetched("source_path")
def score_frames(row: Row, config: CurateConfig, tools: None = None) -> Row:
    """Exposure, contrast, colour and sharpness of a few frames spread over the clip."""
    times_s = np.linspace(row["start_s"], row["end_s"], config.num_score_frames)
    frames = _frames(row, times_s, SCORE_SIDE_PX)
    return {**row, **technical_scores(frames)}


def load_estimator(config: CurateConfig) -> PoseEstimator | None:
    """What looks for people in clips that bring no keypoints."""
    return load_pose_estimator(config.pose_model)


@fetched("source_path")
def estimate_pose(row: Row, config: CurateConfig, estimator: PoseEstimator | None) -> Row:
    """Keypoints of every frame, and what they say; a clip that a cheap gate refuses is not decoded for it."""
    if failed_gate(row, config.gates, CHEAP_GATES) is not None:
        return row
    times_s = row["start_s"] + np.arange(row["num_frames"]) / config.fps
    model, num_persons, tracks = find_poses(
        Path(row["source_path"]),
        times_s,
        lambda: _frames(row, times_s, POSE_SIDE_PX),
        config.pose_model,
        estimator,
    )
    seen: Row = {**row, "pose_model": model, "num_persons": num_persons}
    if not tracks:
        return seen if model is None else {**seen, "missing_pose_ratio": 1.0}
    main = tracks[0]
    scores = pose_scores(main.pose, main.confidence, row["width"] / row["height"], config.fps)
    return {**seen, "pose": main.pose.to_bytes(), **scores}


def _frames(row: Row, times_s: npt.NDArray[np.float64], short_side: int) -> Frames:
    """The source's frames at these times, with the given short side (never larger than the source), even."""
    scale = min(1.0, short_side / min(row["height"], row["width"]))
    height, width = (max(2, round(row[side] * scale / 2) * 2) for side in ("height", "width"))
    return _read(lambda: decode(row["source_path"], times_s, height, width))


def _read(reader: Callable[[], T]) -> T:
    """What a reader of video gives; its complaints are about the clip."""
    try:
        return reader()
    except VideoError as error:
        raise BadClip(error.reason, error.detail) from error


STAGES = [
    Stage("probe", probe_source, ("source_path",), columns_of("probe")),
    Stage("shots", find_shots, ("source_path", "source_id"), columns_of("shots")),
    Stage("score", score_frames, ("source_path", "start_s", "end_s", "height", "width"), columns_of("score")),
    Stage(
        "pose",
        estimate_pose,
        ("source_path", "start_s", "num_frames", "height", "width"),
        columns_of("pose"),
        load=load_estimator,
    ),
]
