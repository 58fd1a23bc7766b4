"""A source that is forgotten is in nothing that is left, and whenever one is stopped, old or new is whole."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError, count_verdicts, plan_packets
from steadydancer.datasets.clips import Clips
from steadydancer.datasets.schema import Row
from steadydancer.datasets.shards import Sample, ShardDataset, sample_members, write_shard
from steadydancer.datasets.shards.encodings import ENCODINGS
from steadydancer.datasets.storage import total_bytes
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.storage.digests import content_digest, json_digest
from steadydancer.datasets.storage.s3 import ObjectPath, listing, upload_file
from steadydancer.pipelines.curate import job as curate_job
from steadydancer.pipelines.curate import refilter
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.export import job as export_job
from steadydancer.pipelines.export.config import ExportConfig
from steadydancer.pipelines.forget import job as forget
from steadydancer.pipelines.runtime.runner import Engine

NAME = "twin.mp4"  # more bytes than dancer_0, of which it is a copy: the better one, and accepted


@pytest.fixture(scope="module")
def made(dancers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curation, a cache and an export of good sources, one of which lies there a second time (another file that shows
    the same), and of flawed ones."""
    root = tmp_path_factory.mktemp("made")
    (root / "videos").mkdir()
    for file in (dancers / "clips").iterdir():
        if file.name.startswith(("dancer", "cut_long", "truncated", "dark")):
            shutil.copy(file, root / "videos")
    for suffix in (".mp4", ".txt", ".pose.safetensors"):
        shutil.copy(dancers / "clips" / f"dancer_0{suffix}", root / "videos" / f"twin{suffix}")
    with (root / "videos" / "twin.mp4").open("ab") as file:
        file.write(b"\0\0\0\x08free")
    config = CurateConfig(num_frames=13, max_clips_per_source=2, num_score_frames=4, packet_size=2,
                          pose_model="supplied", shot_detector="threshold", text_detector="off")  # fmt: skip
    engine = Engine(root / ".engine", in_process=True)
    curate_job.run(config, clips=str(root / "videos"), out=root / "run", engine=engine)
    export_job.run(ExportConfig(max_area_px=64 * 64), clips=root / "run", out=root / "exported", engine=engine)
    make_cache(Clips(root / "run"), root / "cached" / "latents")
    return root


def make_cache(clips: Clips, latents: Path) -> None:
    """A cache as the job writes it, of numbers that mean nothing: two clips a shard."""
    rows = {row["clip_id"]: row for row in clips.read().to_pylist() if row["verdict"] == "ok"}
    poses = clips.poses(rows.values())
    for packet in plan_packets(rows, 2):
        samples = []
        for clip_id in packet.ids:
            row = rows[clip_id]
            reported = {name: row[name] for name in ("clip_id", "source_id", "verdict", "num_frames")}
            reported |= {"height": 64, "width": 48, "prompt_from": "supplied", "fingerprint": "f"}
            meta = {name: row[name] for name in ("clip_id", "source_path", "prompt")}
            samples.append(Sample(reported, sample_members(meta, clip_id.encode() * 50, poses[clip_id])))
        write_shard(latents, packet, samples)
    write_json(latents / "plan.json", {"clips": "digest"})
    (latents / "null").mkdir()
    (latents / "null" / "13x64x48.safetensors").write_bytes(b"null")
    artifact = Artifact(latents)
    index = artifact.read()
    artifact.commit(
        {
            "kind": "latents", "config": {}, "inputs": {"clips": str(clips.artifact.path.parent), "digest": "digest"},
            "encodings": ENCODINGS, "fingerprint": "f", "buckets": [[13, 64, 48]], "seconds": {"total": 1.0},
            "null": {"13x64x48.safetensors": sha256(b"null").hexdigest()},
            "prompts": {"supplied": len(index), "captioner": 0, "none": 0},
            "counts": count_verdicts(len(index), index["verdict"].to_pylist()),
            "parts": {part: content_digest(latents / part) for part in artifact.parts()},
            "bytes": total_bytes(latents / "shards"),
        }
    )  # fmt: skip


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """The same to be changed; links, as a person's own copy might be."""
    for name in ("run", "cached", "exported"):
        shutil.copytree(made / name, tmp_path / name, copy_function=os.link)
    return tmp_path


