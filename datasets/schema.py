"""Schema of a clip row: one flat Arrow schema, with columns in the order of the row stages that write them.

A row is a clip, or a source that yields none. Every input gets exactly one verdict. A value that was not measured is
null.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

Row = dict[str, Any]

# name, type, unit or range, row stage that writes it, meaning
_FIELDS: list[tuple[str, pa.DataType, str, str, str]] = [
    ("source_path", pa.string(), "", "ingest", "path of the source file when it was read"),
    ("origin", pa.string(), "", "ingest", "origin of the source, from the manifest's column `source`"),
    ("licence", pa.string(), "", "ingest", "licence of the source, from the manifest"),
    ("source_id", pa.string(), "sha256", "probe", "digest of the file's content; null when it cannot be read"),
    ("source_bytes", pa.int64(), "bytes", "probe", "size of the file"),
    ("prompt", pa.string(), "", "probe", "caption from the manifest or the sidecar .txt; null when there is none"),
    ("sidecar_note", pa.string(), "", "probe", "sidecars ignored because they may belong to another file; else null"),
    ("codec", pa.string(), "", "probe", "video codec"),
    ("width", pa.int32(), "px", "probe", "upright width"),
    ("height", pa.int32(), "px", "probe", "upright height"),
    ("rotation_deg", pa.int32(), "degrees", "probe", "rotation given by the container"),
    ("mirrored", pa.bool_(), "", "probe", "whether frames are flipped horizontally before the rotation"),
    ("deinterlaced", pa.bool_(), "", "probe", "whether frames are interlaced; the second field is replaced"),
    ("transparent", pa.bool_(), "", "probe", "whether frames have an alpha channel; they are composited on white"),
    ("fps", pa.float64(), "1/s", "probe", "average frame rate"),
    ("duration_s", pa.float64(), "s", "probe", "duration of the video stream"),
    ("num_source_frames", pa.int32(), "frames", "probe", "frames in the source, counted by demuxing"),
    (
        "clip_id",
        pa.string(),
        "sha256[:16]",
        "shots",
        "digest of source_id, time span and sampling; of the path if the source is unreadable",
    ),
    ("shot_index", pa.int32(), "", "shots", "index of the shot in the source, from 0"),
    ("start_s", pa.float64(), "s", "shots", "time of the first frame, from the source's first frame"),
    ("end_s", pa.float64(), "s", "shots", "time of the last frame, from the source's first frame"),
    ("num_frames", pa.int32(), "frames", "shots", "number of frames sampled at the clip rate"),
    ("cut_score", pa.float64(), "0..1", "shots", "largest change between consecutive frames of the clip"),
    ("motion_magnitude", pa.float64(), "0..1", "shots", "mean absolute change of luma between frames 1/16 s apart"),
    (
        "transition_score",
        pa.float64(),
        "0..1",
        "shots",
        "highest probability of a transition within the clip; null without a shot detector",
    ),
    ("camera_motion", pa.float64(), "diagonals/s", "shots", "mean speed of the background; null if it is not visible"),
    ("camera_shake", pa.float64(), "diagonals/frame²", "shots", "mean second difference of the camera path"),
    ("flow_residual", pa.float64(), "0..1", "shots", "change of luma that remains after compensating camera motion"),
    (
        "own_motion_ratio",
        pa.float64(),
        "0..1",
        "shots",
        "share of the picture that changes within half a second and is not explained by camera motion, p90",
    ),
    ("noise", pa.float64(), "0..1", "shots", "standard deviation of noise in the calmest tenth of downscaled frames"),
    ("flicker", pa.float64(), "0..1", "shots", "mean second difference of the frames' mean luma"),
    ("frozen_ratio", pa.float64(), "0..1", "shots", "share of frames that repeat the previous frame"),
    ("fingerprint", pa.large_binary(), "", "shots", "8 × 8 luma, four per second; null after duplicates are grouped"),
    ("leak_score", pa.float64(), "0..1", "shots", "similarity to a video of an excluded set; null without such a set"),
    ("leak_of", pa.string(), "", "shots", "most similar excluded video"),
    ("crop_left_px", pa.int32(), "px", "score", "left edge of the picture inside its borders; null: no borders"),
    ("crop_top_px", pa.int32(), "px", "score", "top edge of the picture inside its borders"),
    ("crop_width_px", pa.int32(), "px", "score", "width of the picture inside its borders"),
    ("crop_height_px", pa.int32(), "px", "score", "height of the picture inside its borders"),
    ("border_ratio", pa.float64(), "0..1", "score", "share of the frame that is border; later columns exclude it"),
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
    ("blur", pa.float64(), "0..1", "score", "perceptual blur by re-blurring (Crété-Roffet), short side 256 px"),
    ("blockiness", pa.float64(), ">= 0", "score", "strength of a square grid in the differences between pixels"),
    (
        "static_edge_ratio",
        pa.float64(),
        "0..1",
        "score",
        "area whose edges stay fixed while the camera moves; null: the camera does not move",
    ),
    ("text_ratio", pa.float64(), "0..1", "score", "area with readable text in at least half of the frames"),
    (
        "text_length",
        pa.float64(),
        "0..1",
        "score",
        "longest line of that text relative to the picture's width (vertical text: to its height)",
    ),
    ("any_text_ratio", pa.float64(), "0..1", "score", "area with readable text, mean over frames"),
    (
        "num_detected_persons",
        pa.int32(),
        "",
        "score",
        "number of people found by a detector, median of a few frames; null with supplied keypoints",
    ),
    (
        "detected_person_ratio",
        pa.float64(),
        "0..1",
        "score",
        "torso size of the second person relative to the first; 0: none",
    ),
    ("aesthetic_score", pa.float64(), "about 1..10", "score", "LAION's score, mean over frames; null without weights"),
    ("action_type", pa.string(), "", "score", "most likely action by CLIP; null without weights"),
    ("extreme_action", pa.float64(), "0..1", "score", "probability of acrobatics by CLIP; null without weights"),
    ("pose_model", pa.string(), "", "pose", "source of the keypoints; `supplied` if they came with the clip"),
    (
        "num_persons",
        pa.int32(),
        "",
        "pose",
        "people at least a third the size of the main person, by `pose_model`, or by the detector if it cannot count",
    ),
    ("other_person_ratio", pa.float64(), "0..1", "pose", "size of the second person relative to the main one; 0: none"),
    ("pose_confidence", pa.float64(), "0..1", "pose", "mean confidence of the body's joints; null: supplied"),
    ("missing_pose_ratio", pa.float64(), "0..1", "pose", "share of frames without a usable body"),
    ("visible_joint_ratio", pa.float64(), "0..1", "pose", "visible body joints of 18, mean over frames"),
    ("head_ratio", pa.float64(), "0..1", "pose", "share of frames in which an eye or an ear is visible"),
    ("subject_height", pa.float64(), "0..1", "pose", "median height of the visible body relative to the image"),
    ("in_frame_ratio", pa.float64(), "0..1", "pose", "share of visible body joints inside the image"),
    ("head_above_hips_ratio", pa.float64(), "0..1", "pose", "share of frames in which the neck is above the hips"),
    (
        "pose_jerk",
        pa.float64(),
        "torsos/frame²",
        "pose",
        "95th percentile of the joints' second difference, in torso lengths",
    ),
    ("pose_motion", pa.float64(), "torsos/s", "pose", "mean speed of visible joints, in torso lengths"),
    ("pose_gap", pa.int32(), "frames", "pose", "longest run of frames without a usable body"),
    ("subject_area", pa.float64(), "0..1", "pose", "median area of the visible body's box relative to the image"),
    ("subject_offset", pa.float64(), "0..1", "pose", "median horizontal distance between the centres of box and image"),
    (
        "track_continuity",
        pa.float64(),
        "0..1",
        "pose",
        "share of consecutive frames whose boxes have an IoU of 0.3 or more",
    ),
    ("appearance_change", pa.float64(), "0..1", "pose", "largest change of the torso's colour; null if not measured"),
    (
        "subject_clipped_ratio",
        pa.float64(),
        "0..1",
        "pose",
        "share of overexposed points of the body; null if not measured",
    ),
    ("torso_tilt_deg", pa.float64(), "degrees", "pose", "95th percentile of the torso's angle from upright"),
    ("rotation_rate", pa.float64(), "rad/s", "pose", "95th percentile of the torso's rotation in the image plane"),
    ("airborne_height", pa.float64(), "torsos", "pose", "95th percentile of the lower foot's height above the ground"),
    (
        "motion_smoothness",
        pa.float64(),
        "0..1",
        "pose",
        "accuracy of interpolating every second frame from its neighbours (VBench, AMT-S); null without weights",
    ),
    ("pose_digest", pa.string(), "sha256[:16]", "pose", "digest of `pose`"),
    ("pose", pa.large_binary(), "", "pose", "PoseSequence of the main person, safetensors; only in `measured`"),
    (
        "duplicate_group",
        pa.string(),
        "",
        "select",
        "group of files or clips with the same content, named by the id of one of them",
    ),
    ("verdict", pa.string(), "", "select", "ok, rejected or quarantined"),
    ("reason", pa.string(), "", "select", "first gate that rejected the clip, or the class of the error"),
    ("detail", pa.string(), "", "select", "value and threshold, or the error message"),
    ("measured_part", pa.string(), "", "select", "part of `measured` that contains the row's `pose`"),
    ("unmeasured", pa.string(), "", "select", "gates that were not applied because their score is null"),
]

CLIP_SCHEMA = pa.schema(
    [
        pa.field(name, kind, metadata={"unit": unit, "stage": stage, "meaning": meaning})
        for name, kind, unit, stage, meaning in _FIELDS
    ]
)

FRAME_MODEL = b"frame_model"
"""In a field's metadata: the frame model that wrote the column, see `pipelines/curate/frame_models.py`."""

CROP_COLUMNS = tuple(name for name in CLIP_SCHEMA.names if name.startswith("crop_"))


def columns_of(stage: str) -> tuple[str, ...]:
    """Return the columns that a row stage of the curation writes."""
    return tuple(name for name, _, _, writer, _ in _FIELDS if writer == stage)


def to_table(rows: Iterable[Row], schema: pa.Schema = CLIP_SCHEMA) -> pa.Table:
    """Convert rows to a table of the schema; missing fields become null.

    Raises:
        KeyError: a row has a field that is not in the schema.
    """
    rows = list(rows)
    unknown = {name for row in rows for name in row} - set(schema.names)
    if unknown:
        raise KeyError(f"fields not in the schema: {sorted(unknown)}")
    return pa.Table.from_pylist(rows, schema=schema)


def to_ipc(rows: Iterable[Row], schema: pa.Schema = CLIP_SCHEMA) -> bytes:
    """Convert rows to an Arrow stream, to send them between processes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(to_table(rows, schema))
    return bytes(sink.getvalue())


def from_ipc(data: bytes) -> list[Row]:
    """Read the rows of an Arrow stream."""
    with pa.ipc.open_stream(data) as reader:
        return list(reader.read_all().to_pylist())
