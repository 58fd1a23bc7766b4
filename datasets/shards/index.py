"""The index of a cache against its record, this code, a run's settings, and what its shards can hold."""

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
    """Refuse numbers that this code would have computed otherwise, parts of another cache, and lost or repeated rows.

    Args:
        path: of the cache.
        record: its `run.json`.
        index: all rows of its parts.

    Raises:
        ArtifactError: the message names the field.
    """
    changes = list(differences(record.get("encodings"), ENCODINGS, "encodings"))
    if changes:
        raise ArtifactError(
            f"{path} was made by code that encodes otherwise ({', '.join(changes)}; left: the cache, right: "
            "this version): cache the clips anew into another --out"
        )
    foreign = set(index["fingerprint"].unique().to_pylist()) - {record.get("fingerprint")}
    if foreign:
        raise ArtifactError(
            f"{path} holds parts of another cache (fingerprint {min(map(str, foreign))}, its record says "
            f"{record.get('fingerprint')}): {remedy(path)}"
        )
    usable = index.filter(pc.equal(index["verdict"], "ok"))["clip_id"]
    different, recorded = pc.count_distinct(usable).as_py(), record["counts"]["ok"]
    if not len(usable) == different == recorded:
        raise ArtifactError(
            f"{path}: its index names {len(usable)} usable samples, {different} different ones, and its record says "
            f"counts.ok = {recorded}: parts of the index were lost or added. {remedy(path)}"
        )


def missing_samples(index: pa.Table, needed: tuple[str, ...]) -> list[str]:
    """Keys of an index's usable samples that no shard can hold: without a place, a member, or beyond the shard's end.

    Args:
        index: rows of `INDEX_SCHEMA`.
        needed: names of the members of a sample.
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
    """Refuse a cache whose sizes or types are not those that a run is made for.

    Args:
        latents: a finished cache.
        settings: `CacheConfig.settings` of the run's own configuration.
        absent: what fields count as that an older cache does not have (see `rules.with_absent`).

    Raises:
        ArtifactError: it is not finished, or a field differs; the message names each.
    """
    cached = with_absent(Artifact(latents).record().get("config", {}), settings, absent or {})
    changes = list(differences(cached, dict(settings)))
    if changes:
        raise ArtifactError(
            f"{latents} was cached otherwise than this run's `cache` says (left: the cache):\n  "
            + "\n  ".join(changes)
            + "\ntrain with the preset that it was cached with, or cache the clips anew into another --out"
        )


def remedy(path: Location) -> str:
    """What to do about a cache that is not as it was written."""
    return (
        f"`steadydancer verify --latents {path}` says what else is, and `steadydancer repair --latents "
        f"{path} --out NEW` makes it anew"
    )
