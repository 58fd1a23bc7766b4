"""A cache is read back, and what is damaged in it is made anew, to the byte, in a new version."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError
from steadydancer.datasets.shards import ShardDataset, write_energon_index
from steadydancer.datasets.storage import copies as file_copies
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
from steadydancer.flows.commands.latents import repair, verify
from steadydancer.pipelines.cache import reused_shards
from steadydancer.pipelines.cache.repair import repair as repair_now
from steadydancer.pipelines.cache.verify import verify as verify_now
from steadydancer.pipelines.runtime.runner import Engine


def call(command: Any, *words: Any) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


@pytest.fixture
def copy(cached: Path, tmp_path: Path) -> Path:
    """A cache that may be damaged."""
    return Path(shutil.copytree(cached, tmp_path / "old" / "latents"))


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "shards").glob("*.tar"))


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def bytes_of(latents: Path, shard: Path) -> int:
    """What the index says that a shard weighs."""
    return int(next(row["shard_bytes"] for row in Artifact(latents).read().to_pylist() if row["shard"] == shard.name))


def test_a_sound_cache_is_said_to_be_sound_and_is_not_repaired(cached: Path, tmp_path: Path) -> None:
    before = files(cached)
    answer = call(verify, "--latents", cached)
    assert answer.exit_code == 0 and "3 samples in 3 shards" in answer.output
    assert "all intact" in answer.output
    answer = call(repair, "--latents", cached, "--out", tmp_path / "new", "--in-process")
    assert answer.exit_code == 0 and "nothing to repair" in answer.output
    assert not (tmp_path / "new").exists() and files(cached) == before


def test_everything_that_is_wrong_is_in_the_table(copy: Path) -> None:
    gone, flipped, short = shards(copy)
    member = next(row for row in Artifact(copy).read().to_pylist() if row["shard"] == flipped.name)
    flip(flipped, member["members"][0]["offset"] + 5000)
    gone.unlink()
    short.write_bytes(short.read_bytes()[:-512])
    (null,) = (copy / "null").iterdir()
    flip(null, 100)
    (copy / "shards" / "0000000000000000.tar").write_bytes(b"nobody knows")
    (copy / "shards" / ".left.tmp.tar").write_bytes(b"what a killed run leaves is not looked at")
    answer = call(verify, "--latents", copy)
    assert answer.exit_code == 1 and isinstance(answer.exception, SteadyDancerError)
    assert "5 errors in 3 of 3 packets; run `steadydancer repair" in str(answer.exception)
    size = short.stat().st_size
    lines = [" ".join(line.split()) for line in answer.stdout.splitlines()]
    assert lines[0] == "fault file detail" and sorted(lines[1:-1]) == sorted([
        f"missing shards/{gone.name} {bytes_of(copy, gone)} bytes",
        f"damaged shards/{flipped.name} {member['clip_id']}.conditions.safetensors",
        f"cut short shards/{short.name} {size} bytes of {size + 512}",
        f"damaged null/{null.name} null conditions of a bucket",
        "orphan shards/0000000000000000.tar not in the record",
    ])  # fmt: skip


def test_offsets_for_energon_are_compared_with_the_index(copy: Path) -> None:
    first, second, _ = (file.with_suffix(".tar.idx") for file in shards(copy))
    first.unlink()
    flip(second, 3)
    (copy / "shards" / "0000000000000000.tar.idx").write_bytes(b"of no shard")
    reported = {finding.place: (finding.kind, finding.detail) for finding in verify_now(copy).findings}
    assert reported == {
        f"shards/{first.name}": ("missing", "offsets for Energon"),
        f"shards/{second.name}": ("damaged", "offsets for Energon"),
        "shards/0000000000000000.tar.idx": ("orphan", "not in the record"),
    }


def test_a_cache_without_an_index_for_energon_is_intact_and_can_get_one(copy: Path) -> None:
    before = files(copy)
    shutil.rmtree(copy / ".nv-meta")
    for file in (copy / "shards").glob("*.idx"):
        file.unlink()
    assert not verify_now(copy).findings
    write_energon_index(copy)
    assert files(copy) == before


def test_the_index_and_the_record_are_looked_at_too(copy: Path) -> None:
    first, second, third = sorted(copy.glob("part-*"))
    content = second.read_bytes()
    first.unlink()
    flip(second, len(content) // 2)
    shutil.copy(third, copy / "part-00000000000000aa.parquet")
    plan = json.loads((copy / "plan.json").read_text())
    write_json(copy / "plan.json", plan | {"packet_size": 7})
    reported = {finding.place: (finding.kind, finding.detail) for finding in verify_now(copy).findings}
    assert reported == {
        "plan.json": ("contradicts the record", "packet_size: 2 → 7"),
        first.name: ("missing", "a part of the index"),
        second.name: ("damaged", "a part of the index differs from its recorded digest"),
        "part-00000000000000aa.parquet": ("orphan", "not in the record"),
    }
    second.write_bytes(content)
    first.write_bytes(content)
    record = Artifact(copy).record()
    record["parts"][first.name] = record["parts"][second.name]
    record["counts"]["ok"] = 9
    write_json(copy / "run.json", record)
    kinds = {finding.place: finding.detail for finding in verify_now(copy).findings}
    assert kinds[first.name] == "its clips do not match its file name"


def test_a_repaired_cache_has_the_bytes_that_were_lost(copy: Path, cached: Path, tmp_path: Path) -> None:
    gone, flipped, sound = shards(copy)
    part = copy / f"part-{gone.stem}.parquet"
    part.unlink()
    gone.unlink()
    flip(flipped, -700)
    (null,) = (copy / "null").iterdir()
    null.unlink()
    (copy / "shards" / "0000000000000000.tar").write_bytes(b"nobody knows")
    before = files(copy)
    new = tmp_path / "new"
    answer = call(repair, "--latents", copy, "--out", new, "--dry-run")
    plan = json.loads(answer.stdout[answer.stdout.index("{") :])
    assert (plan["packets"], plan["packets_to_encode"], plan["null_to_encode"]) == (3, 2, 1) and not new.exists()

    answer = call(repair, "--latents", copy, "--out", new, "--in-process")
    assert answer.exit_code == 0, answer.exception
    assert "3 samples, 2 of 3 shards rebuilt" in answer.output
    assert files(new / "latents") == files(cached) and files(copy) == before
    assert (new / "latents" / "shards" / sound.name).stat().st_ino == sound.stat().st_ino  # taken over, not made
    record, twin = Artifact(new / "latents").record(), Artifact(cached).record()
    assert (new / record["parent"]["path"]).resolve() == copy.resolve() and record["parent"]["packets_made_anew"] == 2
    changing = {"parent", "seconds"}
    assert {k: v for k, v in record.items() if k not in changing} == {
        k: v for k, v in twin.items() if k not in changing
    }
    assert not verify_now(new / "latents").findings
    again = call(repair, "--latents", copy, "--out", new, "--in-process")
    assert again.exit_code == 0 and "already finished" in again.output


def test_a_stopped_repair_goes_on(copy: Path, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(copy)[2].unlink()
    copied: list[Any] = []
    copy_atomically = reused_shards.copy_atomically

    def stop_at_the_third(source: Path, target: Path) -> None:
        if len(copied) == 2:
            raise KeyboardInterrupt
        copied.append(copy_atomically(source, target))

    engine = Engine(tmp_path / ".engine", in_process=True)
    with monkeypatch.context() as patched:
        patched.setattr(reused_shards, "copy_atomically", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            repair_now(copy, tmp_path / "new", engine)
    assert not (tmp_path / "new" / "latents" / "run.json").exists()
    repair_now(copy, tmp_path / "new", engine)
    assert files(tmp_path / "new" / "latents") == files(cached)


def refused(copy: Path, out: Path, words: str, *options: Any) -> None:
    answer = call(repair, "--latents", copy, "--out", out, "--in-process", *options)
    assert answer.exit_code == 1 and words in str(answer.exception), answer.exception
    assert not (out / "latents" / "shards").exists()


def test_other_networks_sources_or_clips_are_refused_by_name(
    copy: Path, components: Path, curated: Path, tmp_path: Path
) -> None:
    lost = shards(copy)[0]
    lost.unlink()
    other = Path(shutil.copytree(components, tmp_path / "other"))
    (other / "vae" / "config.json").write_text((other / "vae" / "config.json").read_text() + " ")
    refused(copy, tmp_path / "a", "components.vae: ", "--components", other)
    refused(copy, tmp_path / "b", "The folder /nowhere does not exist", "--components", "/nowhere")
    refused(copy, tmp_path / "c", "/nowhere", "--clips", "/nowhere")
    answer = call(repair, "--latents", copy, "--out", copy.parent, "--in-process")
    assert "contains a finished cache, which repair never changes" in str(answer.exception)
    # The same curation, but its videos have gone.
    clips = Path(shutil.copytree(curated, tmp_path / "moved"))
    (table,) = (clips / "clips").glob("part-*")
    import pyarrow.parquet as pq

    rows = pq.read_table(table)
    paths = [path.replace("/clips/", "/elsewhere/") for path in rows["source_path"].to_pylist()]
    place = rows.schema.get_field_index("source_path")
    pq.write_table(rows.set_column(place, rows.schema.field(place), [paths]), table)
    refused(copy, tmp_path / "d", "(missing). Restore them", "--clips", clips)
    with pytest.raises(ArtifactError, match="not finished"):
        (copy / "run.json").unlink()
        verify_now(copy)


def test_a_source_that_was_replaced_is_not_encoded_in_the_place_of_the_old_one(
    copy: Path, cached: Path, curated: Path, tmp_path: Path
) -> None:
    """The shard that is lost comes back with its bytes, or the repair is refused by the name of the file."""
    import pyarrow.parquet as pq

    lost = shards(copy)[0]
    lost.unlink()
    clips = Path(shutil.copytree(curated, tmp_path / "moved"))
    (tmp_path / "videos").mkdir()
    for table in clips.glob("*/part-*"):
        rows = pq.read_table(table)
        for path in set(rows["source_path"].to_pylist()):
            shutil.copyfile(path, tmp_path / "videos" / Path(path).name)
        moved = [str(tmp_path / "videos" / Path(path).name) for path in rows["source_path"].to_pylist()]
        index = rows.schema.get_field_index("source_path")
        pq.write_table(rows.set_column(index, rows.schema.field(index), [moved]), table)
    rows = Artifact(clips / "clips").read()
    (of_lost,) = Artifact(copy).read_part(f"part-{lost.stem}.parquet", ["clip_id"])["clip_id"].to_pylist()
    (name,) = {Path(r["source_path"]).name for r in rows.to_pylist() if r["clip_id"] == of_lost}
    source = tmp_path / "videos" / name
    old = source.read_bytes()
    other = "dancer_1.mp4" if name == "dancer_0.mp4" else "dancer_0.mp4"
    source.write_bytes((tmp_path / "videos" / other).read_bytes())
    refused(copy, tmp_path / "a", f"{source} (changed). Restore them", "--clips", clips)
    source.write_bytes(old)
    answer = call(repair, "--latents", copy, "--out", tmp_path / "b", "--in-process", "--clips", clips)
    assert answer.exit_code == 0, answer.exception
    made, was = (ShardDataset(folder).read(of_lost) for folder in (tmp_path / "b/latents", cached))
    assert bytes(made["conditions"]) == bytes(was["conditions"]) and bytes(made["pose"]) == bytes(was["pose"])


def test_what_is_no_cache_is_said(curated: Path) -> None:
    answer = call(verify, "--latents", curated / "clips")
    assert answer.exit_code == 1 and "contains clips, not latents" in str(answer.exception)


def test_a_cache_on_a_store_is_read_back_and_repaired_there(
    bucket: str, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sound shards are copied by the store itself."""
    root = ObjectPath.parse(bucket)
    for file in cached.rglob("*"):
        if file.is_file():
            upload_file(file, root / "old" / file.relative_to(cached).as_posix())
    assert not verify_now(root / "old").findings
    gone, flipped, sound = (root / "old" / "shards" / file.name for file in shards(cached))
    gone.unlink()
    content = bytearray(flipped.read_bytes())
    content[6000] ^= 1
    (tmp_path / "flipped").write_bytes(content)
    upload_file(tmp_path / "flipped", flipped)
    found = {finding.place: finding.kind for finding in verify_now(root / "old").findings}
    assert found == {f"shards/{gone.name}": "missing", f"shards/{flipped.name}": "damaged"}
    uploaded: list[str] = []
    monkeypatch.setattr(file_copies, "upload_file", lambda source, target: uploaded.append(str(target)))
    repair_now(root / "old", root / "new", Engine(tmp_path / ".engine", in_process=True))
    new = root / "new" / "latents"
    assert not uploaded and not verify_now(new).findings
    for file in cached.rglob("*"):
        if file.is_file() and file.name != "run.json":
            assert (new / file.relative_to(cached).as_posix()).read_bytes() == file.read_bytes()
    assert sound.is_file() and len(ShardDataset(new)) == 3


def test_training_refuses_a_cache_of_other_settings_or_encoders_by_name(
    cached: Path, components: Path, tmp_path: Path
) -> None:
    from steadydancer.flows import presets
    from steadydancer.flows.commands.options import require_cache
    from steadydancer.pipelines.train.preflight.inputs import check_inputs
    from steadydancer.pipelines.train.run_folder import TrainingRefused

    run = presets.load("tiny")
    require_cache(run, cached)
    for field, value in (("dtype", "bfloat16"), ("max_area_px", 9216), ("drawing_area_px", 9216)):
        with pytest.raises(ArtifactError, match=rf"with settings that differ from this run's `cache` .*\n  {field}: "):
            require_cache(presets.change(run, "cache", **{field: value}), cached)
    assert run.samples_drawn == (40 + 20 + 20) * 4

    check_inputs(run.stage1, cached, str(components), None)
    for part in ("text_encoder", "image_encoder", "tokenizer"):
        other = Path(shutil.copytree(components, tmp_path / part))
        file = next((other / part).glob("*.json"))
        file.write_text(file.read_text() + " ")
        with pytest.raises(TrainingRefused, match=f"^{part}: .* was cached with a different {part} "):
            check_inputs(run.stage1, cached, str(other), None)
