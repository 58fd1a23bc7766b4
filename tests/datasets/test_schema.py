"""The clip row: one schema, rows that travel whole, and null for what was not measured."""

import pyarrow as pa
import pytest

from steadydancer.datasets.schema import CLIP_SCHEMA, columns_of, from_ipc, to_ipc, to_table

CONTRACT = {"source_path", "source_id", "clip_id", "start_s", "end_s", "verdict", "reason"}


def test_the_schema_holds_what_others_read_and_says_who_writes_each_column() -> None:
    assert set(CLIP_SCHEMA.names) >= CONTRACT
    writers = [field.metadata[b"stage"].decode() for field in CLIP_SCHEMA]
    assert list(dict.fromkeys(writers)) == ["ingest", "probe", "shots", "score", "pose", "select"]  # order of the walk
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
