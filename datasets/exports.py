"""Exported clips: their files, and the manifests that this project and other trainers read.

The files of a clip are `videos/ID.mp4`, `videos/ID.txt` (caption), `videos/ID.pose.safetensors` (keypoints) and
`pose_videos/ID.mp4`. `clips.jsonl` lists them in every layout; `curate` reads it, or the folder `videos`.
"""

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from .schema import CROP_COLUMNS, Row
from .sidecars import CAPTION, KEYPOINTS
from .storage import Location
from .storage.atomic import atomic_write

LAYOUTS = ("mp4+jsonl", "diffsynth", "musubi")

_COPIED_FIELDS = (
    *("prompt", "source_id", "licence", "start_s", "end_s", "fps"),
    *("num_frames", "height", "width", "pose_model"),
)

# Fields of a line of `clips.jsonl` besides those that `curate` reads.
LINE_FIELDS = frozenset({"id", "pose_video", "keypoints", "caption", "scores", *_COPIED_FIELDS})

_FIELDS: list[tuple[str, pa.DataType]] = [
    *((name, pa.string()) for name in ("clip_id", "source_id", "source_path", "origin", "licence", "prompt")),
    *((name, pa.string()) for name in ("pose_model", "measured_part", "scores")),
    *((name, pa.float64()) for name in ("start_s", "end_s", "fps")),
    *((name, pa.int64()) for name in ("source_bytes",)),
    *((name, pa.int32()) for name in ("num_frames", "source_height", "source_width", "height", "width")),
    *((name, pa.int32()) for name in CROP_COLUMNS),
    *((name, pa.string()) for name in ("verdict", "reason", "detail")),
]
SCHEMA = pa.schema(_FIELDS)
"""Row of an export: the accepted clip, its `scores` as JSON, and the size at which it was written."""


def clip_files(clip_id: str) -> dict[str, str]:
    """Return the paths of a clip's files, relative to the export's folder."""
    return {
        "video": f"videos/{clip_id}.mp4",
        "pose_video": f"pose_videos/{clip_id}.mp4",
        "keypoints": f"videos/{clip_id}{KEYPOINTS}",
        "caption": f"videos/{clip_id}{CAPTION}",
    }


def write_manifests(folder: Location, layout: str, rows: Iterable[Row]) -> None:
    """Write the manifests of a layout into an export's folder; the same rows give the same bytes.

    Args:
        folder: the export's folder.
        layout: one of `LAYOUTS`.
        rows: rows of `SCHEMA`; only those with the verdict `ok` are written.
    """
    clips = sorted((row for row in rows if row["verdict"] == "ok"), key=lambda row: str(row["clip_id"]))
    texts = {"clips.jsonl": _lines(map(_jsonl_line, clips))}
    if layout == "diffsynth":
        texts["metadata.csv"] = _diffsynth(clips)
    elif layout == "musubi" and clips:
        texts["dataset.jsonl"] = _lines(map(_musubi, clips))
        texts["dataset.toml"] = _musubi_settings(clips)
    for name, text in texts.items():
        with atomic_write(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")


def _jsonl_line(row: Row) -> dict[str, Any]:
    """Make a line of `clips.jsonl`; `curate` reads its columns `path` and `source`."""
    files = clip_files(row["clip_id"])
    return {
        "id": row["clip_id"],
        "path": files["video"],
        **files,
        **{name: row[name] for name in _COPIED_FIELDS},
        "origin": row["origin"],
        "source": row["origin"],
        "scores": json.loads(row["scores"] or "{}"),
    }


def _diffsynth(clips: list[Row]) -> str:
    """Make a table for DiffSynth-Studio's `UnifiedDataset` (diffsynth/core/data/unified_dataset.py).

    It resolves paths against `--dataset_base_path`, reads the columns named by `--data_file_keys` as videos, and passes
    those named by `--extra_inputs` to the pipeline: `control_video` to Wan-Fun-Control, `animate_pose_video` to
    Wan-Animate (examples/wanvideo/model_training). It reads the first 4k + 1 frames at any rate, and crops sides to
    multiples of 16.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["video", "prompt", "control_video", "animate_pose_video"])
    for row in clips:
        files = clip_files(row["clip_id"])
        # It reads the table with pandas, which turns an empty cell into NaN.
        table.writerow([files["video"], row["prompt"] or " ", files["pose_video"], files["pose_video"]])
    return text.getvalue()


def _musubi(row: Row) -> dict[str, str]:
    """Make a line for musubi-tuner (docs/dataset_config.md): either every clip has a control video, or none has."""
    files = clip_files(row["clip_id"])
    return {"video_path": files["video"], "control_path": files["pose_video"], "caption": row["prompt"] or ""}


def _musubi_settings(clips: list[Row]) -> str:
    """Make musubi-tuner's settings (docs/dataset_config.md, src/musubi_tuner/dataset/bucket.py).

    With `bucket_no_upscale`, a clip of at most the area of `resolution` keeps its size, cropped to multiples of 16.
    Without `source_fps`, no frame is skipped. `target_frames` are 4k + 1, and `head` takes that many from the start.
    Relative paths are resolved against the tuner's working directory.
    """
    width, height = max(((row["width"], row["height"]) for row in clips), key=lambda size: size[0] * size[1])
    text = (
        "# Start the tuner in this folder: the paths are relative to it.\n"
        "[general]\n"
        f"resolution = [{width}, {height}]  # width, height of the largest clip\n"
        "batch_size = 1\n"
        "enable_bucket = true\n"
        "bucket_no_upscale = true\n"
    )
    for num_frames in sorted({row["num_frames"] for row in clips}):
        text += (
            "\n[[datasets]]\n"
            'video_jsonl_file = "dataset.jsonl"\n'
            'cache_directory = "musubi_cache"\n'
            f"target_frames = [{num_frames}]\n"
            'frame_extraction = "head"\n'
        )
    return text


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
