"""The index for Energon says of each sample what the tar itself says."""

import json
import struct
import tarfile
from pathlib import Path

import pytest
import yaml

from steadydancer.datasets.artifact import Artifact, ArtifactError, plan_packets
from steadydancer.datasets.shards import Sample, sample_members, write_energon_index, write_shard
from steadydancer.datasets.storage.s3 import ObjectPath

KEYS = [f"{number:016x}" for number in range(5)]


def make(latents: Path | ObjectPath) -> list[str]:
    """Write two shards of samples of different sizes, one clip without latents, and no record; return their names."""
    packets = plan_packets([*KEYS, "zz"], 3)
    for packet in packets:
        samples = [
            Sample({"clip_id": key, "verdict": "quarantined", "reason": "truncated"}) if key == "zz" else
            Sample({"clip_id": key, "verdict": "ok"}, sample_members({"k": key}, b"c" * (700 * i + 1), b"p" * 512 * i))
            for i, key in enumerate(packet.ids)
        ]  # fmt: skip
        write_shard(latents, packet, samples)
    return sorted(f"shards/{packet.id}.tar" for packet in packets)


def offsets_by_tarfile(shard: Path) -> tuple[int, ...]:
    """Return where the first member of each sample begins, and where the last member's padding ends."""
    with tarfile.open(shard) as tar:
        first = {member.name.partition(".")[0]: member.offset for member in reversed(list(tar))}
        return (*sorted(first.values()), tar.offset)


def test_offsets_are_those_of_the_tar(tmp_path: Path) -> None:
    names = make(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    write_energon_index(tmp_path)
    for name in names:
        data = (tmp_path / f"{name}.idx").read_bytes()
        assert struct.unpack(f"<{len(data) // 8}Q", data) == offsets_by_tarfile(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before[name]


def test_shards_are_counted_and_named(tmp_path: Path) -> None:
    first, second = make(tmp_path)
    write_energon_index(tmp_path)
    meta = tmp_path / ".nv-meta"
    counts = json.loads((meta / ".info.json").read_text())["shard_counts"]
    assert sorted(counts.values()) == [2, 3] and list(counts) == [first, second]
    assert yaml.safe_load((meta / "split.yaml").read_text()) == {"split_parts": {"train": [first, second]}}
    assert yaml.safe_load((meta / "dataset.yaml").read_text()) == {
        "__module__": "megatron.energon", "__class__": "CrudeWebdataset",
    }  # fmt: skip


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path)
    write_energon_index(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    write_energon_index(tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_index_is_written_into_a_store(bucket: str, tmp_path: Path) -> None:
    latents = ObjectPath.parse(bucket) / "latents"
    (name, *_) = make(latents)
    write_energon_index(latents)
    make(tmp_path)
    write_energon_index(tmp_path)
    assert (latents / f"{name}.idx").read_bytes() == (tmp_path / f"{name}.idx").read_bytes()
    assert (latents / ".nv-meta" / ".info.json").is_file()


def test_an_unwritten_cache_has_no_index(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="contains no parts"):
        write_energon_index(Artifact(tmp_path).path)
