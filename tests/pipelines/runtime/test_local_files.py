"""A step looks at the file that was curated, or not at all: also where it is replaced while the step reads."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from steadydancer.datasets.schema import Row
from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
from steadydancer.pipelines.runtime.local_files import on_local_copies
from steadydancer.pipelines.runtime.stage import BadClip

OLD, NEW = b"old" * 100, b"new" * 100


def row_of(place: object) -> Row:
    return {"source_path": str(place), "source_id": hashlib.sha256(OLD).hexdigest()}


@on_local_copies("source_path", unchanged_since="source_id")
def read(row: Row, config: Any, tools: Any = None) -> Row:
    """A step; `config` is called when it has read half."""
    half = Path(row["source_path"]).read_bytes()[:10]
    if config:
        config()
    return {**row, "seen": half}


def test_the_file_that_was_curated_passes_and_another_is_quarantined(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(OLD)
    assert read(row_of(file), None) == {**row_of(file), "seen": OLD[:10]}
    file.write_bytes(NEW)
    with pytest.raises(BadClip, match=f"source_changed: {file} has changed since it was curated"):
        read(row_of(file), None)
    file.unlink()
    with pytest.raises(BadClip, match="unreadable: the file cannot be opened"):
        read(row_of(file), None)


def test_a_file_that_is_replaced_while_it_is_read_is_noticed_whatever_comes_of_it(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"

    def replace() -> None:
        (tmp_path / "new").write_bytes(NEW)
        (tmp_path / "new").replace(file)

    def replace_and_fail() -> None:
        replace()
        raise IndexError("a frame that the new file does not have")

    for happens in (replace, replace_and_fail):
        file.write_bytes(OLD)
        with pytest.raises(BadClip, match="source_changed"):
            read(row_of(file), happens)

    def touch_and_fail() -> None:
        file.write_bytes(OLD)
        raise IndexError("a fault of the code")

    file.write_bytes(OLD)
    with pytest.raises(IndexError):
        read(row_of(file), touch_and_fail)


def test_an_object_that_was_replaced_is_named_by_its_address(bucket: str, tmp_path: Path) -> None:
    place = ObjectPath.parse(bucket) / "clips" / "a.mp4"
    (tmp_path / "local").write_bytes(OLD)
    upload_file(tmp_path / "local", place)
    assert read(row_of(place), None) == {**row_of(place), "seen": OLD[:10]}
    (tmp_path / "local").write_bytes(NEW + b".")
    upload_file(tmp_path / "local", place)
    with pytest.raises(BadClip, match=f"source_changed: {place} has changed since"):
        read(row_of(place), None)


def test_what_a_step_says_of_an_object_names_its_address(bucket: str, tmp_path: Path) -> None:
    """In rows that stay, too: where the copy lay is of no use to anybody."""

    @on_local_copies("image", "truth")
    def look(row: Row, config: Any, tools: Any = None) -> list[Row]:
        return [{**row, "detail": f"{row['truth']} is no {row['image']}"}, {**row, "detail": None}]

    row = {"image": f"{bucket}/a.png", "truth": f"{bucket}/b.mp4"}
    (tmp_path / "local").write_bytes(OLD)
    for place in row.values():
        upload_file(tmp_path / "local", ObjectPath.parse(place))
    said, silent = look(row, None)
    assert said == {**row, "detail": f"{bucket}/b.mp4 is no {bucket}/a.png"} and silent == {**row, "detail": None}
