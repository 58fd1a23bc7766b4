"""The clip row: one flat Arrow schema in the order of the walk.

A row is a clip, or a source that yields none. Every input ends in exactly one verdict. What was not measured is null.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

Row = dict[str, Any]

# name, type, unit or range, who writes it, meaning
_FIELDS: list[tuple[str, pa.DataType, str, str, str]] = [
    ("source_path", pa.string(), "", "ingest", "where the file lay when it was read"),
    ("source_id", pa.string(), "sha256", "probe", "digest of the file's content; null when it cannot be read"),
    ("source_bytes", pa.int64(), "bytes", "probe", "size of the file"),
    ("prompt", pa.string(), "", "probe", "caption from the sidecar .txt; null when there is none"),
    ("codec", pa.string(), "", "probe", "video codec"),
    ("width", pa.int32(), "px", "probe", "upright width"),
    ("height", pa.int32(), "px", "probe", "upright height"),
    ("rotation_deg", pa.int32(), "degrees", "probe", "rotation that the container asks for"),
    ("fps", pa.float64(), "1/s", "probe", "average frame rate"),
    ("duration_s", pa.float64(), "s", "probe", "duration of the video stream"),
    ("num_source_frames", pa.int32(), "frames", "probe", "frames in the source, counted by demuxing"),
    (
        "clip_id",
        pa.string(),
        "sha256[:16]",
        "shots",
        "digest of source_id, span and sampling; of the path if unreadable",
    ),
    ("shot_index", pa.int32(), "", "shots", "shot of the source, from 0"),
    ("start_s", pa.float64(), "s", "shots", "first frame's time from the source's first frame"),
    ("end_s", pa.float64(), "s", "shots", "last frame's time"),
    ("num_frames", pa.int32(), "frames", "shots", "frames when sampled at the clip rate"),
    ("cut_score", pa.float64(), "0..1", "shots", "largest change between neighbouring frames inside the clip"),
    ("motion_magnitude", pa.float64(), "0..1", "shots", "mean absolute change of luma between frames 1/16 s apart"),
    ("brightness", pa.float64(), "0..1", "score", "mean luma"),
    ("contrast", pa.float64(), "0..1", "score", "standard deviation of luma"),
    ("colourfulness", pa.float64(), ">= 0", "score", "Hasler and Süsstrunk's M3 / 255"),
    (
        "sharpness",
        pa.float64(),
        ">= 0",
        "score",
        "variance of the Laplacian of luma / 255², short side scaled to 256 px",
    ),
    (
        "technical_quality",
        pa.float64(),
        "0..1",
        "score",
        "geometric mean of exposure, contrast and sharpness, each in 0..1",
    ),
    ("pose_model", pa.string(), "", "pose", "what gave the keypoints; `supplied` when they came with the clip"),
    ("num_persons", pa.int32(), "", "pose", "people seen; null when the model cannot count"),
    ("pose_confidence", pa.float64(), "0..1", "pose", "mean confidence of the main person's body joints"),
    ("missing_pose_ratio", pa.float64(), "0..1", "pose", "share of frames without a usable body"),
    ("visible_joint_ratio", pa.float64(), "0..1", "pose", "visible body joints of 18, mean over frames"),
    ("subject_height", pa.float64(), "0..1", "pose", "median height of the visible body over the image height"),
    ("in_frame_ratio", pa.float64(), "0..1", "pose", "visible body joints that lie inside the image"),
    ("head_above_hips_ratio", pa.float64(), "0..1", "pose", "share of frames in which the neck is above the hips"),
    (
        "pose_jerk",
        pa.float64(),
        "torsos/frame²",
        "pose",
        "95th percentile of joints' second difference over torso length",
    ),
    ("pose_motion", pa.float64(), "torsos/s", "pose", "mean speed of visible joints over torso length"),
    ("pose", pa.large_binary(), "", "pose", "PoseSequence of the main person, safetensors"),
    ("verdict", pa.string(), "", "select", "ok, rejected or quarantined"),
    ("reason", pa.string(), "", "select", "the first gate that refused the clip, or the class of error"),
    ("detail", pa.string(), "", "select", "the value and the bound, or the error's words"),
    ("unmeasured", pa.string(), "", "select", "gates that could not be applied because their score is null"),
]

CLIP_SCHEMA = pa.schema(
    [
        pa.field(name, kind, metadata={"unit": unit, "stage": stage, "meaning": meaning})
        for name, kind, unit, stage, meaning in _FIELDS
    ]
)


def columns_of(stage: str) -> tuple[str, ...]:
    """Columns that a stage of the curation writes."""
    return tuple(name for name, _, _, writer, _ in _FIELDS if writer == stage)


def to_table(rows: Iterable[Row], schema: pa.Schema = CLIP_SCHEMA) -> pa.Table:
    """Rows to a table of the schema; fields that a row lacks are null.

    Raises:
        KeyError: a row carries a field that the schema does not know.
    """
    rows = list(rows)
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise KeyError(f"fields that are not in the schema: {sorted(unknown)}")
    return pa.Table.from_pylist(rows, schema=schema)


def to_ipc(rows: Iterable[Row], schema: pa.Schema = CLIP_SCHEMA) -> bytes:
    """Rows as an Arrow stream: how they travel between processes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(to_table(rows, schema))
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> list[Row]:
    """The rows of an Arrow stream."""
    with pa.ipc.open_stream(data) as reader:
        return list(reader.read_all().to_pylist())
