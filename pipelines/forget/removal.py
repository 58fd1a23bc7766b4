"""New versions of artifacts without the rows and files of some sources.

Artifacts are immutable, so a source is removed by writing a new version without it. Parts, shards and files without
rows of it are reused unchanged: as hard links, or on a store as server-side copies. Only the others are rewritten, and
their content depends on the old version and the ids alone.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal import isal_zlib

from ...datasets.artifact import Artifact, ArtifactError, Packet, plan_packets
from ...datasets.exports import clip_files, write_manifests
from ...datasets.shards import Sample, null_path, write_shard
from ...datasets.storage import Location
from ...datasets.storage.atomic import atomic_write
from ...datasets.storage.copies import copy_atomically, fetch_if_remote
from ...datasets.storage.digests import json_digest

REDACTED = "a forgotten source"
# Columns about the row's own file; all other text is searched for names of forgotten files.
UNREDACTED_COLUMNS = frozenset({"source_path", "source_id", "clip_id", "prompt", "origin", "licence", "scores"})
# One boolean per row. (Arrow's type stubs are stricter than its functions.)
Mask = Any
SHARD_COLUMNS = ("shard", "shard_bytes", "shard_sha256", "members")


@dataclass(frozen=True)
class Forgotten:
    """The sources to remove.

    Args:
        source_ids: digests of their content.
        paths: paths of all their files, and of unreadable files, which have no digest.
    """

    source_ids: frozenset[str]
    paths: frozenset[str]

    def rows(self, table: pa.Table) -> Mask:
        """Return the mask of the rows to remove; uses `source_path` if the table has it."""
        mask: Mask = pc.is_in(table["source_id"], pa.array(sorted(self.source_ids), pa.string()))
        if "source_path" in table.column_names:
            by_path = pc.is_in(table["source_path"], pa.array(sorted(self.paths), pa.string()))
            mask = pc.or_(mask, pc.and_(pc.is_null(table["source_id"]), by_path))
        return pc.fill_null(mask, pa.scalar(False))

    def remaining(self, table: pa.Table) -> pa.Table:
        """Return the table without the rows to remove."""
        rest: Mask = pc.invert(self.rows(table))
        return table.filter(rest)

    def redact(self, value: Any) -> Any:
        """Return a JSON value in which the names of their files are replaced."""
        if isinstance(value, dict):
            return {name: self.redact(one) for name, one in value.items()}
        if isinstance(value, list):
            return [self.redact(one) for one in value]
        if isinstance(value, str):
            for name in self._names:
                value = value.replace(name, REDACTED)
        return value

    @property
    def _names(self) -> list[str]:
        return sorted(self.paths, key=lambda name: (-len(name), name))

    def redact_table(self, table: pa.Table) -> pa.Table:
        """Replace the names of their files in texts of other rows (a copy of …)."""
        for index, field in enumerate(table.schema):
            if field.type == pa.string() and field.name not in UNREDACTED_COLUMNS:
                column = table.column(index)
                for name in self._names:
                    column = pc.replace_substring(column, name, REDACTED)
                table = table.set_column(index, field, column)
        return table


def rows_without(
    old: Artifact, new: Artifact, forgotten: Forgotten, columns: tuple[str, ...], groups: dict[str, str] | None = None
) -> Iterator[str]:
    """Write the missing parts of a table of clips or of measured rows, without the forgotten rows.

    Args:
        old: the version to read.
        new: the version to write; its parts keep their names, because rows refer to them.
        forgotten: sources to remove.
        columns: columns that decide whether a part must be rewritten.
        groups: new names for groups of copies that were named after a forgotten source.

    Yields:
        The name of each finished part.
    """
    for part in old.parts():
        if (new.path / part).is_file():
            yield part
            continue
        read = old.read_part(part, list(columns))
        if _any(forgotten.rows(read)) or forgotten.redact_table(read) != read or _named_after(read, groups):
            table = old.read_part(part)
            table = forgotten.redact_table(forgotten.remaining(table))
            with atomic_write(new.path / part) as aside:
                pq.write_table(_regrouped(table, groups), aside, compression="zstd")
        else:
            copy_atomically(old.path / part, new.path / part)
        yield part


def _named_after(table: pa.Table, groups: dict[str, str] | None) -> bool:
    return bool(groups) and _any(pc.is_in(table["duplicate_group"], pa.array(sorted(groups or {}), pa.string())))


def _regrouped(table: pa.Table, groups: dict[str, str] | None) -> pa.Table:
    if not _named_after(table, groups):
        return table
    index = table.schema.get_field_index("duplicate_group")
    names = [(groups or {}).get(name or "", name) for name in table.column(index).to_pylist()]
    return table.set_column(index, table.schema.field(index), pa.array(names, pa.string()))


def samples_without(old: Artifact, new: Artifact, forgotten: Forgotten) -> Iterator[str]:
    """Write the missing shards and index parts of a latent cache, without the forgotten samples.

    A shard's name depends on its samples: a shard that loses some gets a new name and keeps the other samples' bytes.

    Yields:
        The name of each finished old part.

    Raises:
        ArtifactError: a shard that must be rewritten is damaged.
    """
    nothing_left = True
    for part in old.parts():
        table = old.read_part(part)
        rows = forgotten.remaining(table).to_pylist()
        nothing_left = nothing_left and not rows
        if len(rows) == len(table):
            if not (new.path / part).is_file():
                for shard in sorted({row["shard"] for row in rows} - {None}):
                    copy_atomically(old.path / "shards" / shard, new.path / "shards" / shard)
                copy_atomically(old.path / part, new.path / part)
        elif rows and not new.part(packet := _packet_of(rows)).is_file():
            write_shard(new.path, packet, _samples(old.path, rows))
        yield part
    if nothing_left:
        write_shard(new.path, Packet(json_digest([])[:16], ()), [])


def _any(mask: Mask) -> bool:
    return bool(pc.any(mask).as_py())


def _packet_of(rows: list[dict[str, Any]]) -> Packet:
    ids = [row["clip_id"] for row in rows]
    (packet,) = plan_packets(ids, len(ids))
    return packet


def _samples(latents: Location, rows: list[dict[str, Any]]) -> list[Sample]:
    """Read samples from their shards, byte for byte."""
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        for row in rows:
            members = {}
            if row["shard"]:
                place = latents / "shards" / row["shard"]
                if row["shard"] not in files:
                    files[row["shard"]] = fetch_if_remote(place, Path(folder))
                for member in row["members"]:
                    data = _read(files[row["shard"]], member["offset"], member["size"])
                    if isal_zlib.crc32(data) != member["crc32"]:
                        raise ArtifactError(
                            f"shard {place} is truncated or damaged at {row['clip_id']}.{member['name']}: "
                            "repair the cache first, then run forget again"
                        )
                    members[member["name"]] = data
            samples.append(Sample({name: value for name, value in row.items() if name not in SHARD_COLUMNS}, members))
    return samples


def _read(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as opened:
        return os.pread(opened.fileno(), size, offset)


def copy_null_conditions(old: Artifact, new: Artifact, buckets: Iterable[tuple[int, int, int]]) -> list[str]:
    """Copy or hard-link the null conditions of these buckets; return their names."""
    names = []
    for bucket in sorted(buckets):
        target = null_path(new.path, bucket)
        if not target.is_file():
            copy_atomically(null_path(old.path, bucket), target)
        names.append(target.name)
    return names


def files_without(old: Artifact, new: Artifact, forgotten: Forgotten, layout: str) -> Iterator[str]:
    """Copy or hard-link the missing files of an export, then write its parts and manifests.

    Yields:
        The name of each finished part.
    """
    remaining: list[dict[str, Any]] = []
    for part in old.parts():
        table = old.read_part(part)
        table = forgotten.redact_table(forgotten.remaining(table))
        rows = table.to_pylist()
        remaining += rows
        if not (new.path / part).is_file():
            for row in rows:
                for file in clip_files(row["clip_id"]).values() if row["verdict"] == "ok" else ():
                    if not (new.path / file).is_file():
                        copy_atomically(old.path / file, new.path / file)
            with atomic_write(new.path / part) as aside:
                pq.write_table(table, aside, compression="zstd")
        yield part
    write_manifests(new.path, layout, remaining)
