import json
import os
from pathlib import Path

import boto3
import pytest
import webdataset as wds

from steadydancer.datasets.artifact import Artifact, ArtifactError, plan_packets
from steadydancer.datasets.shards import (
    INDEX_SCHEMA,
    Sample,
    ShardDataset,
    null_path,
    sample_members,
    shard_path,
    write_shard,
)
from steadydancer.datasets.shards.dataset import require_settings
from steadydancer.datasets.shards.encodings import ENCODINGS, fingerprint
from steadydancer.datasets.shards.integrity import IndexedShard, check_shard
from steadydancer.datasets.shards.plan import plan_shards, shard_limit
from steadydancer.datasets.storage import cache, location
from steadydancer.datasets.storage.atomic import atomic_write
from steadydancer.datasets.storage.cache import scratch_dir
from steadydancer.datasets.storage.s3 import ObjectPath

READS = pytest.mark.parametrize("reuse_memory", [False, True])


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
    counts = {"inputs": num + 1, "ok": num, "rejected": 0, "quarantined": 1}
    Artifact(latents).commit({"counts": counts, "encodings": ENCODINGS, "config": {"dtype": "bfloat16"}})
    return shard_path(latents, packet)


@READS
def test_random_access_gives_what_was_written(tmp_path, reuse_memory):
    make(tmp_path)
    data = ShardDataset(tmp_path, reuse_memory=reuse_memory)
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


@READS
def test_a_damaged_shard_is_named(tmp_path, reuse_memory):
    shard = make(tmp_path)
    content = bytearray(shard.read_bytes())
    content[content.index(b"clip2clip2") + 3] ^= 0xFF
    shard.write_bytes(content)
    data = ShardDataset(tmp_path, reuse_memory=reuse_memory)
    data.read("clip1")
    with pytest.raises(ArtifactError, match=shard.name):
        data.read("clip2")


@READS
def test_a_cut_shard_is_named(tmp_path, reuse_memory):
    shard = make(tmp_path)
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(ArtifactError, match="cut short"):
        ShardDataset(tmp_path, reuse_memory=reuse_memory).read("clip4")


def test_a_sample_that_is_held_keeps_its_bytes_when_memory_is_reused(tmp_path):
    make(tmp_path)
    data = ShardDataset(tmp_path, reuse_memory=True)
    held = {key: data.read(key)["conditions"] for key in data.keys}
    assert held == {key: key.encode() * 50 for key in data.keys}


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
    with atomic_write(shard) as aside:
        aside.write_bytes(content)
    data = ShardDataset(location(bucket) / "latents")
    data.read("clip1")
    with pytest.raises(ArtifactError, match=f"{shard} is cut short or damaged at clip2"):
        data.read("clip2")
    shard.unlink()
    with pytest.raises(ArtifactError, match=f"{shard} is missing"):
        data.read("clip3")


def test_shards_are_cut_by_bytes_and_always_the_same_way():
    sizes = {f"{i:02d}": 10 for i in range(10)} | {"05": 25}
    packets = plan_shards(sizes, 30, 256)
    assert [packet.ids for packet in packets] == [
        ("00", "01", "02"),
        ("03", "04"),
        ("05",),
        ("06", "07", "08"),
        ("09",),
    ]
    assert packets == plan_shards(dict(reversed(sizes.items())), 30, 256)
    assert [len(packet.ids) for packet in plan_shards(sizes, 30, 2)] == [2, 2, 1, 1, 2, 2]
    # What is larger than a shard may be has one of its own; nothing is lost.
    assert [packet.ids for packet in plan_shards({"a": 99, "b": 1}, 30, 9)] == [("a",), ("b",)]
    # A packet is named as one that was cut by number.
    assert packets[0] == plan_packets(["02", "00", "01"], 3)[0]


