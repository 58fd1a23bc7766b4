"""WebDataset shards of cached latents, with an index for random access.

A sample is three members of an uncompressed tar: `KEY.json` (where it comes from), `KEY.conditions.safetensors`
(tensors `latents image_latents pose_latents image_embeds pose_image_embeds prompt_embeds`) and
`KEY.pose.safetensors` (keypoints). Plain `webdataset` reads them; the training loop reads by offset, so that any
sample can be had at any step, from a store as well. The same samples always give the same bytes.
"""

import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import webdataset as wds

from .artifact import Artifact, ArtifactError, Packet, json_digest, written_aside
from .object_store import ObjectPath
from .storage import Location, location, read_range

CONDITIONS = "conditions.safetensors"
POSE = "pose.safetensors"

_FIELDS: list[tuple[str, pa.DataType]] = [
    ("clip_id", pa.string()),
    ("source_id", pa.string()),
    ("verdict", pa.string()),
    ("reason", pa.string()),
    ("detail", pa.string()),
    ("num_frames", pa.int32()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("prompt_given", pa.bool_()),
    ("shard", pa.string()),
    (
        "members",
        pa.list_(
            pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.int64())])
        ),
    ),
]
INDEX_SCHEMA = pa.schema(_FIELDS)

Bucket = tuple[int, int, int]


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
    if any(sample.members for sample in samples):
        with written_aside(shard) as aside:
            with aside.open("wb") as file:
                # Fixed owner, mode and time: the same samples give the same bytes.
                writer = wds.TarWriter(
                    file, user="steadydancer", group="steadydancer", mode=0o644, mtime=0, encoder=False
                )
                for sample in samples:
                    if sample.members:
                        writer.write({"__key__": sample.row["clip_id"], **sample.members})
                writer.close()
            places = index_shard(aside)
    else:
        places = {}
    rows = [
        {
            **sample.row,
            "shard": shard.name if sample.members else None,
            "members": places.get(sample.row["clip_id"]),
        }
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
                {"name": name, "offset": member.offset_data, "size": member.size, "crc32": zlib.crc32(data)}
            )
    return places


class ShardDataset:
    """Random access to a finished latents artifact.

    Args:
        latents: the artifact's folder (`run.json`, index parts, `shards/`, `null/`).

    Raises:
        ArtifactError: the artifact is not finished, or has no sample.
    """

    def __init__(self, latents: str | os.PathLike[str] | ObjectPath) -> None:
        """Read the index; shards are opened when first used."""
        self.path = location(latents)
        self.record = Artifact(self.path).record()
        rows = [row for row in Artifact(self.path).read().to_pylist() if row["verdict"] == "ok"]
        if not rows:
            raise ArtifactError(f"{self.path} holds no usable sample: every clip was rejected or quarantined")
        self._rows = {row["clip_id"]: row for row in rows}
        self.keys: list[str] = sorted(self._rows)
        self.bucket: dict[str, Bucket] = {
            key: (row["num_frames"], row["height"], row["width"]) for key, row in self._rows.items()
        }
        self._files: dict[str, BinaryIO] = {}

    def __len__(self) -> int:
        """Number of usable samples."""
        return len(self.keys)

    def read(self, key: str) -> dict[str, Any]:
        """One sample: `meta` (dict), `conditions` and `pose` (safetensors bytes).

        Raises:
            ArtifactError: the shard is missing, cut short or damaged; the message names it.
        """
        members = dict(self._members(key))
        return {"meta": json.loads(members["json"]), "conditions": members[CONDITIONS], "pose": members[POSE]}

    def null(self, bucket: Bucket) -> bytes:
        """Null conditions of a bucket, safetensors: `pose_latents pose_image_embeds prompt_embeds`."""
        return null_path(self.path, bucket).read_bytes()

    def _members(self, key: str) -> Iterator[tuple[str, bytes]]:
        row = self._rows[key]
        path = self.path / "shards" / row["shard"]
        try:
            pieces = self._pieces(path, row["members"])
        except FileNotFoundError:
            raise ArtifactError(f"shard {path} is missing: run the cache command again with another --out") from None
        for member, data in zip(row["members"], pieces, strict=True):
            if len(data) != member["size"] or zlib.crc32(data) != member["crc32"]:
                raise ArtifactError(f"shard {path} is cut short or damaged at {key}.{member['name']}: cache it again")
            yield member["name"], data

    def _pieces(self, shard: Location, members: list[dict[str, Any]]) -> list[bytes]:
        """The members' bytes; of an object in one request, because each costs its way to the store and back."""
        if isinstance(shard, ObjectPath):
            start, stop = members[0]["offset"], members[-1]["offset"] + members[-1]["size"]
            span = read_range(shard, start, stop - start, json_digest(members))
            return [span[m["offset"] - start : m["offset"] - start + m["size"]] for m in members]
        if shard.name not in self._files:
            self._files[shard.name] = shard.open("rb")
        file = self._files[shard.name].fileno()
        return [os.pread(file, member["size"], member["offset"]) for member in members]


def null_path(latents: Location, bucket: Bucket) -> Location:
    """Where the null conditions of a bucket lie."""
    return latents / "null" / f"{bucket[0]}x{bucket[1]}x{bucket[2]}.safetensors"


def sample_members(meta: dict[str, Any], conditions: bytes, pose: bytes) -> dict[str, bytes]:
    """The members of one sample, in the order in which they are written."""
    return {"json": json.dumps(meta, sort_keys=True).encode(), CONDITIONS: conditions, POSE: pose}
