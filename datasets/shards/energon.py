"""Index of a cache for Megatron-Energon, derived from our own, so that its loader reads the same shards as they are.

Energon opens the cache's folder. It reads the number of samples by shard in `.nv-meta/.info.json`, the shards of each
split in `.nv-meta/split.yaml`, the kind of dataset in `.nv-meta/dataset.yaml`, and beside each shard `ID.tar.idx`: the
offset of each sample and of the end of the last one, as little-endian 64-bit integers.
Its `index.sqlite`, which finds samples by key for datasets that are joined with others, is not written: `energon
prepare` adds it.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from ..artifact import Artifact
from ..storage import Location
from ..storage.atomic import atomic_write

META = ".nv-meta"
SUFFIX = ".idx"
SPLIT = "train"  # one split: which clips are held out is decided when they are curated

_DATASET = "__module__: megatron.energon\n__class__: CrudeWebdataset\n"
_TAR_BLOCK = 512
_WRITERS = 8  # threads, to hide the latency of a store


def energon_index(index: pa.Table) -> dict[str, bytes]:
    """Build the files of the index: path below the cache's folder → content. The same rows give the same bytes.

    Args:
        index: rows of `INDEX_SCHEMA`.
    """
    shards: dict[str, list[list[dict[str, Any]]]] = {}
    for row in index.select(["shard", "members"]).to_pylist():
        if row["shard"] and row["members"]:
            shards.setdefault(f"shards/{row['shard']}", []).append(row["members"])
    names = sorted(shards)
    info = {"shard_counts": {name: len(shards[name]) for name in names}}
    # JSON is YAML, too.
    files = {f"{META}/.info.json": _json(info), f"{META}/split.yaml": _json({"split_parts": {SPLIT: names}})}
    return {
        **{name + SUFFIX: _offsets(shards[name]) for name in names},
        **files,
        f"{META}/dataset.yaml": _DATASET.encode(),
    }


def write_energon_index(latents: Location) -> None:
    """Write the index for Energon into a cache, from the parts of our index; no byte of a shard is read or changed.

    A new cache has it from the start; for one of an earlier version call this once.

    Raises:
        ArtifactError: the cache has no parts, or one is damaged.
    """
    files = energon_index(Artifact(latents).read(["shard", "members"]))
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(lambda name: _write(latents / name, files[name]), files))


def _write(path: Location, data: bytes) -> None:
    if path.is_file() and path.read_bytes() == data:
        return  # written before a kill
    with atomic_write(path) as aside:
        aside.write_bytes(data)


def _offsets(samples: Iterable[Iterable[Mapping[str, Any]]]) -> bytes:
    """Return where each sample begins, header included, and where the last one ends: a tar has no gaps."""
    ends = sorted(max(member["offset"] + member["size"] for member in members) for members in samples)
    padded = [0, *(-(-end // _TAR_BLOCK) * _TAR_BLOCK for end in ends)]
    return struct.pack(f"<{len(padded)}Q", *padded)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