@pytest.mark.parametrize(
    ("total", "limit"),
    [(114e9, 1e9), (20e9, 1e9), (19e9, 250e6), (2e9, 250e6), (1e9, 125e6), (80, 10), (7, 1), (0, 1)],
    ids=["paper", "large", "below 20 GB", "still quarters", "eight", "tiny", "fewer clips than shards", "no clip"],
)
def test_small_caches_get_smaller_shards(total, limit):
    assert shard_limit(int(total), 1_000_000_000) == limit


def damaged(shard, change):
    content = bytearray(shard.read_bytes())
    change(content)
    shard.write_bytes(content)


def indexed(latents, shard):
    rows = [row for row in Artifact(latents).read().to_pylist() if row["shard"]]
    members = [
        (member["offset"], member["size"], member["crc32"], f"{row['clip_id']}.{member['name']}")
        for row in rows
        for member in row["members"]
    ]
    return IndexedShard(shard, rows[0]["shard_bytes"], rows[0]["shard_sha256"], sorted(members))


def flip(place):
    def change(content):
        content[place(content) if callable(place) else place] ^= 1

    return change


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda content: None, None),
        (lambda content: content.__delitem__(slice(3000, None)), ("cut short", "3000 bytes of 20480")),
        (lambda content: content.extend(b"more"), ("too long", "20484 bytes of 20480")),
        (flip(lambda content: content.index(b"clip2clip2")), ("damaged", "clip2.conditions.safetensors")),
        (flip(0), ("damaged", "outside the members (tar headers or padding)")),
        (flip(-1), ("damaged", "outside the members (tar headers or padding)")),
    ],
    ids=["whole", "cut", "longer", "a member", "a header", "the end"],
)
def test_a_shard_is_read_back_against_its_index(tmp_path, change, found):
    shard = make(tmp_path)
    damaged(shard, change)
    assert check_shard(indexed(tmp_path, shard)) == found
    shard.unlink()
    assert check_shard(indexed(tmp_path, shard)) == ("missing", "20480 bytes")


def test_a_checksum_is_compared_when_a_sample_is_first_read(tmp_path):
    shard = make(tmp_path)
    old, new = ShardDataset(tmp_path), ShardDataset(tmp_path)
    old.read("clip2")
    damaged(shard, flip(lambda content: content.index(b"clip2clip2")))
    assert old.read("clip2")["conditions"] != b"clip2" * 50
    for _ in range(2):  # a sample that failed is not taken for checked
        with pytest.raises(
            ArtifactError, match=r"damaged at clip2\.conditions.*steadydancer verify.*steadydancer repair"
        ):
            new.read("clip2")


def test_a_policy_leaves_out_what_is_missing_or_short(tmp_path):
    for number in range(3):
        keys = [f"clip{number}{i}" for i in range(2)]
        (packet,) = plan_packets(keys, 2)
        row = {"verdict": "ok", "num_frames": 9, "height": 16, "width": 16}
        write_shard(tmp_path, packet, [Sample({"clip_id": key, **row}, sample_members({}, b"c", b"p")) for key in keys])
    counts = {"inputs": 6, "ok": 6, "rejected": 0, "quarantined": 0}
    Artifact(tmp_path).commit({"counts": counts, "encodings": ENCODINGS})
    first, second, _ = (shard_path(tmp_path, plan_packets([f"clip{n}0", f"clip{n}1"], 2)[0]) for n in range(3))
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    assert len(ShardDataset(tmp_path)) == 6
    some = ShardDataset(tmp_path, on_damage="leave_out")
    assert some.keys == ["clip20", "clip21"] and some.left_out == ["clip00", "clip01", "clip10", "clip11"]
    assert some.bucket == {"clip20": (9, 16, 16), "clip21": (9, 16, 16)}


