"""The row stages of a curation, each a function on one row: probe → shots → score → pose."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np

from ...datasets.arrays import Frames
from ...datasets.schema import Row, columns_of
from ...datasets.sidecars import KEYPOINTS, sidecar, sidecar_note
from ...datasets.source_content import content_id
from ...datasets.storage.digests import json_digest
from ...datasets.text import TextError, read_caption
from ...datasets.video import VideoInfo, decode_sparse, low_resolution_pieces, probe
from ...datasets.video.info import identity
from ..common.crop import content_shares, content_size, crop_frames, to_content, to_frame
from ..common.poses import find_poses
from ..runtime.local_files import on_local_copies, reading_video
from ..runtime.stage import BadClip
from .clip_frames import ClipFrames
from .config import CurateConfig
from .frame_models import annotate
from .gates import CHEAP_GATES, PERSON_GATES, PICTURE_GATES, TEXT_GATES
from .networks import LOW_RESOLUTION_PX, PoseTools, ScoreTools, ShotTools
from .scores.borders import Box, find_content
from .scores.clipping import subject_clipped_ratio
from .scores.duplicates import fingerprint
from .scores.frame_scores import blur, technical_scores
from .scores.key_frame_screen import screen_key_frames, was_screened_out
from .scores.motion_scores import motion_scores
from .scores.noise import blockiness
from .scores.overlays import static_edge_ratio, text_scores
from .scores.pose_scores import appearance_change, count_tracks, pose_scores
from .scores.shots import PIECE_FRAMES, ShotPass
from .selection.select import failed_gate

ATTEMPTS = 3  # to read a file that is replaced meanwhile


def open_source(path: str) -> Row:
    """Return the first row of a source."""
    return {"source_path": path, "clip_id": json_digest(path)[:16]}


@on_local_copies("source_path")
def probe_source(row: Row, config: CurateConfig, tools: None = None) -> Row:
    """Read a source's digest, container metadata and sidecar caption; nothing is decoded."""
    path = Path(row["source_path"])
    with reading_video():
        source_id, info = _identified(path)
    prompt, unreadable = _caption(path, row)
    return {
        **row,
        **unreadable,
        "source_id": source_id,
        "source_bytes": path.stat().st_size,
        "prompt": prompt,
        "sidecar_note": sidecar_note(path),
        "codec": info.codec,
        "width": info.width,
        "height": info.height,
        "rotation_deg": info.rotation_deg,
        "mirrored": info.mirrored,
        "deinterlaced": info.deinterlaced,
        "transparent": info.transparent,
        "fps": info.fps,
        "duration_s": info.duration_s,
        "num_source_frames": info.num_frames,
    }


def _identified(path: Path) -> tuple[str, VideoInfo]:
    """Read a file's digest and container metadata consistently.

    Raises:
        BadClip: the file is being written to.
    """
    for _ in range(ATTEMPTS):
        before, info = identity(path), probe(path)
        source_id = content_id(path)
        if identity(path) == before:
            return source_id, info
    raise BadClip("source_changed", f"{path} is being written to: curate it when it is complete")


def _caption(path: Path, row: Row) -> tuple[str | None, Row]:
    """Return the prompt (the manifest's, else the caption file's), and a verdict if the caption cannot be read."""
    if row.get("prompt"):
        return row["prompt"], {}
    try:
        return read_caption(path), {}
    except TextError as error:
        detail = f"{Path(error.name).name}: {error.detail}"
        return None, {"verdict": "quarantined", "reason": "unreadable_caption", "detail": detail}


@on_local_copies("source_path", unchanged_since="source_id")
def find_shots(row: Row, config: CurateConfig, tools: ShotTools | None = None) -> list[Row]:
    """Decode the source once at low resolution; find shots, cut them into windows, and score their motion.

    A shot shorter than `num_frames` becomes a rejected row: nothing is dropped silently. A source that fails the
    key-frame screen is not decoded further.
    """
    tools = tools or ShotTools()
    screened = None if config.trust else screen_key_frames(row, config)
    if screened is not None:
        return [screened]
    seen = ShotPass(config, tools.detector)
    rows: list[Row] = []
    num_windows = 0
    for frames, ended in _read_pieces(row["source_path"], config.fps):
        for shot, start, stop in seen.spans(frames, ended):
            rows.append(_clip(row, seen, shot, start, stop, config))
            if rows[-1].get("verdict") is not None:
                continue
            num_windows += 1
            if config.max_clips_per_source and num_windows > config.max_clips_per_source:
                detail = f"clip {num_windows} of its source, expected at most {config.max_clips_per_source}"
                rows[-1] |= {"verdict": "rejected", "reason": "max_clips_per_source", "detail": detail}
                continue
            if not config.trust:
                rows[-1] |= motion_scores(seen.frames(start, stop), config.fps)
            if tools.excluded is not None:
                rows[-1]["leak_score"], rows[-1]["leak_of"] = tools.excluded.closest(rows[-1]["fingerprint"])
    return rows


def _read_pieces(path: str, fps: float) -> Iterator[tuple[Frames, bool]]:
    """Yield small frames and whether they are the last ones."""
    pieces = low_resolution_pieces(path, 1 / fps, LOW_RESOLUTION_PX, PIECE_FRAMES)
    ended = False
    while not ended:
        with reading_video():
            _, frames = next(pieces, (None, np.empty((0, 1, 1, 3), np.uint8)))
        ended = len(frames) < PIECE_FRAMES
        yield frames, ended


