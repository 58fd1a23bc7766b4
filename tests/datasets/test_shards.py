import json
import os

import pytest
import webdataset as wds

from steadydancer.datasets.artifact import Artifact, ArtifactError, plan_packets
from steadydancer.datasets.shards import Sample, ShardDataset, sample_members, shard_path, write_shard


def make(latents, num=5):
    keys = [f"clip{i}" for i in range(num)]
    (packet,) = plan_packets(keys, num)
    samples = [
        Sample(
            {"clip_id": key, "verdict": "ok", "num_frames": 9, "height": 16, "width": 16},
            sample_members({"clip_id": key}, os.urandom(0) + key.encode() * 50, b"pose" + key.encode()),
        )
        for key in keys
    ]
    samples.append(Sample({"clip_id": "bad", "verdict": "quarantined", "reason": "truncated"}))
    write_shard(latents, packet, samples)
    Artifact(latents).commit({"counts": {"inputs": num + 1, "ok": num, "rejected": 0, "quarantined": 1}})
    return shard_path(latents, packet)


def test_random_access_gives_what_was_written(tmp_path):
    make(tmp_path)
    data = ShardDataset(tmp_path)
    assert data.keys == [f"clip{i}" for i in range(5)]
    sample = data.read("clip3")
    assert sample == {"meta": {"clip_id": "clip3"}, "conditions": b"clip3" * 50, "pose": b"poseclip3"}


def test_plain_webdataset_reads_the_same_samples(tmp_path):
    shard = make(tmp_path)
    seen = {s["__key__"]: s for s in wds.WebDataset(str(shard), shardshuffle=False)}
    assert set(seen) == {f"clip{i}" for i in range(5)}
    assert json.loads(seen["clip1"]["json"]) == {"clip_id": "clip1"}
    assert seen["clip1"]["conditions.safetensors"] == b"clip1" * 50


def test_same_samples_same_bytes(tmp_path):
    assert make(tmp_path / "a").read_bytes() == make(tmp_path / "b").read_bytes()


def test_a_damaged_shard_is_named(tmp_path):
    shard = make(tmp_path)
    content = bytearray(shard.read_bytes())
    content[content.index(b"clip2clip2") + 3] ^= 0xFF
    shard.write_bytes(content)
    data = ShardDataset(tmp_path)
    data.read("clip1")
    with pytest.raises(ArtifactError, match=shard.name):
        data.read("clip2")


def test_a_cut_shard_is_named(tmp_path):
    shard = make(tmp_path)
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(ArtifactError, match="cut short"):
        ShardDataset(tmp_path).read("clip4")


def test_an_unfinished_cache_is_refused(tmp_path):
    make(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ArtifactError, match="not finished"):
        ShardDataset(tmp_path)
