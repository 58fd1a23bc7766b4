"""Verification of a latent cache: shards against the index, the index and all other files against the record."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from ...datasets.artifact import PLAN, Artifact, ArtifactError, count_verdicts
from ...datasets.artifact_lookup import find_artifact
from ...datasets.rules import recorded_rules
from ...datasets.shards.energon import META, SUFFIX, energon_index
from ...datasets.shards.integrity import Damage, IndexedShard, check_shard
from ...datasets.shards.plan import packet_id
from ...datasets.storage import Location
from ...datasets.storage.digests import content_digest, differences
from ...datasets.storage.files import files_below, name_below
from ..runtime.runner import progress

Kind = Damage | Literal["orphan", "contradicts the record"]

READERS = 4  # threads; computing checksums releases the GIL


@dataclass(frozen=True)
class Finding:
    """A file that differs from what was written.

    Attributes:
        kind: kind of the damage.
        place: file, relative to the cache's folder.
        detail: description.
        packet: id of the packet to encode again, if any.
    """

    kind: Kind
    place: str
    detail: str
    packet: str | None = None


@dataclass
class Verified:
    """Result of verifying a cache.

    Attributes:
        findings: damaged, missing and unknown files.
        packets: ids of all packets in the record.
        sound_null: names of undamaged null conditions.
        shards, samples, bytes: totals that were read and are sound.
        without: clips without latents, counted by the index's reason.
    """

    findings: list[Finding] = field(default_factory=list)
    packets: frozenset[str] = frozenset()
    sound_null: frozenset[str] = frozenset()
    shards: int = 0
    samples: int = 0
    bytes: int = 0
    without: Counter[str] = field(default_factory=Counter)

    @property
    def sound(self) -> frozenset[str]:
        """Packets whose part and shard are undamaged."""
        return self.packets - {finding.packet for finding in self.findings if finding.packet}


def verify(latents: Location) -> Verified:
    """Read a whole finished cache and compare it with its record.

    Raises:
        ArtifactError: `latents` is not a finished cache.
    """
    artifact = find_artifact(latents, "latents")
    latents, record = artifact.path, artifact.record()
    if "parts" not in record:
        raise ArtifactError(
            f"{latents} was written by a version that recorded no digests of its parts: cache the clips again"
        )
    out = Verified(packets=frozenset(map(_packet_of, record["parts"])))
    out.findings += _check_plan(artifact, record)
    shards: dict[str, IndexedShard] = {}
    verdicts: list[str] = []
    for part in record["parts"]:
        rows = _check_part(artifact, part, record, out.findings)
        verdicts += [row["verdict"] for row in rows]
        out.without.update(str(row["reason"]) for row in rows if row["verdict"] != "ok")
        shards |= {_packet_of(part): shard for shard in _shard_of(latents, rows)}
    if out.sound == out.packets and (counts := count_verdicts(len(verdicts), verdicts)) != record["counts"]:
        words = f"the record has counts {record['counts']}, the index {counts}"
        out.findings.append(Finding("contradicts the record", "run.json", words))
    _check_shards(shards, out)
    null = list(_check_null(latents, record))
    out.sound_null = frozenset(record["null"]) - {finding.place.removeprefix("null/") for finding in null}
    out.findings += [*null, *_check_energon(artifact, record, out), *_orphans(artifact, record)]
    return out


def planned(record: dict[str, Any]) -> dict[str, Any]:
    """Return the plan of a finished cache, built from its record."""
    return {
        "config": record["config"],
        "clips": record["inputs"]["digest"],
        "components": record["components"]["digests"],
        "encodings": record["encodings"],
        **recorded_rules(record),
        **record["cut"],
    }


def _check_plan(artifact: Artifact, record: dict[str, Any]) -> Iterator[Finding]:
    file = artifact.path / PLAN
    if not file.is_file():
        yield Finding("missing", PLAN, "the cache's plan")
        return
    try:
        begun = json.loads(file.read_text())
    except ValueError as error:
        yield Finding("damaged", PLAN, str(error))
        return
    for change in differences(planned(record), begun):
        yield Finding("contradicts the record", PLAN, change)


def _check_part(artifact: Artifact, part: str, record: dict[str, Any], findings: list[Finding]) -> list[dict[str, Any]]:
    """Return the rows of a part of the index; empty if it is damaged."""

    def wrong(kind: Kind, detail: str) -> list[dict[str, Any]]:
        findings.append(Finding(kind, part, detail, _packet_of(part)))
        return []

    if not (artifact.path / part).is_file():
        return wrong("missing", "a part of the index")
    if content_digest(artifact.path / part) != record["parts"][part]:
        return wrong("damaged", "a part of the index differs from its recorded digest")
    rows = list(artifact.read_part(part).to_pylist())
    if packet_id(row["clip_id"] for row in rows) != _packet_of(part):
        return wrong("contradicts the record", "its clips do not match its file name")
    strange = {row["fingerprint"] for row in rows} - {record["fingerprint"]}
    if strange:
        words = f"fingerprint {min(map(str, strange))}, the record has {record['fingerprint']}"
        return wrong("contradicts the record", words)
    return rows


def _shard_of(latents: Location, rows: list[dict[str, Any]]) -> Iterator[IndexedShard]:
    """Yield the shard of a part's rows, or nothing if all of them are quarantined."""
    stored = [row for row in rows if row["shard"]]
    if stored:
        members = [
            (member["offset"], member["size"], member["crc32"], f"{row['clip_id']}.{member['name']}")
            for row in stored
            for member in row["members"]
        ]
        first = stored[0]
        path = latents / "shards" / first["shard"]
        yield IndexedShard(path, first["shard_bytes"], first["shard_sha256"], sorted(members))


