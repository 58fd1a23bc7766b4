"""Check the index of a cache against its record, this code, a run's settings and the sizes of its shards."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..artifact import Artifact, ArtifactError
from ..rules import with_absent
from ..storage import Location
from ..storage.digests import differences
from .encodings import ENCODINGS


def check_index(path: Location, record: Mapping[str, Any], index: pa.Table) -> None:
    """Reject caches with other encoding versions, parts of another cache, or lost or repeated rows.

    Args:
        path: path of the cache.
        record: its `run.json`.
        index: all rows of its parts.

    Raises:
        ArtifactError: a check failed. The message names the field.
    """
    changes = list(differences(record.get("encodings"), ENCODINGS, "encodings"))
    if changes:
        raise ArtifactError(
            f"{path} was made with different encodings ({', '.join(changes)}; left: the cache, right: this version): "
            "cache the clips again into another --out"
        )
    foreign = set(index["fingerprint"].unique().to_pylist()) - {record.get("fingerprint")}
    if foreign:
        raise ArtifactError(
            f"{path} contains parts of another cache (fingerprint {min(map(str, foreign))}; its record has "
            f"{record.get('fingerprint')}): {remedy(path)}"
        )
    usable = index.filter(pc.equal(index["verdict"], "ok"))["clip_id"]
    distinct, recorded = pc.count_distinct(usable).as_py(), record["counts"]["ok"]
    if not len(usable) == distinct == recorded:
        raise ArtifactError(
            f"{path}: the index lists {len(usable)} usable samples, {distinct} of them distinct, but its record has "
            f"counts.ok = {recorded}: index parts were lost or added: {remedy(path)}"
        )


def missing_samples(index: pa.Table, needed: tuple[str, ...]) -> list[str]:
    """Find usable samples that have no shard, lack a member, or extend beyond the end of their shard.

    Args:
        index: rows of `INDEX_SCHEMA`.
        needed: names of the members of a sample.

    Returns:
        Their keys.
    """
    usable = index.filter(pc.equal(index["verdict"], "ok"))
    members = usable["members"].combine_chunks()
    row, member = pc.list_parent_indices(members), pc.list_flatten(members)
    end = pc.add(pc.struct_field(member, "offset"), pc.struct_field(member, "size"))
    # Null in a row without a shard.
    shard_bytes = pc.if_else(pc.is_valid(usable["shard"]), usable["shard_bytes"], None).combine_chunks()
    is_inside = pc.less_equal(end, shard_bytes.take(row))
    is_needed = pc.is_in(pc.struct_field(member, "name"), value_set=pa.array(needed))
    found = pc.value_counts(row.filter(pc.and_(pc.fill_null(is_inside, False), is_needed)))
    complete = {one["values"] for one in found.to_pylist() if one["counts"] == len(needed)}
    return [key for i, key in enumerate(usable["clip_id"].to_pylist()) if i not in complete]


def require_settings(latents: Location, settings: Mapping[str, Any], absent: Mapping[str, Any] | None = None) -> None:
    """Reject a cache whose sizes or types differ from those of a run.

    Args:
        latents: a finished cache.
        settings: `CacheConfig.settings` of the run's configuration.
        absent: values of fields that an older cache does not record (see `rules.with_absent`).

    Raises:
        ArtifactError: the cache is not finished, or a field differs. The message names each field.
    """
    cached = with_absent(Artifact(latents).record().get("config", {}), settings, absent or {})
    changes = list(differences(cached, dict(settings)))
    if changes:
        raise ArtifactError(
            f"{latents} was cached with settings that differ from this run's `cache` (left: the cache):\n  "
            + "\n  ".join(changes)
            + "\ntrain with the preset that it was cached with, or cache the clips again into another --out"
        )


def remedy(path: Location) -> str:
    """Return the instructions that end an error message about a damaged cache."""
    return (
        f"run `steadydancer verify --latents {path}` to list all damage and `steadydancer repair --latents "
        f"{path} --out NEW` to rebuild the cache"
    )
