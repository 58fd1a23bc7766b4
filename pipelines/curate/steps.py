"""The steps of a curation, each a function on one row: probe → shots → score → pose."""

from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ...datasets.artifact import content_digest, json_digest
from ...datasets.schema import Row, columns_of
from ...datasets.video import VideoError, decode, decode_low_resolution, decode_sparse, probe
from ..crop import content_shares, content_size, crop_frames, to_content, to_frame
from ..fetched import fetched
from ..poses import find_poses
from ..stage import BadClip, Stage
from .borders import Box, find_content
from .config import CHEAP_GATES, PERSON_GATES, PICTURE_GATES, TEXT_GATES, CurateConfig
from .duplicates import fingerprint
from .frame_scores import Frames, blur, find_cuts, histogram_change, luma_change, technical_scores
from .motion_scores import motion_scores
from .networks import (
    LOW_RESOLUTION_PX,
    PoseTools,
    ScoreTools,
    ShotTools,
    load_pose_tools,
    load_score_tools,
    load_shot_tools,
)
from .overlays import static_edge_ratio, text_ratios
from .pose_scores import appearance_change, count_tracks, pose_scores
from .select import failed_gate

T = TypeVar("T")

POSE_SIDE_PX = 512


def open_source(path: str) -> Row:
    """The row with which a source begins its walk."""
    return {"source_path": path, "clip_id": json_digest(path)[:16]}


@fetched("source_path")
def probe_source(row: Row, config: CurateConfig, tools: None = None) -> Row:
    """Identity by content, and what demuxing tells; nothing is decoded."""
    path = Path(row["source_path"])
    info = _read(lambda: probe(path))
    return {
        **row,
        "source_id": content_digest(path),
        "source_bytes": path.stat().st_size,
        "prompt": row.get("prompt") or _caption(path),  # a manifest's goes before the file's beside the video
        "codec": info.codec,
        "width": info.width,
        "height": info.height,
        "rotation_deg": info.rotation_deg,
        "fps": info.fps,
        "duration_s": info.duration_s,
        "num_source_frames": info.num_frames,
    }


def _caption(path: Path) -> str | None:
    beside = path.with_suffix(".txt")
    return beside.read_text(errors="replace").strip() or None if beside.is_file() else None


@fetched("source_path")
def find_shots(row: Row, config: CurateConfig, tools: ShotTools | None = None) -> list[Row]:
    """One low-resolution pass over the source: its shots, cut into windows of `num_frames`, and what moves in them.

    A shot that is too short for a window stays in the table as a rejected row; nothing is dropped in silence.
    """
    tools = tools or ShotTools()
    path = Path(row["source_path"])
    times_s, frames = _read(lambda: decode_low_resolution(path, 1 / config.fps, LOW_RESOLUTION_PX))
    change, motion = histogram_change(frames), luma_change(frames)
    transition = tools.detector(frames) if tools.detector is not None else None
    rows: list[Row] = []
    num_windows = 0
    for shot, (first, stop) in enumerate(_shots(change, transition, config)):
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
                "transition_score": None if transition is None else float(transition[start : end - 1].max(initial=0.0)),
                "fingerprint": fingerprint(frames[start:end], config.fps),
                "leak_score": None,
                "leak_of": None,
            }
            if config.trust:
                clip["motion_magnitude"] = None
            num_windows += bool(windows)
            if not windows:
                seconds = (config.num_frames - 1) / config.fps
                detail = f"{span['end_s'] - span['start_s']:.2f} s, {seconds:.2f} s are needed"
                clip |= {"verdict": "rejected", "reason": "too_short", "detail": detail}
            elif config.max_clips_per_source and num_windows > config.max_clips_per_source:
                detail = f"clip {num_windows} of its source, at most {config.max_clips_per_source} are asked"
                clip |= {"verdict": "rejected", "reason": "max_clips_per_source", "detail": detail}
            else:
                clip |= {} if config.trust else motion_scores(frames[start:end], config.fps)
                if tools.excluded is not None:
                    clip["leak_score"], clip["leak_of"] = tools.excluded.closest(clip["fingerprint"])
            rows.append(clip)
    return rows


def _shots(
    change: npt.NDArray[np.float64], transition: npt.NDArray[np.float32] | None, config: CurateConfig
) -> list[tuple[int, int]]:
    """First frame of each shot and the one after its last; frames of a dissolve belong to no shot."""
    num_frames = len(change) + 1
    if transition is None:
        return list(pairwise([0, *find_cuts(change, config.cut_threshold), num_frames]))
    inside = transition < config.transition_threshold
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(int)))
    shots = [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]
    # A hard cut is told by the last frame before it, which is whole: it belongs to its shot.
    closed = [
        (first, stop + 1 if stop < num_frames and (stop + 1 == num_frames or inside[stop + 1]) else stop)
        for first, stop in shots
    ]
    return closed or [(0, num_frames)]


