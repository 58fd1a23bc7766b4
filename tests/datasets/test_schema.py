"""The clip row: one schema, rows that travel whole, and null for what was not measured."""

import pyarrow as pa
import pytest

from steadydancer.datasets.schema import CLIP_SCHEMA, columns_of, from_ipc, to_ipc, to_table

# Columns as the first version wrote them, by writer and in order: newer ones may stand between.
FIRST = {
    "ingest": ("source_path:string origin:string licence:string "),
    "probe": (
        "source_id:string source_bytes:int64 prompt:string codec:string width:int32 height:int32 "
        "rotation_deg:int32 fps:double duration_s:double num_source_frames:int32 "
    ),
    "shots": (
        "clip_id:string shot_index:int32 start_s:double end_s:double num_frames:int32 cut_score:double "
        "motion_magnitude:double transition_score:double camera_motion:double camera_shake:double "
        "flow_residual:double own_motion_ratio:double noise:double flicker:double frozen_ratio:double "
        "fingerprint:large_binary leak_score:double leak_of:string "
    ),
    "score": (
        "crop_left_px:int32 crop_top_px:int32 crop_width_px:int32 crop_height_px:int32 border_ratio:double "
        "brightness:double contrast:double colourfulness:double sharpness:double technical_quality:double "
        "blur:double blockiness:double static_edge_ratio:double text_ratio:double text_length:double "
        "any_text_ratio:double num_detected_persons:int32 detected_person_ratio:double aesthetic_score:double "
        "action_type:string extreme_action:double "
    ),
    "pose": (
        "pose_model:string num_persons:int32 other_person_ratio:double pose_confidence:double "
        "missing_pose_ratio:double visible_joint_ratio:double head_ratio:double subject_height:double "
        "in_frame_ratio:double head_above_hips_ratio:double pose_jerk:double pose_motion:double "
        "pose_gap:int32 subject_area:double subject_offset:double track_continuity:double "
        "appearance_change:double subject_clipped_ratio:double torso_tilt_deg:double rotation_rate:double "
        "airborne_height:double motion_smoothness:double pose_digest:string pose:large_binary "
    ),
    "select": (
        "duplicate_group:string verdict:string reason:string detail:string measured_part:string unmeasured:string "
    ),
}

CONTRACT = {"source_path", "source_id", "clip_id", "start_s", "end_s", "verdict", "reason"}


def test_the_schema_holds_what_others_read_and_says_who_writes_each_column() -> None:
    assert set(CLIP_SCHEMA.names) >= CONTRACT
    writers = [field.metadata[b"stage"].decode() for field in CLIP_SCHEMA]
    assert list(dict.fromkeys(writers)) == [
        "ingest",
        "probe",
        "shots",
        "score",
        "pose",
        "select",
    ]  # order of the row stages
    assert [name for stage in dict.fromkeys(writers) for name in columns_of(stage)] == CLIP_SCHEMA.names
    assert all(field.metadata[b"meaning"] for field in CLIP_SCHEMA)


def test_units_stand_where_names_ask_for_them() -> None:
    units = {field.name: field.metadata[b"unit"].decode() for field in CLIP_SCHEMA}
    assert all(unit == "s" for name, unit in units.items() if name.endswith("_s"))
    assert all(unit.startswith("0..1") for name, unit in units.items() if name.endswith("_ratio"))


def test_rows_cross_processes_whole_and_lacking_fields_are_null() -> None:
    rows = [{"source_path": "舞蹈.mp4", "fps": 29.97, "num_frames": 81, "pose": b"\x00\xff"}, {"source_path": "b"}]
    out = from_ipc(to_ipc(rows))
    assert out == [dict.fromkeys(CLIP_SCHEMA.names) | row for row in rows]
    assert from_ipc(to_ipc([])) == []


def test_a_field_that_nobody_declared_is_refused() -> None:
    with pytest.raises(KeyError, match="scroe"):
        to_table([{"source_path": "a", "scroe": 1.0}])
    with pytest.raises(pa.ArrowInvalid):
        to_table([{"num_frames": "many"}])


def test_columns_of_the_first_version_keep_their_names_types_writers_and_order() -> None:
    for stage, reported in FIRST.items():
        columns = reported.split()
        now = [f"{name}:{CLIP_SCHEMA.field(name).type}" for name in columns_of(stage)]
        assert [column for column in now if column in columns] == columns


def test_a_table_has_every_column_in_the_schemas_order_whatever_a_row_has() -> None:
    table = to_table([{"width": 3, "source_path": "a"}, {"pose": b"x", "verdict": "ok"}])
    assert table.schema == CLIP_SCHEMA
    assert table["width"].to_pylist() == [3, None] and table["pose"].to_pylist() == [None, b"x"]
    own = pa.schema([("b", pa.int32()), ("a", pa.string())])
    assert to_table([{"a": "x"}], own).to_pylist() == [{"b": None, "a": "x"}]
    assert from_ipc(to_ipc([{"a": "x", "b": 1}], own)) == [{"b": 1, "a": "x"}]
    assert to_table(iter([{"a": "x"}, {"a": "y"}]), own)["a"].to_pylist() == ["x", "y"]
    with pytest.raises(KeyError, match="fields not in the schema: .'c', 'd'."):
        to_table([{"a": "x", "d": 1}, {"c": 1}], own)