def test_a_cache_of_other_code_or_settings_is_refused_by_name(tmp_path, monkeypatch):
    make(tmp_path)
    require_settings(tmp_path, {"dtype": "bfloat16"})
    with pytest.raises(ArtifactError, match='dtype: "bfloat16" → "float32"'):
        require_settings(tmp_path, {"dtype": "float32"})
    newer = {"dtype": "bfloat16", "tiling": "off"}  # the version that made the cache did not know `tiling`
    require_settings(tmp_path, newer, {"tiling": "off", "dtype": "float32"})
    with pytest.raises(ArtifactError, match=r'(?s)left: the cache\):\n  tiling: "on" → "off"\ntrain with'):
        require_settings(tmp_path, newer, {"tiling": "on"})
    monkeypatch.setitem(ENCODINGS, "pose_latents", 9)
    with pytest.raises(ArtifactError, match=r"encodings\.pose_latents: 1 → 9"):
        ShardDataset(tmp_path)


def test_parts_of_another_cache_are_refused(tmp_path):
    make(tmp_path)
    (packet,) = plan_packets(["other"], 1)
    write_shard(tmp_path, packet, [Sample({"clip_id": "other", "verdict": "ok", "fingerprint": "f00d"})])
    with pytest.raises(ArtifactError, match="contains parts of another cache .fingerprint f00d; its record has"):
        ShardDataset(tmp_path)


def test_a_fingerprint_changes_with_settings_weights_and_code_alone(monkeypatch):
    mark = fingerprint({"dtype": "bfloat16", "max_area_px": 4096}, {"vae": "a"})
    assert mark == fingerprint({"max_area_px": 4096, "dtype": "bfloat16"}, {"vae": "a"}) and len(mark) == 16
    others = [fingerprint({"dtype": "float32", "max_area_px": 4096}, {"vae": "a"}),
              fingerprint({"dtype": "bfloat16", "max_area_px": 4096}, {"vae": "b"})]  # fmt: skip
    monkeypatch.setitem(ENCODINGS, "latents", 2)
    others.append(fingerprint({"dtype": "bfloat16", "max_area_px": 4096}, {"vae": "a"}))
    assert len({mark, *others}) == 4


def num_open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_more_shards_than_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr("steadydancer.datasets.shards.dataset.OPEN_FILES", 2)
    keys = [f"clip{i}" for i in range(6)]
    for packet in plan_packets(keys, 1):
        row = {"clip_id": packet.ids[0], "verdict": "ok", "num_frames": 9, "height": 16, "width": 16}
        write_shard(tmp_path, packet, [Sample(row, sample_members({"k": packet.ids[0]}, b"c", b"p"))])
    counts = {"inputs": 6, "ok": 6, "rejected": 0, "quarantined": 0}
    Artifact(tmp_path).commit({"counts": counts, "encodings": ENCODINGS})
    data, before = ShardDataset(tmp_path), num_open_files()
    for _ in range(2):
        assert [data.read(key)["meta"]["k"] for key in keys] == keys
    assert num_open_files() - before <= 2


def index_rows(latents):
    (part,) = latents.glob("part-*.parquet")
    return part, Artifact(latents).read().to_pylist()


def rewrite(part, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), part)


def test_what_needs_no_reading_is_found_before_work_begins(tmp_path):
    shard = make(tmp_path)
    null = null_path(tmp_path, (9, 16, 16))
    with pytest.raises(ArtifactError, match=rf"{tmp_path} is not complete: {null} is missing: .*steadydancer repair"):
        ShardDataset(tmp_path).require_complete()
    null.parent.mkdir()
    null.write_bytes(b"null")
    ShardDataset(tmp_path).require_complete()
    content = shard.read_bytes()
    for kept, words in (
        (b"", "cut short .0 bytes of 20480"),
        (content[:-1], "cut short"),
        (content + b"x", "too long"),
    ):
        shard.write_bytes(kept)
        with pytest.raises(ArtifactError, match=rf"shard {shard} is {words}"):
            ShardDataset(tmp_path).require_complete()
    shard.unlink()
    with pytest.raises(ArtifactError, match=rf"shard {shard} is missing \(20480 bytes\)"):
        ShardDataset(tmp_path).require_complete()


