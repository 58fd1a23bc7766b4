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
    ("origin", pa.string(), "", "ingest", "where it came from, as the manifest's column `source` says"),
    ("licence", pa.string(), "", "ingest", "what may be done with it, as the manifest says"),
    ("source_id", pa.string(), "sha256", "probe", "digest of the file's content; null when it cannot be read"),
    ("source_bytes", pa.int64(), "bytes", "probe", "size of the file"),
    ("prompt", pa.string(), "", "probe", "caption from the manifest or the sidecar .txt; null when there is none"),
    ("sidecar_note", pa.string(), "", "probe", "files beside it that were not taken: they may be another's; else null"),
    ("codec", pa.string(), "", "probe", "video codec"),
    ("width", pa.int32(), "px", "probe", "upright width"),
    ("height", pa.int32(), "px", "probe", "upright height"),
    ("rotation_deg", pa.int32(), "degrees", "probe", "rotation that the container asks for"),
    ("mirrored", pa.bool_(), "", "probe", "left and right are exchanged before that"),
    ("deinterlaced", pa.bool_(), "", "probe", "its frames hold two moments; the second is replaced"),
    ("transparent", pa.bool_(), "", "probe", "its frames have an alpha channel and are laid on white"),
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
    (
        "transition_score",
        pa.float64(),
        "0..1",
        "shots",
        "likeliest transition inside the clip; null without a shot detector",
    ),
    ("camera_motion", pa.float64(), "diagonals/s", "shots", "mean speed of the background; null where it is not seen"),
    ("camera_shake", pa.float64(), "diagonals/frame²", "shots", "mean second difference of the camera's path"),
    ("flow_residual", pa.float64(), "0..1", "shots", "change of luma left when the camera's motion is undone"),
    (
        "own_motion_ratio",
        pa.float64(),
        "0..1",
        "shots",
        "share of the picture that changes within half a second by what no motion of the camera explains, p90",
    ),
    ("noise", pa.float64(), "0..1", "shots", "standard deviation of noise in the calmest tenth of small frames"),
    ("flicker", pa.float64(), "0..1", "shots", "mean second difference of the picture's mean luma"),
    ("frozen_ratio", pa.float64(), "0..1", "shots", "share of frames that repeat the one before"),
    ("fingerprint", pa.large_binary(), "", "shots", "8 × 8 luma, four a second; null once copies are grouped"),
    ("leak_score", pa.float64(), "0..1", "shots", "likeness to a video of the excluded sets; null without such a set"),
    ("leak_of", pa.string(), "", "shots", "the excluded video that is most alike"),
    ("crop_left_px", pa.int32(), "px", "score", "left of the picture inside its borders; null: no borders"),
    ("crop_top_px", pa.int32(), "px", "score", "top of the picture inside its borders"),
    ("crop_width_px", pa.int32(), "px", "score", "width of the picture inside its borders"),
    ("crop_height_px", pa.int32(), "px", "score", "height of the picture inside its borders"),
    ("border_ratio", pa.float64(), "0..1", "score", "share of the frame that is border; all that follows is without"),
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
    ("blur", pa.float64(), "0..1", "score", "how little another blur changes (Crété-Roffet), short side 256 px"),
    ("blockiness", pa.float64(), ">= 0", "score", "how much a square grid stands out of changes from pixel to pixel"),
    (
        "static_edge_ratio",
        pa.float64(),
        "0..1",
        "score",
        "area whose edges stay while the camera moves; null: it rests",
    ),
    ("text_ratio", pa.float64(), "0..1", "score", "area with readable text in half of the frames or more"),
    (
        "text_length",
        pa.float64(),
        "0..1",
        "score",
        "longest line of it over the picture's width, or height if it runs down",
    ),
    ("any_text_ratio", pa.float64(), "0..1", "score", "area with readable text, mean over frames"),
    (
        "num_detected_persons",
        pa.int32(),
        "",
        "score",
        "people that a detector counts on a few frames, median; null with supplied keypoints",
    ),
    ("detected_person_ratio", pa.float64(), "0..1", "score", "torso of the second of them over the first's; 0: nobody"),
    ("aesthetic_score", pa.float64(), "about 1..10", "score", "LAION's, mean over frames; null without its weights"),
    ("action_type", pa.string(), "", "score", "likeliest action by CLIP; null without weights"),
    ("extreme_action", pa.float64(), "0..1", "score", "CLIP's probability of acrobatics; null without weights"),
    ("pose_model", pa.string(), "", "pose", "what gave the keypoints; `supplied` when they came with the clip"),
    (
        "num_persons",
        pa.int32(),
        "",
        "pose",
        "people from a third of the main one's size, by the keypoints' source; by the detector if that cannot count",
    ),
    ("other_person_ratio", pa.float64(), "0..1", "pose", "size of the second person over the main one; 0: nobody"),
    ("pose_confidence", pa.float64(), "0..1", "pose", "mean confidence of the body's joints; null: supplied"),
    ("missing_pose_ratio", pa.float64(), "0..1", "pose", "share of frames without a usable body"),
    ("visible_joint_ratio", pa.float64(), "0..1", "pose", "visible body joints of 18, mean over frames"),
    ("head_ratio", pa.float64(), "0..1", "pose", "share of frames in which an eye or an ear is seen"),
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
    ("pose_gap", pa.int32(), "frames", "pose", "longest run of frames without a usable body"),
    ("subject_area", pa.float64(), "0..1", "pose", "median area of the visible body's box over the picture"),
    ("subject_offset", pa.float64(), "0..1", "pose", "median distance of its middle from the picture's, across"),
    ("track_continuity", pa.float64(), "0..1", "pose", "neighbouring frames whose boxes overlap by 0.3 or more"),
    ("appearance_change", pa.float64(), "0..1", "pose", "largest step of the torso's colour; null if not looked at"),
    (
        "subject_clipped_ratio",
        pa.float64(),
        "0..1",
        "pose",
        "points of the body as bright as can be; null: not looked at",
    ),
    ("torso_tilt_deg", pa.float64(), "degrees", "pose", "95th percentile of the torso's angle to upright"),
    ("rotation_rate", pa.float64(), "rad/s", "pose", "95th percentile of the torso's turning in the picture"),
    ("airborne_height", pa.float64(), "torsos", "pose", "95th percentile of the lower foot's height over the ground"),
    (
        "motion_smoothness",
        pa.float64(),
        "0..1",
        "pose",
        "how well every second frame is told from its neighbours (VBench's, by AMT-S); null without its weights",
    ),
    ("pose_digest", pa.string(), "sha256[:16]", "pose", "digest of `pose`"),
    ("pose", pa.large_binary(), "", "pose", "PoseSequence of the main person, safetensors; in `measured` alone"),
    (
        "duplicate_group",
        pa.string(),
        "",
        "select",
        "the same for all files, or clips, that show the same; an id of one",
    ),
    ("verdict", pa.string(), "", "select", "ok, rejected or quarantined"),
    ("reason", pa.string(), "", "select", "the first gate that refused the clip, or the class of error"),
    ("detail", pa.string(), "", "select", "the value and the bound, or the error's words"),
    ("measured_part", pa.string(), "", "select", "part of `measured` that holds the row's `pose`"),
    ("unmeasured", pa.string(), "", "select", "gates that could not be applied because their score is null"),
]

CLIP_SCHEMA = pa.schema(
    [
        pa.field(name, kind, metadata={"unit": unit, "stage": stage, "meaning": meaning})
        for name, kind, unit, stage, meaning in _FIELDS
    ]
)

CROP_COLUMNS = tuple(name for name in CLIP_SCHEMA.names if name.startswith("crop_"))


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
