"""Read a finished curation: rows with scores and verdicts, and the keypoints that it measured.

`OUT/clips` holds the scores and verdict of every row. Keypoints stay in the parts of `OUT/measured`, so that a new
selection of a million clips does not copy them.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .artifact import VERDICTS, Artifact, ArtifactError, Packet
from .artifact_lookup import find_artifact
from .schema import CLIP_SCHEMA, FRAME_MODEL, Row
from .storage import Location, join, location
from .storage.digests import json_digest

BIG_COLUMNS = ("fingerprint", "pose")  # only in `measured`
PART_ROWS = 100_000  # rows per part of `clips`; a packet with more rows is not split
_PARTS_AT_ONCE = 256  # parts of `measured`, of a few rows each, that are read into one table
COLUMNS = [name for name in CLIP_SCHEMA.names if name not in BIG_COLUMNS]


class Clips:
    """A finished clips artifact.

    Args:
        folder: the `--out` of `curate` or `refilter`, or the artifact in it.

    Raises:
        ArtifactError: the artifact is not finished.
    """

    def __init__(self, folder: str | os.PathLike[str] | Location) -> None:
        self.artifact = find_artifact(location(folder), "clips")
        self.record: dict[str, Any] = self.artifact.record()
        self.measured = Artifact(join(self.artifact.path.parent, self.record["measured"]))

    @property
    def parent(self) -> Location | None:
        """Recorded location of the parent version, which may no longer exist; None without a parent."""
        parent = self.record.get("parent")
        return join(self.artifact.path.parent, parent["path"]) if parent else None

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Read all rows, or some of their columns, which exclude `pose` and `fingerprint`."""
        return self.artifact.read(columns)

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows of one part at a time, in path order; columns that their version did not have are null."""
        parts = self.artifact.parts()
        known = self.artifact.read_part(parts[0]).column_names
        requested = known if columns is None else columns
        for part in parts:
            yield with_columns(self.artifact.read_part(part, [name for name in requested if name in known]), requested)

    def poses(self, rows: Iterable[Row]) -> dict[str, bytes]:
        """Read keypoints (safetensors) of rows with `clip_id`, `source_path` and `measured_part`: clip_id → bytes.

        Raises:
            ArtifactError: a part is missing or damaged, or does not contain a row's keypoints.
        """
        poses = {row["clip_id"]: row["pose"] for row in self._measured(rows, ["pose"])}
        if without := sorted(clip_id for clip_id, pose in poses.items() if pose is None):
            raise ArtifactError(f"{self.measured.path} has no keypoints for {without[0]}: curate the clips again")
        return poses

    def annotations(self, model: str, rows: Iterable[Row]) -> list[Row]:
        """Read what a frame model wrote for rows, as those of `poses`: `clip_id` and the model's columns `model_…`.

        Raises:
            ArtifactError: the clips were curated without this model, or a part is missing or damaged.
        """
        if model not in self.record.get("frame_models", {}):
            known = ", ".join(self.record.get("frame_models", {})) or "none"
            raise ArtifactError(f"{self.artifact.path} has no annotations of {model}; its frame models: {known}")
        schema = self.measured.part_schema(self.measured.parts()[0])
        own = [field.name for field in schema if (field.metadata or {}).get(FRAME_MODEL) == model.encode()]
        return list(self._measured(rows, own))

    def _measured(self, rows: Iterable[Row], columns: list[str]) -> Iterator[Row]:
        """Yield `clip_id` and columns of these rows from `measured`, part by part."""
        wanted: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        for row in rows:
            wanted[row["measured_part"]][row["clip_id"], row["source_path"]] = row["clip_id"]
        for part, keys in wanted.items():
            table = self.measured.read_part(part, ["clip_id", "source_path", *columns])
            ids, paths = (table.column(name).to_pylist() for name in ("clip_id", "source_path"))
            for index, key in enumerate(zip(ids, paths, strict=True)):
                if key in keys:
                    yield {"clip_id": keys.pop(key), **{name: table.column(name)[index].as_py() for name in columns}}
            if keys:
                raise ArtifactError(f"{self.measured.path / part} has no row of {min(keys)[0]}: curate the clips again")


class MeasuredRows:
    """Measured rows in path order; keypoints are read only if their column is requested.

    Args:
        measured: the artifact.
        parts: names of its parts, in path order; all rows of a source are in one part.
    """

    def __init__(self, measured: Artifact, parts: Sequence[str]) -> None:
        self.measured, self.parts = measured, list(parts)
        self._known: set[str] | None = None

    def known_columns(self) -> set[str]:
        """Return the columns of the first part; all parts have the same, as one version wrote them."""
        if self._known is None:
            self._known = set(self.measured.part_schema(self.parts[0]).names)
        return self._known

    def tables(self, columns: list[str]) -> Iterator[tuple[list[str], pa.Table]]:
        """Yield the names of a group of parts, and the rows of these parts."""
        for start in range(0, len(self.parts), _PARTS_AT_ONCE):
            parts = self.parts[start : start + _PARTS_AT_ONCE]
            yield parts, self.read(parts, columns)

    def read(self, parts: Sequence[str], columns: list[str]) -> pa.Table:
        """Read the rows of these parts; `taken_from` is the part of the parent that reused rows came from."""
        requested = sorted({*columns, "source_path", "start_s", "measured_part"} - {"taken_from"})
        known = self.known_columns() if self.parts else set()

        def read(part: str) -> pa.Table:
            stored = self.measured.read_part(part, [name for name in requested if name in known])
            table = with_columns(stored, requested)
            table = table.rename_columns(["taken_from" if name == "measured_part" else name for name in requested])
            return table.append_column("measured_part", pa.repeat(part, len(table)))

        with ThreadPoolExecutor(8) as pool:  # hides the latency of a store
            table = pa.concat_tables(pool.map(read, parts))
        return in_path_order(table).select(columns)


def in_path_order(table: pa.Table) -> pa.Table:
    """Sort rows by `source_path`, then by `start_s`."""
    keys = pa.table({"path": table["source_path"], "start_s": pc.fill_null(table["start_s"], 0.0)})
    return table.take(pc.sort_indices(keys, sort_keys=[("path", "ascending"), ("start_s", "ascending")]))


def with_columns(table: pa.Table, columns: list[str]) -> pa.Table:
    """Select columns of a table, in this order; a column that it lacks becomes null."""
    for name in set(columns) - set(table.column_names):
        table = table.append_column(name, pa.nulls(len(table), CLIP_SCHEMA.field(name).type))
    return table.select(columns)


def clips_packet(index: int, content: Any) -> Packet:
    """Name the part of `clips` with the rows of `content` (a JSON value); parts sort by `index`."""
    return Packet(f"{index:05d}-{json_digest(content)[:10]}", ())


def count_written(artifact: Artifact, num_inputs: int) -> dict[str, int]:
    """Count the verdicts in the written parts, for the record.

    Raises:
        ArtifactError: a part is damaged, or rows were lost or repeated.
    """
    counts = {"inputs": num_inputs} | dict.fromkeys(VERDICTS, 0)
    for part in artifact.parts():
        for one in artifact.read_part(part, ["verdict"]).column("verdict").value_counts().to_pylist():
            counts[one["values"]] += one["counts"]
    if num_inputs != sum(counts[verdict] for verdict in VERDICTS):
        raise ArtifactError(f"{artifact.path}: the counts do not add up, so rows were lost or duplicated: {counts}")
    return counts
