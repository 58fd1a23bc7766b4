"""The row stage of an export: one accepted clip → its video, pose video, keypoints and caption, frame for frame."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ...datasets.clips import Clips
from ...datasets.exports import clip_files
from ...datasets.schema import CROP_COLUMNS, Row
from ...datasets.skeleton import PoseSequence, draw
from ...datasets.storage import location
from ...datasets.storage.atomic import atomic_write
from ...datasets.supplied_poses import save_supplied_pose
from ...datasets.video import decode, encode, size_for_area
from ..common.crop import content_shares, content_size, crop_frames, frame_of, size_to_decode, to_content
from ..runtime.local_files import on_local_copies, reading_video, require_unchanged
from ..runtime.stage import Stage
from .config import ExportConfig

# Clips are decoded and encoded in pieces: 81 frames of a large source are half a gigabyte.
FRAMES_AT_A_TIME = 27


@dataclass(frozen=True)
class ExportTask:
    """Input of a worker: the configuration, the clips with their keypoints, and the output folder."""

    config: ExportConfig
    clips: str
    out: str


def load_clips(task: ExportTask) -> Clips:
    """Open the clips, from which the worker reads keypoints when needed."""
    return Clips(task.clips)


def export_clip(row: Row, task: ExportTask, clips: Clips) -> Row:
    """Write a clip's four files, the video last, so that a video always has its other files."""
    # Keypoints are looked up by the source's original address, not by its local copy.
    pose = PoseSequence.from_bytes(clips.poses([row])[row["clip_id"]])
    out = _write_files(row, task, to_content(pose, content_shares(frame_of(row))))
    assert isinstance(out, dict)  # one row makes one
    return out


@on_local_copies("source_path")
def _write_files(row: Row, task: ExportTask, pose: PoseSequence) -> Row:
    height, width = export_size(row, task.config)
    files = clip_files(row["clip_id"])
    source = Path(row["source_path"])
    with tempfile.TemporaryDirectory() as name:
        local = {kind: Path(name) / kind / Path(file).name for kind, file in files.items()}
        for file in local.values():
            file.parent.mkdir()
        local["keypoints"] = local["video"].with_name(local["keypoints"].name)  # where save_supplied_pose writes them
        with reading_video(), require_unchanged(source, row["source_id"]):
            encode(_frames(source, row, task.config), local["video"], row["fps"], lossless=task.config.lossless)
        drawn = (draw(pose[some], height, width) for some in _slices(row["num_frames"]))
        encode(drawn, local["pose_video"], row["fps"], lossless=task.config.lossless)
        save_supplied_pose(local["video"], [pose], row["fps"])
        local["caption"].write_text(f"{row['prompt'] or ''}\n", encoding="utf-8")
        for kind in ("caption", "keypoints", "pose_video", "video"):
            with atomic_write(location(task.out) / files[kind]) as aside:
                shutil.copyfile(local[kind], aside)
    return {**row, "height": height, "width": width, "verdict": "ok"}


def export_size(row: Row, config: ExportConfig) -> tuple[int, int]:
    """Return the even (height, width) of an exported clip: the trained size, or that of the source's picture."""
    height, width = content_size(frame_of(row))
    if config.max_area_px is None:
        return height // 2 * 2, width // 2 * 2
    return size_for_area(height, width, config.max_area_px)


def _frames(source: Path, row: Row, config: ExportConfig) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the frames that a cache encodes: at the clip's times, cropped to the picture, at the trained size.

    As in the cache, the decoder scales down to at most twice the trained size, and the rest is bicubic resizing without
    antialiasing.
    """
    height, width = export_size(row, config)
    frame = frame_of(row)
    size = () if config.max_area_px is None else size_to_decode(frame, height)
    times_s = row["start_s"] + np.arange(row["num_frames"]) / row["fps"]
    for some in _slices(row["num_frames"]):
        frames = crop_frames(decode(source, times_s[some], *size), content_shares(frame))
        if config.max_area_px is None:
            yield frames[:, :height, :width]
        else:
            yield np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in frames])


def _slices(num_frames: int) -> Iterator[slice]:
    return (slice(start, start + FRAMES_AT_A_TIME) for start in range(0, num_frames, FRAMES_AT_A_TIME))


READS = ("clip_id", "source_path", "source_id", "measured_part", "prompt", "start_s", "fps", "num_frames",
         "source_height", "source_width", *CROP_COLUMNS)  # fmt: skip
STAGES = [Stage("export", export_clip, READS, ("height", "width", "verdict"), load=load_clips)]
