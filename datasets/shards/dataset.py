"""WebDataset shards of cached latents, with an index for random access.

A sample has three members in an uncompressed tar: `KEY.json` (its origin), `KEY.conditions.safetensors`
(tensors `latents image_latents pose_latents image_embeds pose_image_embeds prompt_embeds`) and
`KEY.pose.safetensors` (keypoints). Plain `webdataset` can read them. The training loop reads by offset, so it can
read any sample at any step, also from an object store. The same samples always give the same bytes.
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import webdataset as wds
from isal import isal_zlib  # the same checksums as zlib, nine times as fast

from ..artifact import Artifact, ArtifactError, Packet
from ..artifact_lookup import find_artifact
from ..sidecars import KEYPOINTS
from ..storage import Location, location
from ..storage.atomic import atomic_write
from ..storage.s3 import ObjectPath
from .encodings import ENCODINGS as ENCODINGS  # re-exported
from .index import check_index, missing_samples, remedy
from .index import require_settings as require_settings  # re-exported
from .integrity import wrong_sizes
from .memory import ReusedMemory
from .ranges import MemberReader

CONDITIONS = "conditions.safetensors"
POSE = KEYPOINTS.removeprefix(".")
MEMBERS = ("json", CONDITIONS, POSE)

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
Buffer = bytes | memoryview
OnDamage = Literal["stop", "leave_out"]


@dataclass(frozen=True)
class Sample:
    """One clip of a shard: its index row (without shard columns) and the bytes of its members."""

    row: dict[str, Any]
    members: dict[str, bytes] = field(default_factory=dict)


def shard_path(latents: Location, packet: Packet) -> Location:
    """Return the path of a packet's shard."""
    return latents / "shards" / f"{packet.id}.tar"


def write_shard(latents: Location, packet: Packet, samples: Iterable[Sample]) -> None:
    """Commit a packet: write its shard, then the index part that makes the shard count.

    Samples without members (quarantined clips) get an index row only.
    """
    samples = sorted(samples, key=lambda sample: sample.row["clip_id"])
    shard = shard_path(latents, packet)
    members: dict[str, list[dict[str, Any]]] = {}
    shard_columns: dict[str, Any] = {}
    if any(sample.members for sample in samples):
        with atomic_write(shard) as aside:
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
                    writer.close()  # even if it fails again: an open writer warns when it is garbage-collected
            members = index_shard(aside)
            with aside.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            shard_columns = {"shard": shard.name, "shard_bytes": aside.stat().st_size, "shard_sha256": digest}
    rows = [
        {**sample.row, **(shard_columns if sample.members else {}), "members": members.get(sample.row["clip_id"])}
        for sample in samples
    ]
    Artifact(latents).write_part(packet, pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))


def index_shard(shard: Path) -> dict[str, list[dict[str, Any]]]:
    """Read a shard: sample key → names, offsets, sizes and checksums of its members."""
    members: dict[str, list[dict[str, Any]]] = {}
    with tarfile.open(shard, "r:") as tar, shard.open("rb") as file:
        for member in tar:
            key, _, name = member.name.partition(".")
            data = os.pread(file.fileno(), member.size, member.offset_data)
            members.setdefault(key, []).append(
                {"name": name, "offset": member.offset_data, "size": member.size, "crc32": isal_zlib.crc32(data)}
            )
    return members


