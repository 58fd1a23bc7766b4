"""A finished curation as those who come after it read it: rows with verdicts, and keypoints where they were measured.

`OUT/clips` holds every row's scores and verdict; keypoints stay in the parts of `OUT/measured`, so that another
selection of a million clips copies none of them.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .artifact import VERDICTS, Artifact, ArtifactError, Packet
from .finished import finished
from .schema import CLIP_SCHEMA, Row
from .storage import Location, join, location
from .storage.digests import json_digest

BIG_COLUMNS = ("fingerprint", "pose")  # in `measured` alone
PART_ROWS = 100_000  # rows of a part of `clips`, or those of one packet if these are more
_PARTS_AT_ONCE = 256  # parts of `measured`, of a few rows each, that are read into one table
COLUMNS = [name for name in CLIP_SCHEMA.names if name not in BIG_COLUMNS]


class Clips:
    """A finished clips artifact.

    Args:
        folder: what `curate --out` or `refilter --out` was given, or the artifact in it.

    Raises:
        ArtifactError: it is not finished.
    """

    def __init__(self, folder: str | os.PathLike[str] | Location) -> None:
        self.artifact = finished(location(folder), "clips")
        self.record: dict[str, Any] = self.artifact.record()
        self.measured = Artifact(join(self.artifact.path.parent, self.record["measured"]))

    @property
    def parent(self) -> Location | None:
        """Where the version that this one was made from lies, or lay; None without one."""
        parent = self.record.get("parent")
        return join(self.artifact.path.parent, parent["path"]) if parent else None

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, or some of their columns; `pose` and `fingerprint` are not among them."""
        return self.artifact.read(columns)

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows a part at a time, in path order; null in columns that their version did not know yet."""
        parts = self.artifact.parts()
        known = self.artifact.read_part(parts[0]).column_names
        asked = known if columns is None else columns
        for part in parts:
            yield with_columns(self.artifact.read_part(part, [name for name in asked if name in known]), asked)

    def poses(self, rows: Iterable[Row]) -> dict[str, bytes]:
        """Keypoints (safetensors) of rows with `clip_id`, `source_path` and `measured_part`: clip_id → bytes.

        Raises:
            ArtifactError: a part is missing or damaged, or does not hold a row's keypoints.
        """
        wanted: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        for row in rows:
            wanted[row["measured_part"]][row["clip_id"], row["source_path"]] = row["clip_id"]
        poses = {}
        for part, keys in wanted.items():
            table = self.measured.read_part(part, ["clip_id", "source_path", "pose"])
            ids, paths = (table.column(name).to_pylist() for name in ("clip_id", "source_path"))
            for index, key in enumerate(zip(ids, paths, strict=True)):
                if key in keys and (pose := table.column("pose")[index].as_py()) is not None:
                    poses[keys.pop(key)] = pose
            if keys:
                raise ArtifactError(f"{self.measured.path / part} holds no keypoints of {min(keys)[0]}: curate it anew")
        return poses


class MeasuredRows:
    """Rows as they were measured, in path order, without their keypoints unless these are asked for.

    Args:
        measured: the artifact.
        parts: names of its parts, those of earlier paths first; all rows of a source lie in one.
    """

    def __init__(self, measured: Artifact, parts: Sequence[str]) -> None:
        self.measured, self.parts = measured, list(parts)
        self._known: set[str] | None = None

    def known_columns(self) -> set[str]:
        """What the version that measured them knew: one version made all parts."""
        if self._known is None:
            self._known = set(self.measured.part_schema(self.parts[0]).names)
        return self._known

    def tables(self, columns: list[str]) -> Iterator[tuple[list[str], pa.Table]]:
        """The rows of some parts at a time, and which parts these are."""
        for start in range(0, len(self.parts), _PARTS_AT_ONCE):
            parts = self.parts[start : start + _PARTS_AT_ONCE]
            yield parts, self.read(parts, columns)

    def read(self, parts: Sequence[str], columns: list[str]) -> pa.Table:
        """The rows of these parts; `measured_part` says which, `taken_from` whence rows of a parent came."""
        asked = sorted({*columns, "source_path", "start_s", "measured_part"} - {"taken_from"})
        known = self.known_columns() if self.parts else set()

        def read(part: str) -> pa.Table:
            stored = self.measured.read_part(part, [name for name in asked if name in known])
            table = with_columns(stored, asked)
            table = table.rename_columns(["taken_from" if name == "measured_part" else name for name in asked])
            return table.append_column("measured_part", pa.repeat(part, len(table)))

        with ThreadPoolExecutor(8) as pool:  # on a store, each waits for its own answers
            table = pa.concat_tables(pool.map(read, parts))
        return in_path_order(table).select(columns)


def in_path_order(table: pa.Table) -> pa.Table:
    """Rows sorted by `source_path`, then by `start_s`."""
    keys = pa.table({"path": table["source_path"], "start_s": pc.fill_null(table["start_s"], 0.0)})
    return table.take(pc.sort_indices(keys, sort_keys=[("path", "ascending"), ("start_s", "ascending")]))


def with_columns(table: pa.Table, columns: list[str]) -> pa.Table:
    """These columns of a table, in this order; null where it has none."""
    for name in set(columns) - set(table.column_names):
        table = table.append_column(name, pa.nulls(len(table), CLIP_SCHEMA.field(name).type))
    return table.select(columns)


def clips_packet(index: int, content: Any) -> Packet:
    """The part of `clips` that holds the rows of `content` (a JSON value); parts lie in the order of `index`."""
    return Packet(f"{index:05d}-{json_digest(content)[:10]}", ())


def count_written(artifact: Artifact, num_inputs: int) -> dict[str, int]:
    """Verdicts in the parts as they lie there, for the record.

    Raises:
        ArtifactError: a part is damaged, or rows were lost or repeated.
    """
    counts = {"inputs": num_inputs} | dict.fromkeys(VERDICTS, 0)
    for part in artifact.parts():
        for one in artifact.read_part(part, ["verdict"]).column("verdict").value_counts().to_pylist():
            counts[one["values"]] += one["counts"]
    if num_inputs != sum(counts[verdict] for verdict in VERDICTS):
        raise ArtifactError(f"{artifact.path}: rows were lost or repeated, the counts do not balance: {counts}")
    return counts