@fetched("source_path")
def score_frames(row: Row, config: CurateConfig, tools: ScoreTools | None = None) -> Row:
    """Borders, exposure, contrast, colour, sharpness, text and people of a few frames spread over the clip.

    Networks look at what the cheaper scores let through: first for text, then for people, then at how it pleases.
    Clips of trusted sources are not looked at.
    """
    if config.trust:
        return {**row, **dict.fromkeys(columns_of("score"))}
    tools = tools or ScoreTools()
    _, frames = _read(lambda: decode_sparse(row["source_path"], row["start_s"], row["end_s"], config.num_score_frames))
    row = {**row, **dict.fromkeys(columns_of("score")), **_content(row, find_content(frames))}
    frames = crop_frames(frames, content_shares(row))
    seconds = row["end_s"] - row["start_s"]
    row |= technical_scores(frames)
    row["blur"] = blur(frames)
    row["static_edge_ratio"] = static_edge_ratio(frames, row.get("camera_motion"), seconds)
    few = frames[np.linspace(0, len(frames) - 1, min(config.num_network_frames, len(frames))).round().astype(int)]
    if tools.text is not None and failed_gate(row, config.gates, PICTURE_GATES) is None:
        row["text_ratio"], row["any_text_ratio"] = text_ratios(tools.text(few))
    supplied = config.pose_model == "auto" and _has_keypoints(Path(row["source_path"]))
    if tools.persons is not None and not supplied and failed_gate(row, config.gates, TEXT_GATES) is None:
        row["num_detected_persons"], row["detected_person_ratio"] = tools.persons.count(few)
    if tools.aesthetics is not None and failed_gate(row, config.gates, PERSON_GATES) is None:
        row |= tools.aesthetics.summary(few)
    return row


def _content(row: Row, box: Box) -> Row:
    """The picture inside its borders in pixels of the source, even, and the share of the rest."""
    if box.area == 1:
        return {"border_ratio": 0.0}
    left, right = (round(share * row["width"] / 2) * 2 for share in (box.left, box.right))
    top, bottom = (round(share * row["height"] / 2) * 2 for share in (box.top, box.bottom))
    right, bottom = min(right, row["width"] // 2 * 2), min(bottom, row["height"] // 2 * 2)
    return {
        "crop_left_px": left,
        "crop_top_px": top,
        "crop_width_px": right - left,
        "crop_height_px": bottom - top,
        "border_ratio": 1 - box.area,
    }


def _has_keypoints(path: Path) -> bool:
    return path.with_name(f"{path.stem}.pose.safetensors").is_file()


@fetched("source_path")
def estimate_pose(row: Row, config: CurateConfig, tools: PoseTools | None = None) -> Row:
    """Keypoints of every frame, and what they say; a clip that a cheap gate refuses is not decoded for it.

    The pose is looked for and judged inside the borders, and kept in the source's own frame.
    """
    if failed_gate(row, config.gates, CHEAP_GATES) is not None:
        return row
    tools = tools or PoseTools()
    times_s = row["start_s"] + np.arange(row["num_frames"]) / config.fps
    shares = content_shares(row)
    looked_at: list[Frames] = []

    def read_frames() -> Frames:
        looked_at.append(crop_frames(_frames(row, times_s, POSE_SIDE_PX), shares))
        return looked_at[0]

    model, counted, tracks = find_poses(
        Path(row["source_path"]), times_s, read_frames, config.pose_model, tools.estimator
    )
    seen: Row = {
        **row,
        "pose_model": model,
        "num_persons": row.get("num_detected_persons"),
        "other_person_ratio": row.get("detected_person_ratio"),
    }
    if not tracks:
        return seen if model is None else {**seen, "missing_pose_ratio": 1.0}
    # Supplied keypoints are of the whole frame, an estimator's of what it was shown.
    poses = [track.pose if looked_at else to_content(track.pose, shares) for track in tracks]
    if counted is not None:
        seen["num_persons"], seen["other_person_ratio"] = count_tracks(poses)
    height, width = content_size(row)
    scores = pose_scores(poses[0], tracks[0].confidence, width / height, config.fps)
    scores["appearance_change"] = appearance_change(looked_at[0], poses[0]) if looked_at else None
    # Supplied keypoints need no frames, smoothness does.
    scores["motion_smoothness"] = (
        tools.smoothness(looked_at[0] if looked_at else read_frames()) if tools.smoothness else None
    )
    pose = to_frame(poses[0], shares).to_bytes()
    digest = sha256(pose).hexdigest()[:16]
    return {**seen, "pose": pose, "pose_digest": digest, **scores}


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
    Stage("shots", find_shots, ("source_path", "source_id"), columns_of("shots"), load=load_shot_tools),
    Stage(
        "score",
        score_frames,
        ("source_path", "start_s", "end_s", "height", "width", "camera_motion"),
        columns_of("score"),
        load=load_score_tools,
    ),
    Stage(
        "pose",
        estimate_pose,
        ("source_path", "start_s", "num_frames", "height", "width"),
        columns_of("pose"),
        load=load_pose_tools,
    ),
]
