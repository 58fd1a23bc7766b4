"""WebDataset shards of cached latents, with an index for random access.

A sample is three members of an uncompressed tar: `KEY.json` (where it comes from), `KEY.conditions.safetensors`
(tensors `latents image_latents pose_latents image_embeds pose_image_embeds prompt_embeds`) and
`KEY.pose.safetensors` (keypoints). Plain `webdataset` reads them; the training loop reads by offset, so that any
sample can be had at any step, from a store as well. The same samples always give the same bytes.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import webdataset as wds
from isal import isal_zlib  # the same sums as zlib, nine times as fast

from .artifact import Artifact, ArtifactError, Packet
from .digests import differences, json_digest
from .encodings import ENCODINGS
from .object_store import ObjectPath, describe
from .storage import Location, location, read_range
from .whole_files import written_aside

CONDITIONS = "conditions.safetensors"
POSE = "pose.safetensors"

OPEN_FILES = 128

MEMBER = pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.int64())])
_FIELDS: list[tuple[str, pa.DataType]] = [
    *((name, pa.string()) for name in ("clip_id", "source_id", "verdict", "reason", "detail")),
    *((name, pa.int32()) for name in ("num_frames", "height", "width")),
    ("prompt_from", pa.string()),
    ("fingerprint", pa.string()),
    ("shard", pa.string()),
    ("shard_bytes", pa.int64()),
    ("shard_sha256", pa.string()),
    ("members", pa.list_(MEMBER)),
]
INDEX_SCHEMA = pa.schema(_FIELDS)

Bucket = tuple[int, int, int]
OnDamage = Literal["stop", "leave_out"]


@dataclass(frozen=True)
class Sample:
    """What goes into a shard for one clip: its index row (without place) and its members' bytes."""

    row: dict[str, Any]
    members: dict[str, bytes] = field(default_factory=dict)


def shard_path(latents: Location, packet: Packet) -> Location:
    """Where a packet's samples lie."""
    return latents / "shards" / f"{packet.id}.tar"


def write_shard(latents: Location, packet: Packet, samples: Iterable[Sample]) -> None:
    """Commit a packet: its shard first, then the part of the index that makes it count.

    Samples without members (quarantined clips) get an index row and no place in the tar.
    """
    samples = sorted(samples, key=lambda sample: sample.row["clip_id"])
    shard = shard_path(latents, packet)
    places: dict[str, list[dict[str, Any]]] = {}
    of_shard: dict[str, Any] = {}
    if any(sample.members for sample in samples):
        with written_aside(shard) as aside:
            with aside.open("wb") as file:
                # Fixed owner, mode and time: the same samples give the same bytes.
                writer = wds.TarWriter(
                    file, user="steadydancer", group="steadydancer", mode=0o644, mtime=0, encoder=False
                )
                try:
                    for sample in samples:
                        if sample.members:
                            writer.write({"__key__": sample.row["clip_id"], **sample.members})
                finally:
                    writer.close()  # also where it fails again: left open, it would complain when it is collected
            places = index_shard(aside)
            with aside.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            of_shard = {"shard": shard.name, "shard_bytes": aside.stat().st_size, "shard_sha256": digest}
    rows = [
        {**sample.row, **(of_shard if sample.members else {}), "members": places.get(sample.row["clip_id"])}
        for sample in samples
    ]
    Artifact(latents).write_part(packet, pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))


def index_shard(shard: Path) -> dict[str, list[dict[str, Any]]]:
    """Read a shard back: sample key → its members' names, offsets, sizes and checksums."""
    places: dict[str, list[dict[str, Any]]] = {}
    with tarfile.open(shard, "r:") as tar, shard.open("rb") as file:
        for member in tar:
            key, _, name = member.name.partition(".")
            data = os.pread(file.fileno(), member.size, member.offset_data)
            places.setdefault(key, []).append(
                {"name": name, "offset": member.offset_data, "size": member.size, "crc32": isal_zlib.crc32(data)}
            )
    return places


