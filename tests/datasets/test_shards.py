import json
import os

import boto3
import pytest
import webdataset as wds

from steadydancer.datasets.artifact import Artifact, ArtifactError, plan_packets, written_aside
from steadydancer.datasets.object_store import ObjectPath
from steadydancer.datasets.shards import Sample, ShardDataset, sample_members, shard_path, write_shard
from steadydancer.datasets.storage import location


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


def test_a_store_is_read_by_ranges_once_a_machine(bucket, tmp_path, monkeypatch):
    latents = location(bucket) / "latents"
    shard = make(latents)
    make(tmp_path / "twin")
    ours, twin, asked = ShardDataset(str(latents)), ShardDataset(tmp_path / "twin"), []
    open_object = ObjectPath.open
    monkeypatch.setattr(ObjectPath, "open", lambda path: asked.append(path) or open_object(path))
    for _ in range(2):
        assert [ours.read(key) for key in ours.keys] == [twin.read(key) for key in twin.keys]
    assert asked == [shard] * 5  # one range a sample, then the copies
    assert shard.read_bytes() == shard_path(tmp_path / "twin", plan_packets(ours.keys, 5)[0]).read_bytes()


def test_plain_webdataset_reads_a_shard_from_a_store(bucket, object_store):
    shard = make(location(bucket) / "latents")
    client = boto3.client("s3", endpoint_url=object_store, region_name="us-east-1")
    url = client.generate_presigned_url("get_object", {"Bucket": shard.bucket, "Key": shard.key})
    seen = {s["__key__"]: s for s in wds.WebDataset(url, shardshuffle=False)}
    assert set(seen) == {f"clip{i}" for i in range(5)} and seen["clip1"]["conditions.safetensors"] == b"clip1" * 50


def test_a_shard_that_is_missing_or_damaged_on_a_store_is_named(bucket):
    shard = make(location(bucket) / "latents")
    content = bytearray(shard.read_bytes())
    content[content.index(b"clip2clip2") + 3] ^= 0xFF
    with written_aside(shard) as aside:
        aside.write_bytes(content)
    data = ShardDataset(location(bucket) / "latents")
    data.read("clip1")
    with pytest.raises(ArtifactError, match=f"{shard} is cut short or damaged at clip2"):
        data.read("clip2")
    shard.unlink()
    with pytest.raises(ArtifactError, match=f"{shard} is missing"):
        data.read("clip3")