@READS
@pytest.mark.parametrize("change", ["no shard", "no members", "no pose", "beyond the end"])
def test_an_index_that_names_what_no_shard_holds(tmp_path, change, reuse_memory):
    shard = make(tmp_path)
    null_path(tmp_path, (9, 16, 16)).parent.mkdir()
    null_path(tmp_path, (9, 16, 16)).write_bytes(b"null")
    part, rows = index_rows(tmp_path)
    row = next(row for row in rows if row["clip_id"] == "clip3")
    row["shard"] = None if change == "no shard" else row["shard"]
    row["members"] = {"no members": None, "no pose": row["members"][:2]}.get(change, row["members"])
    if change == "beyond the end":
        row["members"][2]["offset"] = row["shard_bytes"] - 1
    rewrite(part, rows)
    data = ShardDataset(tmp_path, reuse_memory=reuse_memory)
    with pytest.raises(ArtifactError, match="the index lists sample clip3, which shard .* cannot contain: "):
        data.require_complete()
    data.read("clip1")
    with pytest.raises(ArtifactError, match="clip3") as error:
        data.read("clip3")
    assert str(tmp_path) in str(error.value) and shard.exists()


def test_an_index_that_lost_or_repeats_rows_is_refused(tmp_path):
    make(tmp_path)
    part, rows = index_rows(tmp_path)
    rewrite(part, rows[:1] + rows[2:])
    with pytest.raises(ArtifactError, match=r"lists 4 usable samples, 4 of them distinct, .* counts\.ok = 5: index"):
        ShardDataset(tmp_path)
    rewrite(part, rows + rows[-1:])
    with pytest.raises(ArtifactError, match=r"lists 6 usable samples, 5 of them distinct"):
        ShardDataset(tmp_path)


def test_a_store_is_looked_over_before_work_begins(bucket, tmp_path):
    latents = location(bucket) / "latents"
    shard = make(latents)
    with atomic_write(null_path(latents, (9, 16, 16))) as aside:
        aside.write_bytes(b"null")
    ShardDataset(latents).require_complete()
    content = shard.read_bytes()
    with atomic_write(shard) as aside:
        aside.write_bytes(content[:-512])
    with pytest.raises(ArtifactError, match=rf"shard {shard} is cut short \(19968 bytes of 20480\)"):
        ShardDataset(latents).require_complete()
    shard.unlink()
    with pytest.raises(ArtifactError, match=rf"shard {shard} is missing"):
        ShardDataset(latents).require_complete()


def test_a_copy_of_a_damaged_object_does_not_outlive_its_mending(bucket):
    """Nor does a copy that the machine's own disk has spoilt."""
    latents = location(bucket) / "latents"
    shard = make(latents)
    content = shard.read_bytes()
    for kept in (content[:4000], content.replace(b"clip2clip2", b"clip2clap2", 1)):
        with atomic_write(shard) as aside:
            aside.write_bytes(kept)
        with pytest.raises(ArtifactError, match=f"{shard} is cut short or damaged at clip2"):
            ShardDataset(latents).read("clip2")
        with atomic_write(shard) as aside:
            aside.write_bytes(content)
        assert ShardDataset(latents).read("clip2")["conditions"] == b"clip2" * 50
        (copy,) = (scratch_dir() / "entries").glob("*/bytes")
        copy.write_bytes(copy.read_bytes()[:-1] + b"?")
        assert ShardDataset(latents).read("clip2")["pose"] == b"poseclip2"
        for left in (scratch_dir() / "entries").glob("*/bytes"):
            left.write_bytes(b"")  # a machine that lost its power after the rename
        assert ShardDataset(latents).read("clip2")["pose"] == b"poseclip2"
        ShardDataset(latents).read("clip2")
        cache.drop(next((scratch_dir() / "entries").glob("*/bytes")).parent.name)