def request(root: Path, source: str, **changes: Any) -> forget.Request:
    places = {
        "clips": [root / "run"], "latents": [root / "cached" / "latents"], "exports": [root / "exported" / "export"],
        "out": root / "new",
    }  # fmt: skip
    return forget.Request(source=source, **{**places, **changes})


def rows_of(folder: Path) -> list[Row]:
    return Clips(folder).read().to_pylist()


def source_of(folder: Path, name: str = NAME) -> Row:
    return next(row for row in rows_of(folder) if Path(row["source_path"]).name == name)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }


def traces(folder: Path, words: list[str]) -> list[str]:
    """Files in which one of these words stands; of tables their values are read, shards are not compressed."""
    found = []
    for name, data in contents(folder).items():
        text = data
        if name.endswith(".parquet"):
            text = repr(pq.read_table(folder / name).to_pylist()).encode()
        if any(word.encode() in text for word in words):
            found.append(name)
    return found


def check_new(root: Path, gone: Row) -> None:
    """The new versions are whole, and nothing of the source is in them but its digest on tombstones."""
    new, ids = root / "new", [row["clip_id"] for row in rows_of(root / "new")]
    assert gone["clip_id"] not in ids and len(ids) == len(set(ids))
    poses = Clips(new).poses(row for row in rows_of(new) if row["verdict"] == "ok")
    shards = ShardDataset(new / "latents")
    assert sorted(poses) == shards.keys
    for key in shards.keys:
        assert shards.read(key)["meta"]["clip_id"] == key
    for part in Clips(new).measured.parts():
        assert gone["source_id"] not in Clips(new).measured.read_part(part)["source_id"].to_pylist()
    reported = [json.loads(line) for line in (new / "export" / "clips.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in reported) == shards.keys
    assert {file.name.split(".")[0] for file in (new / "export" / "videos").iterdir()} == set(shards.keys)


def test_nothing_of_the_source_is_left_but_its_tombstone(made: Path, copy: Path) -> None:
    gone = source_of(copy / "run")
    theirs = {row["clip_id"] for row in rows_of(copy / "run") if row["source_id"] == gone["source_id"]}
    before = contents(made / "run") | contents(made / "cached")
    record = forget.run(request(copy, gone["source_id"], reason="the dancer asked"))
    check_new(copy, gone)
    stone = {"source_id": gone["source_id"], "reason": "the dancer asked"}
    for folder, name in (("run", "clips"), ("cached", "latents"), ("exported", "export")):
        reported = Artifact(copy / "new" / name).record()
        assert reported["forgotten"] == [gone["source_id"]]
        assert [{**one, "time": None} for one in reported["tombstones"]] == [{**stone, "time": None}]
        parent = Artifact(copy / "new" / reported["parent"]["path"])
        assert parent.path.resolve() == copy / folder / name
        assert reported["parent"]["digest"] == json_digest(parent.record())
    # Its id stands on tombstones alone, its name, caption's file, keypoints and clips nowhere.
    assert all(name.endswith(("run.json", "plan.json")) for name in traces(copy / "new", [gone["source_id"]]))
    assert traces(copy / "new", [gone["source_path"], *theirs]) == []
    # All other rows are as they were, but for what they said of the file.
    rest = [row for row in rows_of(copy / "run") if row["source_id"] != gone["source_id"]]
    hidden = [
        {**row, "detail": row["detail"] and row["detail"].replace(gone["source_path"], "a forgotten source")}
        for row in rest
    ]
    groups = {row["clip_id"]: row.pop("duplicate_group") for row in hidden}
    new_rows = rows_of(copy / "new")
    new_groups = {row["clip_id"]: row.pop("duplicate_group") for row in new_rows}
    assert new_rows == hidden and gone["source_id"] not in new_groups.values()
    assert {
        key: group for key, group in groups.items() if group != gone["duplicate_group"]
    }.items() <= new_groups.items()
    assert record["counts"]["inputs"] == len(theirs) and record["counts"]["ok"] > 0
    # What was there is as it was.
    assert contents(copy / "run") | contents(copy / "cached") == before


def test_what_was_forgotten_does_not_come_back(copy: Path) -> None:
    gone = source_of(copy / "run")
    forget.run(request(copy, gone["source_id"]))
    config = CurateConfig.model_validate(Clips(copy / "new").record["config"])
    again = refilter.run(config, clips=copy / "new", out=copy / "again")
    assert again["forgotten"] == [gone["source_id"]] and len(again["tombstones"]) == 1
    engine = Engine(copy / "engine", in_process=True)
    folder = str(Path(gone["source_path"]).parent)
    third = curate_job.run(config, clips=folder, out=copy / "third", parent=copy / "again", engine=engine)
    assert third["forgotten"] == [gone["source_id"]]
    refused = [row for row in rows_of(copy / "third") if row["source_id"] == gone["source_id"]]
    assert [(row["verdict"], row["reason"], row["pose_digest"]) for row in refused] == [("rejected", "forgotten", None)]


def test_samples_that_stay_keep_their_bytes_and_shards_without_it_are_the_same_files(made: Path, copy: Path) -> None:
    gone = source_of(copy / "run", "dancer_1.mp4")
    forget.run(request(copy, gone["source_id"]))
    old, new = ShardDataset(made / "cached" / "latents"), ShardDataset(copy / "new" / "latents")
    assert set(old.keys) - set(new.keys) == {
        row["clip_id"]
        for row in rows_of(made / "run")
        if row["source_id"] == gone["source_id"] and row["verdict"] == "ok"
    }
    assert [new.read(key) for key in new.keys] == [old.read(key) for key in new.keys]
    assert all(new.null(new.bucket[key]) == old.null(new.bucket[key]) for key in new.keys)
    index = Artifact(made / "cached" / "latents").read().to_pylist()
    hit = {row["shard"] for row in index if row["source_id"] == gone["source_id"]}
    kept = {row["shard"] for row in index} - hit - {None}
    assert hit and kept
    for shard in kept:
        assert (copy / "new/latents/shards" / shard).samefile(copy / "cached/latents/shards" / shard)
    assert not any((copy / "new/latents/shards" / shard).exists() for shard in hit)
    # The same again, elsewhere: the same bytes.
    forget.run(request(copy, gone["source_id"], out=copy / "again"))
    once, twice = (contents(copy / name / "latents") for name in ("new", "again"))
    assert {name: data for name, data in once.items() if name != "run.json"} == {
        name: data for name, data in twice.items() if name != "run.json"
    }


def test_a_real_cache_passes_its_verification_afterwards(curated: Path, cached: Path, tmp_path: Path) -> None:
    from steadydancer.pipelines.cache.verify import verify

    for name in ("clips", "measured"):  # alone: beside the shared one lie selections of other tests
        shutil.copytree(curated / name, tmp_path / "run" / name)
    gone = source_of(tmp_path / "run", "dancer_0.mp4")
    wanted = forget.Request(gone["source_id"], [tmp_path / "run"], tmp_path / "new", [cached])
    forget.run(wanted)
    assert len(ShardDataset(tmp_path / "new" / "latents")) == len(ShardDataset(cached)) - 1
    assert verify(tmp_path / "new" / "latents").findings == []


def test_a_source_is_meant_by_its_path_a_prefix_or_its_origin(copy: Path) -> None:
    row = source_of(copy / "run")
    curations = [Clips(copy / "run")]
    by_id = forget.find_source(row["source_id"], curations)
    assert by_id.ids == [row["source_id"]] and by_id.forgotten.paths == {row["source_path"]}
    assert forget.find_source(row["source_path"], curations) == by_id
    assert forget.find_source(row["source_id"][:8], curations) == by_id
    (unread,) = (one for one in rows_of(copy / "run") if one["verdict"] == "quarantined")
    found = forget.find_source(unread["source_path"], curations)
    assert found.counts == {"inputs": 1, "ok": 0, "rejected": 0, "quarantined": 1}
    for wrong in ("ffffffff", "nobody.mp4", row["source_id"][:3]):
        with pytest.raises(SteadyDancerError, match="no source matches"):
            forget.find_source(wrong, curations)


def test_an_origin_means_all_that_came_from_there(copy: Path) -> None:
    part = next((copy / "run" / "clips").glob("part-*"))
    rows = pq.read_table(part)
    index = rows.schema.get_field_index("origin")
    names = ["https://a.org/1" if "dancer" in path else None for path in rows["source_path"].to_pylist()]
    part.unlink()
    pq.write_table(rows.set_column(index, rows.schema.field(index), [names]), part)
    found = forget.find_source("https://a.org/1", [Clips(copy / "run")])
    assert {Path(path).name for path in found.forgotten.paths} == {"dancer_0.mp4", "dancer_1.mp4"}


def test_copies_under_other_ids_are_named_and_forgotten_only_if_asked(copy: Path) -> None:
    gone, twin = source_of(copy / "run"), source_of(copy / "run", "dancer_0.mp4")
    record = forget.run(request(copy, gone["source_id"]))
    assert record["copies"] == {"kept": [twin["source_id"]]}
    left = source_of(copy / "new", "dancer_0.mp4")
    assert left["verdict"] == twin["verdict"]  # nobody takes the place of who was forgotten
    record = forget.run(request(copy, gone["source_id"], with_copies=True, out=copy / "both"))
    assert record["copies"] == {"forgotten": [twin["source_id"]]}
    assert record["forgotten"] == sorted([gone["source_id"], twin["source_id"]])
    assert traces(copy / "both", [gone["pose_digest"], gone["source_path"], twin["source_path"]]) == []
    assert {Path(row["source_path"]).stem for row in rows_of(copy / "both")} == {
        "dancer_1",
        "cut_long",
        "dark",
        "truncated",
    }


def test_forgetting_everything_leaves_folders_that_say_so(copy: Path) -> None:
    sources = {row["source_id"] or row["source_path"] for row in rows_of(copy / "run")}
    latents, exports = [copy / "cached" / "latents"], [copy / "exported" / "export"]
    last, tombs = copy / "run", 0
    for number, source in enumerate(sorted(sources)):
        out = copy / f"without_{number}"
        made = forget.run(request(copy, source, clips=[last], latents=latents, exports=exports, out=out))["made"]
        tombs += 1
        last = out
        latents = [out / "latents"] if str(out / "latents") in made else latents
        exports = [out / "export"] if str(out / "export") in made else exports
    assert Clips(last).record["counts"]["inputs"] == 0 and len(Clips(last).record["tombstones"]) == tombs
    with pytest.raises(ArtifactError, match="has no usable sample"):
        ShardDataset(latents[0])
    assert list((exports[0] / "clips.jsonl").read_text()) == []


def test_another_selection_of_the_same_measuring_must_be_given(copy: Path) -> None:
    shutil.copytree(copy / "run" / "clips", copy / "stricter" / "clips")
    record = Clips(copy / "run").record
    write_json(copy / "stricter" / "clips" / "run.json", {**record, "measured": "../run/measured"})
    gone = source_of(copy / "run")
    with pytest.raises(ArtifactError, match=r"stricter/clips: also selected from .*run/measured"):
        forget.run(request(copy, gone["source_id"]))
    assert not (copy / "new").exists()
    forget.run(request(copy, gone["source_id"], clips=[copy / "run", copy / "stricter"]))
    for name in ("run", "stricter"):
        rows = rows_of(copy / "new" / name)
        assert gone["source_id"] not in {row["source_id"] for row in rows}
        assert Clips(copy / "new" / name).poses(row for row in rows if row["verdict"] == "ok")
        assert Clips(copy / "new" / name).measured.path.resolve() == (copy / "new" / "measured").resolve()


def test_deletion_ends_the_old_versions_and_no_others(copy: Path) -> None:
    gone = source_of(copy / "run")
    (copy / "run" / "curation.html").write_text("a page with pictures")
    (copy / "run" / "notes.txt").write_text("mine")
    record = forget.run(request(copy, gone["source_id"]))
    left = forget.delete_superseded(record)
    assert left == [str(copy / "run" / "notes.txt")]
    assert not any(
        (copy / name).exists() for name in ("run/clips", "run/measured", "run/curation.html", "cached/latents")
    )
    check_new(copy, gone)
    # A rerun has nothing to do, and another request is not taken for this one.
    assert forget.run(request(copy, gone["source_id"])) == record
    assert forget.delete_superseded(record) == left
    with pytest.raises(ArtifactError, match="another forget request"):
        forget.run(request(copy, "abcdefgh"))


def test_what_was_made_anew_meanwhile_is_not_deleted(copy: Path) -> None:
    record = forget.run(request(copy, source_of(copy / "run")["source_id"]))
    latents = copy / "cached" / "latents" / "run.json"
    reported = json.loads(latents.read_text())
    write_json(latents, {**reported, "bytes": 0})
    with pytest.raises(ArtifactError, match="was written again after it was replaced, so nothing was deleted"):
        forget.delete_superseded(record)
    write_json(latents, reported)
    shutil.copytree(copy / "run" / "clips", copy / "later" / "clips")
    write_json(copy / "later" / "clips" / "run.json", {**Clips(copy / "run").record, "measured": "../run/measured"})
    with pytest.raises(ArtifactError, match="selected from .* in the meantime"):
        forget.delete_superseded(record)
    assert (copy / "run" / "clips" / "run.json").is_file() and (copy / "run" / "measured").is_dir()


def test_folders_that_are_in_use_are_not_written_into(copy: Path) -> None:
    gone = source_of(copy / "run")["source_id"]
    with pytest.raises(ArtifactError, match="already exists"):
        forget.run(request(copy, gone, out=copy / "run"))
    with pytest.raises(ArtifactError, match="contains latents, not an export: pass the --out of `export`"):
        forget.run(request(copy, gone, exports=[copy / "cached" / "latents"]))


@pytest.mark.acceptance
def test_training_goes_on_with_what_is_left(curated: Path, cached: Path, components: Path, tmp_path: Path) -> None:
    from steadydancer.pipelines.train import job as train_job
    from steadydancer.pipelines.train.config import TrainConfig

    forget.run(forget.Request(source_of(curated, "dancer_0.mp4")["source_id"], [curated], tmp_path / "new", [cached]))
    config = TrainConfig(
        stage=1, num_frames=33, steps=2, global_batch_size=2, num_workers=0, use_gpu=False, dtype="float32",
        lora_rank=2, lora_alpha=2.0, evaluation_samples=0, warmup_steps=0,
    )  # fmt: skip
    latents = tmp_path / "new" / "latents"
    record = train_job.run(config, latents=latents, base=str(components), out=tmp_path / "stage1", from_checkpoint=None)
    metrics = [json.loads(line) for line in (tmp_path / "stage1" / "metrics.jsonl").read_text().splitlines()]
    assert record["steps"] == 2 and [line["step"] for line in metrics] == [0, 1]


class KilledError(BaseException):
    """Ends a run where it stands."""


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """`left`: how many files may still appear or go before the run ends."""
    state = {"left": 10**9, "seen": 0}

    def counted(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def step(self: Path, *arguments: Any, **named: Any) -> Any:
            if name == "replace" or (self.exists() and not self.name.startswith(".")):
                state["seen"] += 1
                if state["left"] == 0:
                    raise KilledError
                state["left"] -= 1
            return original(self, *arguments, **named)

        monkeypatch.setattr(owner, name, step)

    counted(Path, "replace")
    counted(Path, "unlink")
    yield state


def test_stopped_anywhere_old_or_new_is_whole_and_a_rerun_finishes(
    made: Path, copy: Path, killing: dict[str, int]
) -> None:
    gone = source_of(copy / "run")
    wanted = request(copy, gone["source_id"])
    old = {name: contents(made / name) for name in ("run", "cached", "exported")}
    steps = 0
    while True:
        killing["left"] = 4  # each rerun comes some files further
        try:
            record = forget.run(wanted)
            killing["left"] = 10**9
            break
        except KilledError:
            steps += 1
            killing["left"] = 10**9
            if steps % 3 == 0:
                assert {name: contents(copy / name) for name in old} == old
    assert steps > 5
    assert {name: contents(copy / name) for name in old} == old
    check_new(copy, gone)
    new = contents(copy / "new")
    undisturbed = forget.run(request(copy, gone["source_id"], out=copy / "undisturbed"))
    assert undisturbed["forgotten"] == record["forgotten"]
    twin = contents(copy / "undisturbed")
    assert {name for name in new if not name.endswith(".json")} == {name for name in twin if not name.endswith(".json")}
    assert all(new[name] == twin[name] for name in new if not name.endswith(".json"))
    while True:
        killing["left"] = 5
        try:
            forget.delete_superseded(record)
            break
        except KilledError:
            killing["left"] = 10**9
            check_new(copy, gone)
            record = forget.run(wanted)  # the old ones may be half gone
            for name in ("run/clips", "cached/latents", "exported/export"):
                whole = {f"{name}/{file}" for file in contents(made / name)} <= {
                    f"{name}/{file}" for file in contents(copy / name)
                }
                assert whole or not Artifact(copy / name).committed
    killing["left"] = 10**9
    assert not any((copy / name).exists() for name in ("run/clips", "run/measured", "cached/latents"))
    check_new(copy, gone)


def test_a_killed_process_loses_nothing(made: Path, copy: Path) -> None:
    gone = source_of(copy / "run")
    code = f"""
        import os
        from pathlib import Path
        from steadydancer.pipelines.forget import job as forget
        from steadydancer.pipelines.forget import versions as forget_versions
        def kill(*arguments, **named):
            os.kill(os.getpid(), 9)
        forget_versions.copy_null_conditions = kill
        root = Path({str(copy)!r})
        forget.run(forget.Request({gone["source_id"]!r}, [root / "run"], root / "new", [root / "cached" / "latents"],
                                  [root / "exported" / "export"]))
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert Artifact(copy / "new" / "clips").committed and not Artifact(copy / "new" / "latents").committed
    assert contents(copy / "run") == contents(made / "run") and contents(copy / "cached") == contents(made / "cached")
    forget.run(request(copy, gone["source_id"]))
    check_new(copy, gone)


def test_forgetting_on_a_store(made: Path, bucket: str, tmp_path: Path) -> None:
    root = ObjectPath.parse(bucket)
    for name in ("run", "cached", "exported"):
        for file, data in contents(made / name).items():
            (tmp_path / "file").write_bytes(data)
            upload_file(tmp_path / "file", root / name / file)
    gone = source_of(made / "run")
    record, local = (
        forget.run(
            forget.Request(
                gone["source_id"],
                [place / "run"],
                out / "new",
                [place / "cached" / "latents"],
                [place / "exported" / "export"],
            )
        )
        for place, out in ((root, root), (made, tmp_path))
    )
    assert (record["forgotten"], record["counts"]) == (local["forgotten"], local["counts"])
    here = {name: data for name, data in contents(tmp_path / "new").items() if not name.endswith(".json")}
    there = {one.path.key.removeprefix("new/"): one.path for one in listing(root / "new")}
    assert {name for name in there if not name.endswith(".json")} == set(here)
    assert all(there[name].read_bytes() == data for name, data in here.items())
    shards = ShardDataset(root / "new" / "latents")
    assert [shards.read(key)["meta"]["clip_id"] for key in shards.keys] == shards.keys
    forget.delete_superseded(record)
    assert {one.path.key.split("/")[0] for one in listing(root)} == {"new"}
