"""Shards of samples that are all different: what the index says of each is read back by plain means."""

import hashlib
import json
import tarfile
import zlib

import pytest

from steadydancer.datasets.artifact import Artifact, ArtifactError, plan_packets
from steadydancer.datasets.shards import (
    Sample,
    ShardDataset,
    integrity,
    null_path,
    sample_members,
    shard_path,
    write_shard,
)
from steadydancer.datasets.shards.encodings import ENCODINGS, fingerprint
from steadydancer.datasets.shards.integrity import IndexedShard, check_shard, wrong_sizes
from steadydancer.datasets.shards.plan import packet_id

# Key → frames, height, width, and bytes of conditions and keypoints: no two are alike.
SAMPLES = {"b": (9, 16, 24, 900, 40), "a": (9, 24, 16, 100, 700), "d": (13, 16, 16, 5, 6), "c": (9, 16, 24, 2000, 1)}

NAMES = ["conditions.safetensors", "json", "pose.safetensors"]  # as WebDataset's writer sorts them


def data_of(key: str, size: int) -> bytes:
    return hashlib.sha256(key.encode()).digest() * (size // 32 + 1)


def members_of(key: str) -> dict[str, bytes]:
    *_, conditions, pose = SAMPLES[key]
    return sample_members(
        {"z": 1, "clip_id": key}, data_of(key, conditions)[:conditions], data_of(f"p{key}", pose)[:pose]
    )


@pytest.fixture
def latents(tmp_path):
    (packet,) = plan_packets([*SAMPLES, "bad"], 9)
    samples = [
        Sample({"clip_id": key, "source_id": f"s{key}", "verdict": "ok", "num_frames": frames, "height": height,
                "width": width, "prompt_from": "supplied", "fingerprint": "f"}, members_of(key))
        for key, (frames, height, width, *_) in SAMPLES.items()
    ]  # fmt: skip
    samples.append(Sample({"clip_id": "bad", "verdict": "quarantined", "reason": "cut short", "fingerprint": "f"}))
    write_shard(tmp_path, packet, samples)
    counts = {"inputs": 5, "ok": 4, "rejected": 0, "quarantined": 1}
    Artifact(tmp_path).commit({"counts": counts, "encodings": ENCODINGS, "fingerprint": "f"})
    return tmp_path


def shard_of(latents):
    return shard_path(latents, plan_packets([*SAMPLES, "bad"], 9)[0])


def test_the_index_says_where_each_member_lies_and_what_it_is(latents):
    shard = shard_of(latents)
    content = shard.read_bytes()
    assert shard == latents / "shards" / f"{packet_id(['a', 'b', 'bad', 'c', 'd'])}.tar"
    rows = Artifact(latents).read().to_pylist()
    assert [row["clip_id"] for row in rows] == ["a", "b", "bad", "c", "d"]
    for row in rows:
        key = row["clip_id"]
        if key == "bad":
            assert [row[name] for name in ("shard", "shard_bytes", "shard_sha256", "members")] == [None] * 4
            assert (row["verdict"], row["reason"], row["num_frames"]) == ("quarantined", "cut short", None)
            continue
        assert (row["shard"], row["shard_bytes"]) == (shard.name, len(content))
        assert row["shard_sha256"] == hashlib.sha256(content).hexdigest()
        wanted = members_of(key)
        assert [member["name"] for member in row["members"]] == NAMES
        for member in row["members"]:
            piece = content[member["offset"] : member["offset"] + member["size"]]
            assert piece == wanted[member["name"]] and member["crc32"] == zlib.crc32(piece)
    with tarfile.open(shard) as tar:
        headers = [(one.name, one.uname, one.gname, one.mode, one.mtime) for one in tar]
    assert headers == [(f"{key}.{name}", "steadydancer", "steadydancer", 0o644, 0) for key in "abcd" for name in NAMES]


def test_samples_are_read_in_their_own_sizes(latents):
    data = ShardDataset(latents)
    assert data.keys == ["a", "b", "c", "d"] and len(data) == 4
    assert data.bucket == {key: SAMPLES[key][:3] for key in "abcd"}
    for key in ("d", "a", "c", "b", "a"):
        wanted = members_of(key)
        assert data.read(key) == {
            "meta": {"clip_id": key, "z": 1},
            "conditions": wanted["conditions.safetensors"],
            "pose": wanted["pose.safetensors"],
        }
    assert wanted["json"] == b'{"clip_id": "a", "z": 1}'  # sorted: the same bytes, whoever wrote it


def test_a_sample_that_was_right_once_is_still_measured(latents):
    data = ShardDataset(latents)
    place = next(row for row in Artifact(latents).read().to_pylist() if row["clip_id"] == "d")["members"][2]["offset"]
    data.read("d")
    shard = shard_of(latents)
    with shard.open("r+b") as file:
        file.truncate(place + 3)
    with pytest.raises(ArtifactError, match=r"cut short or damaged at d\.pose"):
        data.read("d")
    data.read("a")


@pytest.mark.parametrize("member", ["json", "conditions.safetensors", "pose.safetensors"])
def test_every_member_has_a_checksum(latents, member):
    shard = shard_of(latents)
    content = bytearray(shard.read_bytes())
    row = next(row for row in Artifact(latents).read().to_pylist() if row["clip_id"] == "c")
    place = next(one for one in row["members"] if one["name"] == member)
    content[place["offset"] + place["size"] - 1] ^= 1
    shard.write_bytes(content)
    data = ShardDataset(latents)
    for key in "abd":
        data.read(key)
    with pytest.raises(ArtifactError, match=rf"damaged at c\.{member}: "):
        data.read("c")


def test_null_conditions_are_those_of_their_bucket_and_of_the_record(latents):
    sizes = {(9, 16, 24), (9, 24, 16), (13, 16, 16)}
    for bucket in sizes:
        place = null_path(latents, bucket)
        assert place == latents / "null" / f"{bucket[0]}x{bucket[1]}x{bucket[2]}.safetensors"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(repr(bucket).encode())
    data = ShardDataset(latents)
    data.require_complete()
    assert {data.null(bucket) for bucket in sizes} == {repr(bucket).encode() for bucket in sizes}
    # A record that knows their digests is believed; one of an older cache does not.
    file = latents / "run.json"
    record = json.loads(file.read_text())
    wide = null_path(latents, (9, 16, 24))
    record["null"] = {wide.name: hashlib.sha256(b"(9, 16, 24)").hexdigest()}
    file.write_text(json.dumps(record))
    data = ShardDataset(latents)
    assert data.null((9, 16, 24)) == b"(9, 16, 24)" and data.null((9, 24, 16)) == b"(9, 24, 16)"
    wide.write_bytes(b"(9, 16, 25)")
    with pytest.raises(ArtifactError, match="9x16x24.safetensors is damaged"):
        data.null((9, 16, 24))
    wide.unlink()
    with pytest.raises(ArtifactError, match="9x16x24.safetensors is missing"):
        data.null((9, 16, 24))


def test_all_that_is_missing_is_counted_and_each_kinds_first_is_named(latents):
    null_path(latents, (9, 24, 16)).parent.mkdir()
    null_path(latents, (9, 24, 16)).write_bytes(b"")
    shard_of(latents).unlink()
    with pytest.raises(ArtifactError) as error:
        ShardDataset(latents).require_complete()
    words = str(error.value)
    assert f"shard {shard_of(latents)} is missing" in words and "; and 1 more" in words
    assert "13x16x16.safetensors is missing" in words or "9x16x24.safetensors is missing" in words
    with pytest.raises(ArtifactError, match="no usable sample"):
        ShardDataset(latents, on_damage="leave_out")


def test_a_shard_is_read_in_pieces_and_each_damaged_member_is_named(latents, monkeypatch):
    rows = [row for row in Artifact(latents).read().to_pylist() if row["shard"]]
    places = sorted(
        (member["offset"], member["size"], member["crc32"], f"{row['clip_id']}.{member['name']}")
        for row in rows
        for member in row["members"]
    )
    shard = shard_of(latents)
    whole = shard.read_bytes()
    indexed = IndexedShard(shard, rows[0]["shard_bytes"], rows[0]["shard_sha256"], places)
    for chunk in (1 << 20, 512, 333, 7):
        monkeypatch.setattr(integrity, "CHUNK_BYTES", chunk)
        assert check_shard(indexed) is None
        for places_hit, words in (
            ([1], "a.json"),
            ([0, 3, 6], "a.conditions.safetensors, b.conditions.safetensors, c.conditions.safetensors"),
            ([0, 1, 3, 6, 9], "a.conditions.safetensors, a.json, b.conditions.safetensors and 2 more"),
        ):
            content = bytearray(whole)
            for place in places_hit:
                content[places[place][0]] ^= 1
            shard.write_bytes(content)
            assert check_shard(indexed) == ("damaged", words)
        shard.write_bytes(whole)
    # A member that is whole, in a shard that is another one in between and at its end.
    for at in (places[3][0] - 1, len(whole) - 1, 0):
        content = bytearray(whole)
        content[at] ^= 1
        shard.write_bytes(content)
        assert check_shard(indexed) == ("damaged", "outside the members (tar headers or padding)")
    sizes = {shard: len(whole), latents / "none.tar": 7}
    assert wrong_sizes(sizes) == {latents / "none.tar": ("missing", "7 bytes")}
    assert wrong_sizes({shard: len(whole) + 1}) == {shard: ("cut short", f"{len(whole)} bytes of {len(whole) + 1}")}
    assert wrong_sizes({shard: len(whole) - 1}) == {shard: ("too long", f"{len(whole)} bytes of {len(whole) - 1}")}


def test_a_fingerprint_is_of_settings_weights_and_encodings():
    text = json.dumps(
        {"config": {"b": 1, "a": "x"}, "weights": {"vae": "0"}, "encodings": ENCODINGS}, sort_keys=True
    ).replace(", ", ",").replace(": ", ":")  # fmt: skip
    assert fingerprint({"a": "x", "b": 1}, {"vae": "0"}) == hashlib.sha256(text.encode()).hexdigest()[:16]
    members = {"latents", "image_latents", "pose_latents", "image_embeds", "pose_image_embeds", "prompt_embeds"}
    assert members | {"pose", "caption"} == ENCODINGS.keys()


def test_parts_without_a_verdict_of_their_own_are_counted_against_the_record(latents):
    file = latents / "run.json"
    for ok, quarantined in ((3, 2), (5, 0)):
        record = json.loads(file.read_text())
        record["counts"] = {"inputs": 5, "ok": ok, "rejected": 0, "quarantined": quarantined}
        file.write_text(json.dumps(record))
        with pytest.raises(ArtifactError, match=rf"lists 4 usable samples, 4 of them distinct, .* counts\.ok = {ok}"):
            ShardDataset(latents)