def _clip(row: Row, seen: ShotPass, shot: int, start: int, stop: int, config: CurateConfig) -> Row:
    """Return the row of a span, rejected if it is too short."""
    # The change into the last frame belongs to the clip, the change after it does not.
    inside, every_s = slice(start, stop - 1), 1 / config.fps
    span = {"start_s": start * every_s, "end_s": (stop - 1) * every_s, "num_frames": stop - start}
    clip = {
        **row,
        **span,
        "clip_id": json_digest([row["source_id"], *span.values(), config.fps])[:16],
        "shot_index": shot,
        "cut_score": float(seen.change[inside].max(initial=0.0)),
        "motion_magnitude": float(seen.motion[inside].mean()) if stop - start > 1 and not config.trust else None,
        "transition_score": None if seen.transition is None else float(seen.transition[inside].max(initial=0.0)),
        "fingerprint": fingerprint(seen.frames(start, stop), config.fps),
        "leak_score": None,
        "leak_of": None,
    }
    if stop - start < config.num_frames:
        seconds = (config.num_frames - 1) / config.fps
        detail = f"{span['end_s'] - span['start_s']:.2f} s long, expected at least {seconds:.2f} s"
        clip |= {"verdict": "rejected", "reason": "too_short", "detail": detail}
    return clip


@on_local_copies("source_path", unchanged_since="source_id")
def score_frames(row: Row, config: CurateConfig, tools: ScoreTools | None = None) -> Row:
    """Score borders, exposure, sharpness, text, people and aesthetics of a few frames spread over the clip.

    Networks run only on clips that pass the cheaper gates: text, then people, then aesthetics. Clips of trusted sources
    are not scored.
    """
    if config.trust:
        return {**row, **dict.fromkeys(columns_of("score"))}
    if was_screened_out(row):
        return row
    tools = tools or ScoreTools()
    with reading_video():
        _, frames = decode_sparse(row["source_path"], row["start_s"], row["end_s"], config.num_score_frames)
    row = {**row, **dict.fromkeys(columns_of("score")), **_content(row, find_content(frames))}
    frames = crop_frames(frames, content_shares(row))
    seconds = row["end_s"] - row["start_s"]
    row |= technical_scores(frames)
    row["blur"] = blur(frames)
    row["blockiness"] = blockiness(frames)
    row["static_edge_ratio"] = static_edge_ratio(frames, row.get("camera_motion"), seconds)
    few = frames[np.linspace(0, len(frames) - 1, min(config.num_network_frames, len(frames))).round().astype(int)]
    if tools.text is not None and failed_gate(row, config.gates, PICTURE_GATES) is None:
        row |= text_scores(tools.text(few))
    supplied = config.pose_model == "auto" and sidecar(Path(row["source_path"]), KEYPOINTS) is not None
    if tools.persons is not None and not supplied and failed_gate(row, config.gates, TEXT_GATES) is None:
        row["num_detected_persons"], row["detected_person_ratio"] = tools.persons.count(few)
    if tools.aesthetics is not None and failed_gate(row, config.gates, PERSON_GATES) is None:
        row |= tools.aesthetics.summary(few)
    return row


def _content(row: Row, box: Box) -> Row:
    """Return the crop inside the borders, in even pixels of the source, and the share of the frame outside it."""
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


@on_local_copies("source_path", unchanged_since="source_id")
def estimate_pose(row: Row, config: CurateConfig, tools: PoseTools | None = None) -> Row:
    """Estimate keypoints of every frame, score them, and run frame models; skip clips that a cheap gate rejects.

    The pose is estimated and scored inside the borders, and stored relative to the whole frame.
    """
    if failed_gate(row, config.gates, CHEAP_GATES) is not None:
        return row
    tools = tools or PoseTools()
    times_s = row["start_s"] + np.arange(row["num_frames"]) / config.fps
    shares = content_shares(row)
    frames = ClipFrames(row, times_s, tools.reader)
    model, counted, tracks = find_poses(
        Path(row["source_path"]), times_s, lambda: frames.in_memory, config.pose_model, tools.estimator
    )
    seen: Row = {
        **row,
        "pose_model": model,
        "num_persons": row.get("num_detected_persons"),
        "other_person_ratio": row.get("detected_person_ratio"),
    }
    if not tracks:
        return seen if model is None else {**seen, "missing_pose_ratio": 1.0}
    # Supplied keypoints refer to the whole frame, estimated ones to the crop.
    poses = [track.pose if frames.were_read else to_content(track.pose, shares) for track in tracks]
    if counted is not None:
        seen["num_persons"], seen["other_person_ratio"] = count_tracks(poses)
    height, width = content_size(row)
    scores = pose_scores(poses[0], tracks[0].confidence, width / height, config.fps)
    decoded = frames.in_memory if frames.were_read else None
    scores["appearance_change"] = None if decoded is None else appearance_change(decoded, poses[0])
    scores["subject_clipped_ratio"] = None if decoded is None else subject_clipped_ratio(decoded, poses[0])
    # Supplied keypoints need no frames, smoothness and frame models do.
    scores["motion_smoothness"] = tools.smoothness(frames.in_memory, frames.on_device) if tools.smoothness else None
    if tools.frame_models:
        seen |= annotate(tools.frame_models, frames.tensor(tools.device), config.fps)
    pose = to_frame(poses[0], shares).to_bytes()
    digest = sha256(pose).hexdigest()[:16]
    return {**seen, "pose": pose, "pose_digest": digest, **scores}