class ShardDataset:
    """Random access to a finished latents artifact.

    Args:
        latents: the artifact's folder (`run.json`, index parts, `shards/`, `null/`).
        on_damage: "stop" at the first shard that is not as it was written. "leave_out": samples whose shard is missing
            or cut short are left out from the beginning, see `left_out`, the same ones in every worker; a changed byte
            is found when its sample is read, and stops, because a run that has begun must not change its order.

    Raises:
        ArtifactError: the artifact is not finished, was made by other code, or has no usable sample.
    """

    def __init__(self, latents: str | os.PathLike[str] | ObjectPath, on_damage: OnDamage = "stop") -> None:
        """Read the index; shards are opened when first used."""
        self.path = location(latents)
        self.record = Artifact(self.path).record()
        index = Artifact(self.path).read().combine_chunks()
        self._check_origin(index)
        self._index = index
        told = zip(_column(index, "clip_id"), _column(index, "verdict"), strict=True)
        rows = {key: i for i, (key, verdict) in enumerate(told) if verdict == "ok"}
        self.left_out: list[str] = []
        if on_damage == "leave_out":
            whole = self._whole_shards(index)
            shards = _column(index, "shard")
            self.left_out = sorted(key for key, i in rows.items() if shards[i] not in whole)
            rows = {key: i for key, i in rows.items() if shards[i] in whole}
        if not rows:
            raise ArtifactError(f"{self.path} holds no usable sample: every clip was rejected, quarantined or lost")
        self._rows = rows
        self.keys: list[str] = sorted(rows)
        sizes = list(zip(*(_column(index, name) for name in ("num_frames", "height", "width")), strict=True))
        one_of = {size: size for size in sizes}
        self.bucket: dict[str, Bucket] = {key: one_of[sizes[i]] for key, i in rows.items()}
        self._checked: set[str] = set()
        # A file that falls out is closed when nobody reads from it any more.
        self._file: Callable[[Path], BinaryIO] = lru_cache(maxsize=OPEN_FILES)(lambda shard: shard.open("rb"))

    def __len__(self) -> int:
        """Number of usable samples."""
        return len(self.keys)

    def read(self, key: str) -> dict[str, Any]:
        """One sample: `meta` (dict), `conditions` and `pose` (safetensors bytes).

        Its checksums are compared when this dataset reads it for the first time; its sizes each time.

        Raises:
            ArtifactError: the shard is missing, cut short or damaged; the message names it.
        """
        members = dict(self._members(key))
        return {"meta": json.loads(members["json"]), "conditions": members[CONDITIONS], "pose": members[POSE]}

    def null(self, bucket: Bucket) -> bytes:
        """Null conditions of a bucket, safetensors: `pose_latents pose_image_embeds prompt_embeds`.

        Raises:
            ArtifactError: they are missing or damaged.
        """
        path = null_path(self.path, bucket)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing: {self._remedy()}") from None
        wanted = self.record.get("null", {}).get(path.name)
        if wanted and hashlib.sha256(data).hexdigest() != wanted:
            raise ArtifactError(f"{path} is damaged: {self._remedy()}")
        return data

    def _members(self, key: str) -> Iterator[tuple[str, bytes]]:
        row = self._index.slice(self._rows[key], 1).select(["shard", "members"]).to_pylist()[0]
        path = self.path / "shards" / row["shard"]
        try:
            pieces = self._pieces(path, row["members"])
        except FileNotFoundError:
            raise ArtifactError(f"shard {path} is missing: {self._remedy()}") from None
        is_new = key not in self._checked
        for member, data in zip(row["members"], pieces, strict=True):
            if len(data) != member["size"] or (is_new and isal_zlib.crc32(data) != member["crc32"]):
                raise ArtifactError(f"shard {path} is cut short or damaged at {key}.{member['name']}: {self._remedy()}")
            yield member["name"], data
        self._checked.add(key)

    def _pieces(self, shard: Location, members: list[dict[str, Any]]) -> list[bytes]:
        """The members' bytes; of an object in one request, because each costs its way to the store and back."""
        if isinstance(shard, ObjectPath):
            start, stop = members[0]["offset"], members[-1]["offset"] + members[-1]["size"]
            span = read_range(shard, start, stop - start, json_digest(members))
            return [span[m["offset"] - start : m["offset"] - start + m["size"]] for m in members]
        file = self._file(shard)
        return [os.pread(file.fileno(), member["size"], member["offset"]) for member in members]

    def _check_origin(self, index: pa.Table) -> None:
        """Refuse numbers that this code would have computed otherwise, and parts of another cache."""
        changes = list(differences(self.record.get("encodings"), ENCODINGS, "encodings"))
        if changes:
            raise ArtifactError(
                f"{self.path} was made by code that encodes otherwise ({', '.join(changes)}; left: the cache, right: "
                "this version): cache the clips anew into another --out"
            )
        strange = set(index["fingerprint"].unique().to_pylist()) - {self.record.get("fingerprint")}
        if strange:
            raise ArtifactError(
                f"{self.path} holds parts of another cache (fingerprint {min(map(str, strange))}, its record says "
                f"{self.record.get('fingerprint')}): {self._remedy()}"
            )

    def _whole_shards(self, index: pa.Table) -> set[str]:
        """Names of shards that are as long as the index says."""
        told = set(zip(_column(index, "shard"), _column(index, "shard_bytes"), strict=True)) - {(None, None)}
        places = {name: self.path / "shards" / name for name, _ in told}
        objects = [place for place in places.values() if isinstance(place, ObjectPath)]
        sizes = {f"{info.path.rpartition('/')[2]}": info.size for info in describe(objects)}
        sizes |= {
            name: place.stat().st_size for name, place in places.items() if isinstance(place, Path) and place.is_file()
        }
        return {name for name, size in told if sizes.get(name) == size}

    def _remedy(self) -> str:
        return (
            f"`steadydancer verify --latents {self.path}` says what else is, and `steadydancer repair --latents "
            f"{self.path} --out NEW` makes it anew"
        )


def require_settings(latents: Location, settings: Mapping[str, Any]) -> None:
    """Refuse a cache whose sizes or types are not those that a run is made for.

    Args:
        latents: a finished cache.
        settings: `CacheConfig.settings` of the run's own configuration.

    Raises:
        ArtifactError: it is not finished, or a field differs; the message names each.
    """
    changes = list(differences(Artifact(latents).record().get("config"), dict(settings)))
    if changes:
        raise ArtifactError(
            f"{latents} was cached otherwise than this run's `cache` says (left: the cache):\n  "
            + "\n  ".join(changes)
            + "\ntrain with the preset that it was cached with, or cache the clips anew into another --out"
        )


def _column(table: pa.Table, name: str) -> list[Any]:
    return list(table.column(name).to_pylist())


def null_path(latents: Location, bucket: Bucket) -> Location:
    """Where the null conditions of a bucket lie."""
    return latents / "null" / f"{bucket[0]}x{bucket[1]}x{bucket[2]}.safetensors"


def sample_members(meta: dict[str, Any], conditions: bytes, pose: bytes) -> dict[str, bytes]:
    """The members of one sample, in the order in which they are written."""
    return {"json": json.dumps(meta, sort_keys=True).encode(), CONDITIONS: conditions, POSE: pose}