def _check_shards(shards: dict[str, IndexedShard], out: Verified) -> None:
    with ThreadPoolExecutor(READERS) as pool:
        checked = zip(shards.items(), pool.map(check_shard, shards.values()), strict=True)
        for (packet, shard), damage in progress(checked, "verify", "shards", len(shards)):
            if damage is None:
                out.shards += 1
                out.samples += len({name.partition(".")[0] for *_, name in shard.members})
                out.bytes += shard.size
            else:
                out.findings.append(Finding(damage[0], f"shards/{shard.path.name}", damage[1], packet))


def _check_null(latents: Location, record: dict[str, Any]) -> Iterator[Finding]:
    for name, digest in record["null"].items():
        file = latents / "null" / name
        if not file.is_file():
            yield Finding("missing", f"null/{name}", "null conditions of a bucket")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            yield Finding("damaged", f"null/{name}", "null conditions of a bucket")


def _check_energon(artifact: Artifact, record: dict[str, Any], verified: Verified) -> Iterator[Finding]:
    """Compare offsets for Energon, where the cache has them, with the index. `.nv-meta` is Energon's to change."""
    if (artifact.path / META).is_dir() and verified.sound == verified.packets:
        index = pa.concat_tables(artifact.read_part(part, ["shard", "members"]) for part in record["parts"])
        for name, data in energon_index(index).items():
            if name.endswith(SUFFIX) and not (artifact.path / name).is_file():
                yield Finding("missing", name, "offsets for Energon")
            elif name.endswith(SUFFIX) and (artifact.path / name).read_bytes() != data:
                yield Finding("damaged", name, "offsets for Energon")


def _orphans(artifact: Artifact, record: dict[str, Any]) -> Iterator[Finding]:
    """Find files that are not in the record; they are never read."""
    shards = {f"shards/{_packet_of(part)}.tar" for part in record["parts"]}
    known = {*record["parts"], *shards, *(name + SUFFIX for name in shards)}
    known |= {f"null/{name}" for name in record["null"]}
    for file in sorted(name_below(one, artifact.path) for one in files_below(artifact.path)):
        ours = file.startswith(("part-", "shards/", "null/")) and not file.rpartition("/")[2].startswith(".")
        if ours and file not in known:
            yield Finding("orphan", file, "not in the record")


def _packet_of(part: str) -> str:
    return part.removeprefix("part-").removesuffix(".parquet")