class ShardDataset:
    """Random access to a finished latents artifact.

    Args:
        latents: folder of the artifact (`run.json`, index parts, `shards/`, `null/`).
        on_damage: "stop" raises at the first damaged shard. "leave_out" excludes samples whose shard is missing or
            has the wrong length, when the dataset is opened (see `left_out`), the same samples in every worker. A
            changed byte is found when its sample is read and raises in both modes, because a started run must not
            change its order.
        reuse_memory: read the conditions of local shards, as a `memoryview`, into memory that is used again once
            nothing refers to them: half of the CPU time.

    Raises:
        ArtifactError: the artifact is not finished, was made with other encodings, has lost rows, or has no usable
            sample.
    """

    def __init__(
        self,
        latents: str | os.PathLike[str] | ObjectPath,
        on_damage: OnDamage = "stop",
        reuse_memory: bool = False,
    ) -> None:
        """Read the index. Shards are opened at their first use."""
        artifact = find_artifact(location(latents), "latents")
        self.path, self.record = artifact.path, artifact.record()
        index = artifact.read().combine_chunks()
        check_index(self.path, self.record, index)
        self._index = index
        verdicts = zip(_column(index, "clip_id"), _column(index, "verdict"), strict=True)
        rows = {key: i for i, (key, verdict) in enumerate(verdicts) if verdict == "ok"}
        self.left_out: list[str] = []
        if on_damage == "leave_out":
            wrong = {None, *(place.name for place in wrong_sizes(self._shards()))}
            shards = _column(index, "shard")
            self.left_out = sorted(key for key, i in rows.items() if shards[i] in wrong)
            rows = {key: i for key, i in rows.items() if shards[i] not in wrong}
        if not rows:
            raise ArtifactError(f"{self.path} has no usable samples: every clip was rejected, quarantined or lost")
        self._rows = rows
        self.keys: list[str] = sorted(rows)
        sizes = list(zip(*(_column(index, name) for name in ("num_frames", "height", "width")), strict=True))
        one_of = {size: size for size in sizes}
        self.bucket: dict[str, Bucket] = {key: one_of[sizes[i]] for key, i in rows.items()}
        self._checked: set[str] = set()
        self._pieces = MemberReader(OPEN_FILES, ReusedMemory() if reuse_memory else None)

    def __len__(self) -> int:
        """Return the number of usable samples."""
        return len(self.keys)

    def require_complete(self) -> None:
        """Check that shards and null conditions are complete, without reading the shards.

        Raises:
            ArtifactError: a shard is missing, truncated or too long, the index lists a sample that its shard cannot
                contain, or the null conditions of a bucket are missing. The message names the first of each kind.
        """
        wrong = sorted((str(place), damage) for place, damage in wrong_sizes(self._shards()).items())
        missing = missing_samples(self._index, MEMBERS)
        nulls = [
            path for size in sorted(set(self.bucket.values())) if not (path := null_path(self.path, size)).is_file()
        ]
        faults = [f"shard {place} is {kind} ({detail})" for place, (kind, detail) in wrong[:1]]
        faults += [f"the index lists sample {key}, which shard {self.shard(key)} cannot contain" for key in missing[:1]]
        faults += [f"{path} is missing" for path in nulls[:1]]
        if faults:
            more = len(wrong) + len(missing) + len(nulls) - len(faults)
            listed = "; ".join(faults) + (f"; and {more} more" if more else "")
            raise ArtifactError(f"{self.path} is not complete: {listed}: {remedy(self.path)}")

    def shard(self, key: str) -> Location | None:
        """Return the path of a sample's shard, or None if its row names none."""
        name = self._index["shard"][self._rows[key]].as_py()
        return self.path / "shards" / name if name else None

    def read(self, key: str) -> dict[str, Any]:
        """Read one sample: `meta` (dict), `conditions` and `pose` (safetensors bytes).

        Sizes are checked at every read, checksums only at the first read by this dataset.

        Raises:
            ArtifactError: the shard is missing, truncated or damaged. The message names it.
        """
        path = self.shard(key)
        members = self._index["members"][self._rows[key]].as_py() or []
        if path is None or not {member["name"] for member in members} >= set(MEMBERS):
            raise ArtifactError(
                f"{self.path}: the index lists sample {key}, which shard {path} cannot contain: {remedy(self.path)}"
            )
        try:
            pieces = self._pieces(path, members, lambda found: self._is_valid(key, members, found))
        except FileNotFoundError:
            raise ArtifactError(f"shard {path} is missing: {remedy(self.path)}") from None
        damaged = self._damaged(key, members, pieces)
        if damaged:
            raise ArtifactError(f"shard {path} is cut short or damaged at {key}.{damaged}: {remedy(self.path)}")
        self._checked.add(key)
        named = {member["name"]: data for member, data in zip(members, pieces, strict=True)}
        meta, pose = (bytes(named[name]) for name in ("json", POSE))  # small: kept alone they must not hold the rest
        return {"meta": json.loads(meta), "conditions": named[CONDITIONS], "pose": pose}

    def null(self, bucket: Bucket) -> bytes:
        """Read the null conditions of a bucket, safetensors: `pose_latents pose_image_embeds prompt_embeds`.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        path = null_path(self.path, bucket)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ArtifactError(f"{path} is missing: {remedy(self.path)}") from None
        expected = self.record.get("null", {}).get(path.name)
        if expected and hashlib.sha256(data).hexdigest() != expected:
            raise ArtifactError(f"{path} is damaged: {remedy(self.path)}")
        return data

    def _damaged(self, key: str, members: list[dict[str, Any]], pieces: Sequence[Buffer]) -> str | None:
        """Return the name of the first damaged member. Checksums are compared until all have matched once."""
        is_new = key not in self._checked
        for member, data in zip(members, pieces, strict=True):
            if len(data) != member["size"] or (is_new and isal_zlib.crc32(data) != member["crc32"]):
                return str(member["name"])
        return None

    def _is_valid(self, key: str, members: list[dict[str, Any]], pieces: Sequence[Buffer]) -> bool:
        if self._damaged(key, members, pieces):
            return False
        self._checked.add(key)
        return True

    def _shards(self) -> dict[Location, int]:
        """Return the path of each shard → its size in bytes by the index."""
        recorded = set(zip(_column(self._index, "shard"), _column(self._index, "shard_bytes"), strict=True))
        return {self.path / "shards" / name: size for name, size in recorded if name is not None}


def _column(table: pa.Table, name: str) -> list[Any]:
    return list(table.column(name).to_pylist())


def null_path(latents: Location, bucket: Bucket) -> Location:
    """Return the path of the null conditions of a bucket."""
    return latents / "null" / f"{bucket[0]}x{bucket[1]}x{bucket[2]}.safetensors"


def sample_members(meta: dict[str, Any], conditions: bytes, pose: bytes) -> dict[str, bytes]:
    """Build the members of one sample, in the order in which a shard stores them (sorted by name)."""
    return {"json": json.dumps(meta, sort_keys=True).encode(), CONDITIONS: conditions, POSE: pose}
