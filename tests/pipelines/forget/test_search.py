"""Whom a request means, and what the records of new versions say, on a handful of rows told by hand."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, plan_packets
from steadydancer.datasets.clips import Clips
from steadydancer.datasets.shards import Sample, ShardDataset, null_path, sample_members, write_shard
from steadydancer.datasets.shards.encodings import ENCODINGS
from steadydancer.pipelines.forget.job import Request
from steadydancer.pipelines.forget.removal import Forgotten
from steadydancer.pipelines.forget.search import COLUMNS, Matches, find_source
from steadydancer.pipelines.forget.versions import latents_version

A, B, C, D = "aaaaaa1" + "0" * 57, "aaaaaa2" + "0" * 57, "c" * 64, "d" * 64


def curation(*rows: tuple[str | None, str, str | None, str, str | None, str]) -> Clips:
    """Clips of rows (source_id, source_path, origin, clip_id, duplicate_group, verdict)."""
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    table = pa.Table.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in rows], schema=schema)
    return cast("Clips", SimpleNamespace(read=lambda columns: table.select(columns)))


FIRST = curation(
    (A, "/v/a.mp4", "site", "a1", A, "ok"),
    (A, "/v/a.mp4", "site", "a2", A, "rejected"),
    (A, "/v/a_again.mp4", None, "a1", A, "rejected"),
    (B, "/v/b.mp4", "site", "b1", A, "rejected"),
    (C, "/v/c.mp4", None, "c1", A, "rejected"),
    (D, "/v/d.mp4", None, "d1", D, "ok"),
    (None, "/v/unread.mp4", None, "u1", None, "quarantined"),
)
SECOND = curation((A, "/w/a.mp4", None, "a3", None, "ok"), (D, "/v/d.mp4", None, "d1", D, "ok"))


def test_a_source_is_meant_by_its_id_its_beginning_or_a_file_and_all_of_it_goes() -> None:
    for source in (A, A[:7], "/v/a.mp4", "/v/a_again.mp4"):
        found = find_source(source, [FIRST, SECOND])
        assert found.forgotten == Forgotten(frozenset({A}), frozenset({"/v/a.mp4", "/v/a_again.mp4", "/w/a.mp4"}))
        assert found.ids == [A] and found.copies == [B, C]
        # Rows of the first curation alone are counted; the group has the name of the next one that is in it.
        assert found.counts == {"inputs": 3, "ok": 1, "rejected": 2, "quarantined": 0}
        assert found.groups == {A: B}
    assert find_source("/w/a.mp4", [FIRST, SECOND]).ids == [A]


def test_copies_are_meant_too_where_they_are_asked_for() -> None:
    found = find_source(A, [FIRST], with_copies=True)
    assert found.ids == [A, B, C] and found.copies == [B, C] and found.groups == {}
    assert found.counts == {"inputs": 5, "ok": 1, "rejected": 4, "quarantined": 0}
    assert found.forgotten.paths == {"/v/a.mp4", "/v/a_again.mp4", "/v/b.mp4", "/v/c.mp4"}
    # Who is a copy, but not the one after whom the group is named, leaves the group its name.
    assert find_source(C, [FIRST]) == Matches(
        Forgotten(frozenset({C}), frozenset({"/v/c.mp4"})), [C], [A, B], {},
        {"inputs": 1, "ok": 0, "rejected": 1, "quarantined": 0},
    )  # fmt: skip


def test_a_file_that_was_never_read_is_meant_by_its_path() -> None:
    found = find_source("/v/unread.mp4", [FIRST])
    assert found.forgotten == Forgotten(frozenset(), frozenset({"/v/unread.mp4"}))
    assert found.ids == ["u1"] and found.counts["quarantined"] == found.counts["inputs"] == 1


def test_an_origin_may_mean_many_and_a_beginning_only_one() -> None:
    assert find_source("site", [FIRST]).ids == [A, B]
    with pytest.raises(SteadyDancerError, match="2 source ids start with aaaaaa, aaaaaa10.* use more"):
        find_source("aaaaaa", [FIRST])
    for nobody in ("aaaaa", "e" * 64, "/v/e.mp4", "AAAAAA1", ""):
        with pytest.raises(SteadyDancerError, match="no source matches"):
            find_source(nobody, [FIRST])


def test_the_record_of_a_new_cache_is_that_of_what_is_left(tmp_path: Path) -> None:
    """Three samples of three sizes, one of whom goes; and a quarantined clip."""
    old, new = Artifact(tmp_path / "old" / "latents"), Artifact(tmp_path / "new" / "latents")
    sizes = {"a1": (9, 16, 24), "d1": (9, 24, 16), "d2": (13, 16, 16)}
    for packet in plan_packets([*sizes, "u1"], 2):
        samples = []
        for key in packet.ids:
            row: dict[str, Any] = {"clip_id": key, "source_id": {"a": A, "d": D, "u": C}[key[0]], "fingerprint": "f"}
            if key == "u1":
                samples.append(Sample(row | {"verdict": "quarantined", "reason": "truncated"}))
                continue
            row |= dict(zip(("num_frames", "height", "width"), sizes[key], strict=True))
            row |= {"verdict": "ok", "prompt_from": "captioner" if key == "d2" else "supplied"}
            samples.append(Sample(row, sample_members({"clip_id": key}, key.encode() * 9, b"pose")))
        write_shard(old.path, packet, samples)
    null = {}
    for size in sizes.values():
        place = null_path(old.path, size)
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(repr(size).encode())  # type: ignore[union-attr]
        null[place.name] = hashlib.sha256(repr(size).encode()).hexdigest()
    (old.path / "plan.json").write_text('{"packet_size": 2}')  # type: ignore[union-attr]
    record = {
        "counts": {"inputs": 4, "ok": 3, "rejected": 0, "quarantined": 1}, "encodings": ENCODINGS, "fingerprint": "f",
        "inputs": {"clips": str(tmp_path / "run"), "digest": "x"}, "seconds": {"encode": 5.0, "total": 9.0},
        "null": null, "buckets": sorted(map(list, sizes.values())),
        "prompts": {"supplied": 2, "captioner": 1, "none": 0}, "bytes": 1, "parts": {},
    }  # fmt: skip
    old.commit(record)
    moved = {str(tmp_path / "run" / "clips"): tmp_path / "new" / "clips"}
    latents_version(old, new, Forgotten(frozenset({A}), frozenset()), record | {"forgotten": [A]}, moved)
    reported = new.record()
    left = {"9x24x16.safetensors", "13x16x16.safetensors"}
    assert reported["counts"] == {"inputs": 3, "ok": 2, "rejected": 0, "quarantined": 1} and reported["forgotten"] == [
        A
    ]
    assert reported["buckets"] == [[9, 24, 16], [13, 16, 16]]
    assert reported["null"] == {name: digest for name, digest in null.items() if name in left}
    assert {file.name for file in Path(str(new.path / "null")).iterdir()} == left
    assert reported["prompts"] == {"supplied": 1, "captioner": 1, "none": 0}
    shards = list(Path(str(new.path / "shards")).glob("*.tar"))
    assert reported["bytes"] == sum(file.stat().st_size for file in shards)
    parts = {one: hashlib.sha256(Path(str(new.path / one)).read_bytes()).hexdigest() for one in new.parts()}
    assert reported["parts"] == parts
    assert reported["inputs"] == {"clips": str(tmp_path / "new"), "digest": "x"}
    assert reported["parent"]["path"] == "../old/latents" and reported["seconds"]["encode"] == 5.0
    assert json.loads((new.path / "plan.json").read_text()) == {"packet_size": 2}
    data = ShardDataset(new.path)
    assert data.keys == ["d1", "d2"] and all(data.null(size) for size in data.bucket.values())
    before = {file: file.stat().st_mtime_ns for file in Path(str(new.path)).rglob("*")}
    latents_version(old, new, Forgotten(frozenset({A}), frozenset()), record, moved)  # finished: nothing to do
    assert {file: file.stat().st_mtime_ns for file in Path(str(new.path)).rglob("*")} == before


def test_a_request_is_another_one_where_it_would_make_something_else() -> None:
    places: dict[str, Any] = {"clips": [Path("/c")], "latents": [Path("/l")], "exports": [Path("/e")]}
    request = Request("somebody", out=Path("/o"), **places)
    others = [
        Request("somebody else", out=Path("/o"), **places),
        Request("somebody", out=Path("/o"), with_copies=True, **places),
        *(Request("somebody", out=Path("/o"), **{**places, name: [Path("/x")]}) for name in places),
        Request("somebody", out=Path("/o"), clips=[Path("/c")], latents=[Path("/e")], exports=[Path("/l")]),
    ]
    digests = {one.digest() for one in (request, *others)}
    assert len(digests) == 1 + len(others)
    # What is said of it, and where it is written to, is no other request: the rerun goes on.
    assert Request("somebody", out=Path("/p"), reason="a letter", **places).digest() == request.digest()
