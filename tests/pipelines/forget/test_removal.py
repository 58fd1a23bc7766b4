"""What a new version takes over, what it leaves out, and what it refuses to carry on."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from steadydancer.datasets.artifact import Artifact, ArtifactError, Packet, plan_packets
from steadydancer.datasets.exports import SCHEMA as EXPORT_SCHEMA
from steadydancer.datasets.exports import clip_files
from steadydancer.datasets.shards import Sample, ShardDataset, null_path, sample_members, shard_path, write_shard
from steadydancer.datasets.shards.encodings import ENCODINGS
from steadydancer.datasets.storage.files import remove_folder
from steadydancer.pipelines.forget import removal
from steadydancer.pipelines.forget.removal import (
    Forgotten,
    copy_null_conditions,
    files_without,
    rows_without,
    samples_without,
)

GONE = Forgotten(frozenset({"id0"}), frozenset({"/v/a.mp4", "/v/a.mp4.old", "/v/unread.mp4"}))


def table(*rows: dict[str, Any]) -> pa.Table:
    names = ("source_path", "source_id", "clip_id", "detail", "prompt", "duplicate_group", "score")
    schema = pa.schema([(name, pa.float64() if name == "score" else pa.string()) for name in names])
    return pa.Table.from_pylist(list(rows), schema=schema)


def test_rows_are_theirs_by_content_or_by_path_where_there_is_no_content():
    rows = table(
        {"source_id": "id0", "source_path": "/v/a.mp4"},
        {"source_id": "id0", "source_path": "/elsewhere.mp4"},  # the same content under another name
        {"source_id": None, "source_path": "/v/unread.mp4"},
        {"source_id": "id1", "source_path": "/v/a.mp4"},  # another video that lies there now: not theirs
        {"source_id": None, "source_path": "/v/other.mp4"},
        {"source_id": None, "source_path": None},
        {"source_id": "id1", "source_path": "/v/b.mp4"},
    )
    assert GONE.rows(rows).to_pylist() == [True, True, True, False, False, False, False]
    assert GONE.remaining(rows).to_pylist() == rows.to_pylist()[3:]
    # Tables that have no paths, and one that has no digest in a row.
    bare = rows.select(["source_id", "clip_id"])
    assert GONE.rows(bare).to_pylist() == [True, True, False, False, False, False, False]
    # Whose files could all be read, and whose could none.
    assert Forgotten(frozenset({"id0"}), frozenset()).rows(rows).to_pylist() == [True, True, *[False] * 5]
    unread = Forgotten(frozenset(), frozenset({"/v/unread.mp4"}))
    assert unread.rows(rows).to_pylist() == [False, False, True, *[False] * 4]


def test_names_are_hidden_in_words_about_them_and_nowhere_else():
    rows = table(
        {"source_path": "/v/a.mp4", "detail": "a copy of /v/a.mp4.old and of /v/a.mp4", "prompt": "/v/a.mp4"},
        {"source_path": "/v/b.mp4", "detail": None, "duplicate_group": "/v/a.mp4"},
        {"source_path": "/v/c.mp4", "detail": "a copy of /v/b.mp4", "score": 0.5},
    )
    reported = GONE.redact_table(rows)
    assert reported.schema == rows.schema
    # The longer name first: no ".old" of it stays.
    expected = rows.to_pylist()
    expected[0]["detail"] = "a copy of a forgotten source and of a forgotten source"
    expected[1]["duplicate_group"] = "a forgotten source"
    assert reported.to_pylist() == expected
    value = {"left": ["/v/a.mp4", 3, None, {"x": "in /v/unread.mp4:"}], "right": "/v/b.mp4", "n": 1.5}
    assert GONE.redact(value) == {
        "left": ["a forgotten source", 3, None, {"x": "in a forgotten source:"}],
        "right": "/v/b.mp4",
        "n": 1.5,
    }


@pytest.fixture
def old(tmp_path: Path) -> Artifact:
    """Four parts: untouched, with a forgotten row, with a word about one, with a group named after one."""
    artifact = Artifact(tmp_path / "old")
    parts = {
        "a": [{"source_id": "id1", "clip_id": "c1", "detail": "dark", "duplicate_group": "c1", "score": 0.25}],
        "b": [
            {"source_id": "id2", "clip_id": "c2", "detail": "kept", "duplicate_group": "c2", "score": None},
            {"source_id": "id0", "clip_id": "c0", "detail": "gone", "duplicate_group": "c2", "score": 0.5},
            {"source_id": "id3", "clip_id": "c3", "detail": None, "duplicate_group": None, "score": 0.75},
        ],
        "c": [{"source_id": "id4", "clip_id": "c4", "detail": "a copy of /v/a.mp4", "duplicate_group": "c4"}],
        "d": [
            {"source_id": "id5", "clip_id": "c5", "detail": "x", "duplicate_group": "c0"},
            {"source_id": "id6", "clip_id": "c6", "detail": "y", "duplicate_group": "c6"},
            {"source_id": "id7", "clip_id": "c7", "detail": "z", "duplicate_group": None},
        ],
    }
    for name, rows in parts.items():
        artifact.write_part(Packet(name, ()), table(*rows))
    return artifact


COLUMNS = ("source_path", "source_id", "detail", "duplicate_group")


def test_parts_without_a_word_of_them_are_the_same_files_and_the_others_lose_just_that(old: Artifact, tmp_path: Path):
    new = Artifact(tmp_path / "new")
    names = [f"part-{name}.parquet" for name in "abcd"]
    assert list(rows_without(old, new, GONE, COLUMNS, {"c0": "c5"})) == names == new.parts()
    assert (new.path / names[0]).samefile(old.path / names[0])
    assert not any((new.path / name).samefile(old.path / name) for name in names[1:])
    reported = {name: old.read_part(name).to_pylist() for name in names}
    del reported[names[1]][1]
    reported[names[2]][0]["detail"] = "a copy of a forgotten source"
    reported[names[3]][0]["duplicate_group"] = "c5"
    assert {name: new.read_part(name).to_pylist() for name in names} == reported
    assert all(new.read_part(name).schema == old.read_part(name).schema for name in names)


def test_parts_that_are_done_are_left_as_they_are_and_groups_may_keep_their_names(old: Artifact, tmp_path: Path):
    new = Artifact(tmp_path / "new")
    new.write_part(Packet("b", ()), table({"clip_id": "made before"}))
    assert len(list(rows_without(old, new, GONE, COLUMNS))) == 4
    assert new.read_part("part-b.parquet")["clip_id"].to_pylist() == ["made before"]
    assert (new.path / "part-d.parquet").samefile(old.path / "part-d.parquet")
    assert list(rows_without(old, Artifact(tmp_path / "other"), GONE, COLUMNS, {"c9": "c5"}))
    assert (tmp_path / "other" / "part-d.parquet").samefile(old.path / "part-d.parquet")


SOURCES = {"clip0": "id0", "clip1": "id1", "clip2": "id0", "clip3": "id3", "clip4": "id4", "clip5": "id5"}


@pytest.fixture
def latents(tmp_path: Path) -> Artifact:
    """Samples of unequal length in three shards of two, the first two with one of `id0`; and a refused clip of it."""
    path = tmp_path / "latents"
    for packet in plan_packets(SOURCES, 2):
        samples = []
        for key in packet.ids:
            number, row = int(key[-1]), {"clip_id": key, "source_id": SOURCES[key], "verdict": "ok", "num_frames": 9}
            row |= {"height": 16, "width": 16 + number, "prompt_from": "supplied", "fingerprint": "f"}
            meta = {"clip_id": key, "n": number}
            samples.append(Sample(row, sample_members(meta, key.encode() * (40 + number), b"pose" + key.encode())))
        write_shard(path, packet, samples)
    refused = [{"clip_id": "bad", "source_id": "id0"}, {"clip_id": "worse", "source_id": "id3", "detail": "cut short"}]
    (packet,) = plan_packets(["bad", "worse"], 2)
    write_shard(path, packet, [Sample({"verdict": "quarantined", "fingerprint": "f", **row}) for row in refused])
    committed(Artifact(path), 6, 2)
    return Artifact(path)


def committed(artifact: Artifact, ok: int, quarantined: int) -> ShardDataset:
    counts = {"inputs": ok + quarantined, "ok": ok, "rejected": 0, "quarantined": quarantined}
    artifact.commit({"counts": counts, "encodings": ENCODINGS, "fingerprint": "f"})
    return ShardDataset(artifact.path)


def shard_of(latents: Artifact, *ids: str) -> Path:
    return Path(str(shard_path(latents.path, plan_packets(ids, 2)[0])))


def test_samples_that_stay_are_read_from_their_new_places_byte_for_byte(latents: Artifact, tmp_path: Path):
    new = Artifact(tmp_path / "new")
    assert list(samples_without(latents, new, GONE)) == latents.parts()
    before, after = ShardDataset(latents.path), committed(new, 4, 1)
    assert after.keys == ["clip1", "clip3", "clip4", "clip5"]
    assert [after.read(key) for key in after.keys] == [before.read(key) for key in after.keys]
    assert after.bucket == {key: before.bucket[key] for key in after.keys}
    assert shard_of(new, "clip4", "clip5").samefile(shard_of(latents, "clip4", "clip5"))
    assert {file.name for file in (new.path / "shards").iterdir()} == {
        shard_of(new, *ids).name for ids in (("clip1",), ("clip3",), ("clip4", "clip5"))
    }
    # All that was said of them but where they lay.
    places = ("shard", "shard_bytes", "shard_sha256", "members")
    reported = {
        row["clip_id"]: {name: row[name] for name in row if name not in places} for row in latents.read().to_pylist()
    }
    rows = {row["clip_id"]: row for row in new.read().to_pylist()}
    assert rows.keys() == {"clip1", "clip3", "clip4", "clip5", "worse"}
    for key, row in rows.items():
        assert {name: row[name] for name in row if name not in places} == reported[key]
    # Once more: nothing is written again.
    times = {file: file.stat().st_mtime_ns for file in new.path.rglob("*.*")}
    assert list(samples_without(latents, new, GONE)) == latents.parts()
    assert {file: file.stat().st_mtime_ns for file in new.path.rglob("*.*")} == times


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("clip1.conditions.safetensors", lambda data: data.replace(b"clip1clip1", b"clip1clip!", 1)),
        ("clip1.pose.safetensors", lambda data: data.replace(b"poseclip1", b"Poseclip1", 1)),
        ("clip1.json", lambda data: data.replace(b'"n": 1', b'"n": 7', 1)),
        ("clip1.json", lambda data: data[: data.index(b"clip1.json")]),
    ],
    ids=["conditions", "pose", "json", "cut"],
)
def test_a_damaged_sample_is_not_taken_over_under_a_fresh_checksum(latents: Artifact, tmp_path: Path, where, change):
    shard = shard_of(latents, "clip0", "clip1")
    content = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(change(content))
    new = Artifact(tmp_path / "new")
    with pytest.raises(ArtifactError, match=rf"shard {shard} is truncated or damaged at {where}: .*repair"):
        list(samples_without(latents, new, GONE))
    (alone,) = plan_packets(["clip1"], 1)
    assert not shard_of(new, "clip1").exists() and not new.part(alone).is_file()
    # Mended, the same call goes on.
    shard.write_bytes(content)
    assert len(list(samples_without(latents, new, GONE))) == 4
    assert committed(new, 4, 1).read("clip1")["meta"] == {"clip_id": "clip1", "n": 1}


def test_damage_in_what_is_forgotten_does_not_hold_it_back(latents: Artifact, tmp_path: Path):
    shard = shard_of(latents, "clip0", "clip1")
    content = shard.read_bytes()
    assert content.index(b"clip0clip0") < content.index(b"clip1clip1")
    shard.write_bytes(content.replace(b"clip0clip0", b"clip0clip!", 1))
    new = Artifact(tmp_path / "new")
    list(samples_without(latents, new, GONE))
    assert committed(new, 4, 1).read("clip1")["conditions"] == b"clip1" * 41


def test_damage_in_a_shard_that_is_taken_over_whole_is_still_told_by_its_old_checksum(
    latents: Artifact, tmp_path: Path
):
    shard = shard_of(latents, "clip4", "clip5")
    shard.write_bytes(shard.read_bytes().replace(b"clip4clip4", b"clip4clip!", 1))
    new = Artifact(tmp_path / "new")
    list(samples_without(latents, new, GONE))
    with pytest.raises(ArtifactError, match=r"damaged at clip4\.conditions"):
        committed(new, 4, 1).read("clip4")


def test_a_cache_of_which_nothing_is_left_is_an_empty_one(latents: Artifact, tmp_path: Path):
    new = Artifact(tmp_path / "new")
    list(samples_without(latents, new, Forgotten(frozenset(SOURCES.values()), frozenset())))
    assert len(new.read()) == 0 and len(new.parts()) == 1 and not (new.path / "shards").exists()
    # Whichever part goes, the last one too, nothing empty takes its place.
    for number, part in enumerate(latents.parts()):
        theirs = frozenset(latents.read_part(part)["source_id"].to_pylist())
        some = Artifact(tmp_path / f"some{number}")
        list(samples_without(latents, some, Forgotten(theirs, frozenset())))
        assert all(len(some.read_part(one)) for one in some.parts())
    # A rejected row that stays is something left.
    other = Artifact(tmp_path / "other")
    list(samples_without(latents, other, Forgotten(frozenset(SOURCES.values()) - {"id3"}, frozenset())))
    assert sorted(other.read()["clip_id"].to_pylist()) == ["clip3", "worse"] and len(other.parts()) == 2


def test_null_conditions_go_over_by_bucket(tmp_path: Path):
    old, new = Artifact(tmp_path / "old"), Artifact(tmp_path / "new")
    buckets = [(9, 16, 32), (9, 16, 24), (13, 16, 16)]
    for bucket in buckets:
        null_path(old.path, bucket).parent.mkdir(parents=True, exist_ok=True)
        null_path(old.path, bucket).write_bytes(repr(bucket).encode())  # type: ignore[union-attr]
    assert copy_null_conditions(old, new, buckets[:2]) == ["9x16x24.safetensors", "9x16x32.safetensors"]
    assert sorted(file.name for file in Path(str(new.path / "null")).iterdir()) == [
        "9x16x24.safetensors",
        "9x16x32.safetensors",
    ]
    assert null_path(new.path, buckets[0]).read_bytes() == b"(9, 16, 32)"
    null_path(new.path, buckets[0]).unlink()
    null_path(new.path, buckets[0]).write_bytes(b"there already")  # type: ignore[union-attr]
    copy_null_conditions(old, new, buckets)
    assert null_path(new.path, buckets[0]).read_bytes() == b"there already"
    assert null_path(new.path, buckets[2]).read_bytes() == b"(13, 16, 16)"


def test_an_export_keeps_the_files_of_what_stays_and_its_manifests_name_no_others(tmp_path: Path):
    old, new = Artifact(tmp_path / "old"), Artifact(tmp_path / "new")
    verdicts = {"c0": ("id0", "ok"), "c1": ("id1", "ok"), "c2": ("id2", "quarantined"), "c3": ("id3", "ok")}
    for part, keys in {"a": ["c0", "c1"], "b": ["c2", "c3"]}.items():
        rows = [
            dict.fromkeys(EXPORT_SCHEMA.names)
            | {"clip_id": key, "source_id": verdicts[key][0], "verdict": verdicts[key][1], "prompt": f"a {key}"}
            | {"height": 16, "width": 24, "num_frames": 9, "detail": "beside /v/a.mp4", "source_path": f"/v/{key}.mp4"}
            for key in keys
        ]
        old.write_part(Packet(part, tuple(keys)), pa.Table.from_pylist(rows, schema=EXPORT_SCHEMA))
    for key in verdicts:
        for file in clip_files(key).values():
            (old.path / file).parent.mkdir(exist_ok=True)
            (old.path / file).write_text(f"{file} of {key}")  # type: ignore[union-attr]
    assert list(files_without(old, new, GONE, "diffsynth")) == ["part-a.parquet", "part-b.parquet"]
    kept = {file for key in ("c1", "c3") for file in clip_files(key).values()}  # a quarantined clip has none
    made = {file.relative_to(new.path).as_posix() for file in new.path.rglob("*") if file.is_file()}
    assert made == kept | {"part-a.parquet", "part-b.parquet", "clips.jsonl", "metadata.csv"}
    assert all((new.path / file).samefile(old.path / file) for file in kept)
    rows = new.read().to_pylist()
    assert [(row["clip_id"], row["verdict"]) for row in rows] == [("c1", "ok"), ("c2", "quarantined"), ("c3", "ok")]
    assert {row["detail"] for row in rows} == {"beside a forgotten source"}
    reported = [json.loads(line)["id"] for line in (new.path / "clips.jsonl").read_text().splitlines()]
    assert reported == ["c1", "c3"] and (new.path / "metadata.csv").read_text().count("videos/") == 6
    # Again, after it was stopped between parts: what is there is left as it is.
    (new.path / "part-b.parquet").unlink()
    (new.path / "videos" / "c3.txt").unlink()
    (new.path / "videos" / "c1.txt").unlink()
    assert len(list(files_without(old, new, GONE, "diffsynth"))) == 2
    assert (new.path / "videos" / "c3.txt").exists() and not (new.path / "videos" / "c1.txt").exists()
    # The manifests name what stood there before the stop as well.
    reported = [json.loads(line)["id"] for line in (new.path / "clips.jsonl").read_text().splitlines()]
    assert reported == ["c1", "c3"] and (new.path / "metadata.csv").read_text().count("videos/") == 6


def test_a_folder_is_deleted_its_record_first_and_what_links_point_to_stays(tmp_path: Path, monkeypatch):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    (folder / "a" / "b").mkdir(parents=True)
    elsewhere.mkdir()
    for file in (folder / "Run.json", folder / "a" / "x", folder / "a" / "b" / "y", elsewhere / "mine"):
        file.write_text("1")
    (folder / "link").symlink_to(elsewhere)
    gone: list[str] = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda self, **named: gone.append(self.name) or unlink(self, **named))
    remove_folder(folder, "Run.json")  # by name it would be the last
    assert gone[0] == "Run.json" and set(gone) == {"Run.json", "link", "y", "x"}
    assert not folder.exists() and (elsewhere / "mine").read_text() == "1"
    remove_folder(folder, "Run.json")  # gone already
    assert removal.REDACTED == "a forgotten source"
