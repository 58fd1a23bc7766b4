"""Every flaw gets its verdict, every source its row, and a run that is killed ends in the same rows."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, ArtifactError, Packet
from steadydancer.datasets.clips import COLUMNS, Clips
from steadydancer.datasets.schema import CLIP_SCHEMA, Row, columns_of, to_table
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.toydance import load_supplied_pose, save_supplied_pose
from steadydancer.datasets.video import probe
from steadydancer.flows.presets import tiny
from steadydancer.pipelines.curate import ingest, job, networks, steps
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.gates import CHEAP_GATES, Gates
from steadydancer.pipelines.curate.parent import reuse_measurements
from steadydancer.pipelines.curate.scores.frame_scores import find_cuts
from steadydancer.pipelines.curate.selection.select import select_table
from steadydancer.pipelines.curate.stages import stages
from steadydancer.pipelines.curate.steps import open_source
from steadydancer.pipelines.runtime.runner import Engine
from steadydancer.pipelines.runtime.stage import BadClip

BAD = Path(__file__).resolve().parents[4] / "shared" / "bad"
CONFIG = tiny().curate.model_copy(update={"pose_model": "supplied", "packet_size": 3})

# Each flaw was drawn on purpose: name, window → verdict, reason.
EXPECTED = {
    ("cut_long.mp4", 0): ("rejected", "too_short"),
    ("cut_long.mp4", 1): ("ok", None),
    ("cut_short.mp4", 0): ("rejected", "too_short"),
    ("cut_short.mp4", 1): ("rejected", "too_short"),
    ("dancer_0.mp4", 0): ("ok", None),
    ("dancer_1.mp4", 0): ("ok", None),
    ("dark.mp4", 0): ("rejected", "min_brightness"),
    ("static.mp4", 0): ("rejected", "min_motion_magnitude"),
    ("truncated.mp4", None): ("quarantined", "truncated"),
    ("two_people.mp4", 0): ("rejected", "max_persons"),
}


def curate(clips: Path | str, out: Path, config: CurateConfig = CONFIG) -> dict[str, Any]:
    return job.run(config, clips=str(clips), out=out, engine=Engine(out / ".engine", in_process=True))


def rows_of(out: Path) -> list[Row]:
    return Artifact(out / "clips").read().to_pylist()


def some(dancers: Path, folder: Path, *names: str) -> Path:
    """A folder with these clips and what lies beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for file in (dancers / "clips").glob(f"{name}.*"):
            shutil.copy(file, folder)
    return folder


def test_every_flaw_gets_its_verdict_and_every_source_a_row(dancers: Path, curated: Path) -> None:
    rows = rows_of(curated)
    seen = {(Path(row["source_path"]).name, row["shot_index"]): (row["verdict"], row["reason"]) for row in rows}
    assert seen == EXPECTED and len(rows) == len(EXPECTED)
    assert {row["source_path"] for row in rows} == {str(path) for path in (dancers / "clips").glob("*.mp4")}
    record = Artifact(curated / "clips").record()
    assert record["counts"] == {"inputs": 10, **Counter(row["verdict"] for row in rows)}
    assert record["inputs"]["sources"] == 8 and record["pose_models"] == ["supplied"]
    assert Artifact(curated / "clips").read().schema.names == COLUMNS


def test_an_accepted_clip_is_measured_in_full_and_a_refused_one_says_by_how_much(curated: Path) -> None:
    rows = {(Path(row["source_path"]).stem, row["shot_index"]): row for row in rows_of(curated)}
    good = rows["dancer_0", 0]
    empty = {name for name in COLUMNS if good[name] is None}
    without_networks = {"transition_score", "text_ratio", "text_length", "any_text_ratio", "aesthetic_score",
                        "action_type", "extreme_action", "num_detected_persons", "detected_person_ratio"}  # fmt: skip
    not_asked_for = {
        "origin",
        "licence",
        "motion_smoothness",
        "leak_score",
        "leak_of",
        "appearance_change",
        "subject_clipped_ratio",
        "pose_confidence",
    }  # no set to exclude; supplied keypoints
    no_borders = {"crop_left_px", "crop_top_px", "crop_width_px", "crop_height_px"}
    assert empty - without_networks - not_asked_for - no_borders <= {
        "reason", "detail", "sidecar_note", "static_edge_ratio"  # which needs a camera that moves
    } | {"camera_motion", "camera_shake", "flow_residual"}  # fmt: skip
    unmeasured = set(good["unmeasured"].split(","))
    assert {"max_transition_score", "max_text_ratio", "min_aesthetic_score"} <= unmeasured
    assert {gate for gate, column, *_ in Gates().bounds() if good.get(column) is None} - {"min_side_px"} == unmeasured
    assert (good["end_s"] - good["start_s"], good["num_frames"]) == (2.0, 33)
    pose = Clips(curated).poses([good])[good["clip_id"]]
    assert len(PoseSequence.from_bytes(pose)) == 33 and good["pose_digest"] == sha256(pose).hexdigest()[:16]
    dark = rows["dark", 0]
    assert "brightness is 0.0" in dark["detail"] and "at least 0.12" in dark["detail"]
    # A cheap gate had refused it: the pose was not worth its decoding, and is not measured rather than zero.
    assert dark["pose_motion"] is None and "min_pose_motion" in dark["unmeasured"]
    with pytest.raises(ArtifactError, match=f"no keypoints for {dark['clip_id']}"):
        Clips(curated).poses([good, dark])
    second = rows["cut_long", 1]
    assert second["start_s"] == pytest.approx(1.25, abs=1 / 24)  # where the second scene was drawn to begin


def test_the_supplied_pose_is_taken_at_the_clips_own_times(dancers: Path, curated: Path) -> None:
    row = next(
        row for row in rows_of(curated) if row["source_path"].endswith("cut_long.mp4") and row["verdict"] == "ok"
    )
    supplied = load_supplied_pose(Path(row["source_path"]))
    assert supplied is not None
    (person,), fps = supplied
    index = np.floor((row["start_s"] + np.arange(33) / 16) * fps + 1e-6).astype(int)
    np.testing.assert_array_equal(
        PoseSequence.from_bytes(Clips(curated).poses([row])[row["clip_id"]]).body, person[index].body
    )


def test_stages_write_exactly_the_columns_they_declare(dancers: Path) -> None:
    row = open_source(str(dancers / "clips" / "dancer_0.mp4"))
    walked = set(row)
    for stage in stages(CurateConfig()):
        assert set(stage.reads) <= walked
        tools = stage.load(CONFIG) if stage.load else None
        (after,) = stage.apply(row, CONFIG, tools)
        changed = {name for name in after if name not in row or row[name] != after[name]}
        assert changed == set(stage.adds) == set(columns_of(stage.name))
        walked |= changed
        row = after
    written = walked | {*columns_of("ingest"), *columns_of("select")}
    assert written == set(CLIP_SCHEMA.names)


def test_a_second_run_has_nothing_to_do_and_another_setting_is_refused(dancers: Path, tmp_path: Path) -> None:
    clips = some(dancers, tmp_path / "clips", "truncated")
    record = curate(clips, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert curate(clips, tmp_path / "out") == record
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")} == before
    with pytest.raises(ArtifactError, match="config.cut_threshold: 0.3 → 0.5"):
        curate(clips, tmp_path / "out", CONFIG.model_copy(update={"cut_threshold": 0.5}))
    some(dancers, clips, "dark")
    with pytest.raises(ArtifactError, match="num_sources: 1 → 2"):
        curate(clips, tmp_path / "out")


def test_duplicates_keep_the_first_that_passes(dancers: Path, tmp_path: Path) -> None:
    clips = some(dancers, tmp_path / "clips", "dancer_0")
    for name in ("a_without_keypoints", "z_copy"):
        shutil.copy(clips / "dancer_0.mp4", clips / f"{name}.mp4")
    shutil.copy(clips / "dancer_0.pose.safetensors", clips / "z_copy.pose.safetensors")
    record = curate(clips, tmp_path / "out")
    verdicts = {Path(row["source_path"]).stem: (row["verdict"], row["reason"]) for row in rows_of(tmp_path / "out")}
    assert verdicts == {
        "a_without_keypoints": ("rejected", "no_pose"),
        "dancer_0": ("ok", None),
        "z_copy": ("rejected", "duplicate"),
    }
    assert record["counts"] == {"inputs": 3, "ok": 1, "rejected": 2, "quarantined": 0}


def test_bad_sidecars_are_the_clips_fault(dancers: Path, tmp_path: Path) -> None:
    clips = some(dancers, tmp_path / "clips", "dancer_0", "dancer_1", "cut_long")
    (clips / "dancer_0.pose.safetensors").write_bytes(b"no keypoints")
    supplied = load_supplied_pose(clips / "dancer_1.mp4")
    assert supplied is not None
    save_supplied_pose(clips / "dancer_1.mp4", [supplied[0][0][:20]], supplied[1])
    supplied = load_supplied_pose(clips / "cut_long.mp4")
    assert supplied is not None
    unknown = replace(supplied[0][0], body=np.full_like(supplied[0][0].body, np.nan))
    save_supplied_pose(clips / "cut_long.mp4", [unknown], supplied[1])
    curate(clips, tmp_path / "out")
    reasons = {(Path(row["source_path"]).stem, row["shot_index"]): row["reason"] for row in rows_of(tmp_path / "out")}
    assert reasons == {
        ("dancer_0", 0): "unreadable_pose",
        ("dancer_1", 0): "pose_too_short",
        ("cut_long", 0): "too_short",
        ("cut_long", 1): "unreadable_pose",
    }


def test_clips_over_the_limit_of_a_source_stay_in_the_table(dancers: Path, tmp_path: Path) -> None:
    clips = some(dancers, tmp_path / "clips", "dancer_0")
    config = CONFIG.model_copy(update={"num_frames": 13, "max_clips_per_source": 2})
    curate(clips, tmp_path / "out", config)
    rows = rows_of(tmp_path / "out")
    assert [row["reason"] for row in rows] == [None, None, "max_clips_per_source"]
    assert [round(row["start_s"] * 16) for row in rows] == [0, 13, 26]


def test_select_applies_gates_in_their_order_and_names_what_was_not_measured() -> None:
    row: Row = dict.fromkeys(CLIP_SCHEMA.names) | {
        "source_path": "a", "clip_id": "1", "width": 320, "height": 240, "brightness": 0.05, "contrast": 0.01,
        "pose_digest": "x",
    }  # fmt: skip

    def select_row(gates: Gates) -> Row:
        (out,) = select_table(to_table([row]), CurateConfig(gates=gates)).to_pylist()
        return dict(out)

    out = select_row(Gates())
    assert (out["verdict"], out["reason"]) == ("rejected", "min_brightness")
    assert out["detail"] == "brightness is 0.05, expected at least 0.12"
    out = select_row(Gates(min_brightness=None, min_contrast=0.01))
    assert (out["verdict"], out["reason"]) == ("ok", None)
    measured = {"min_side_px", "min_contrast"}
    gates = Gates(min_brightness=None)
    assert set(out["unmeasured"].split(",")) == {gate for gate, *_ in gates.bounds()} - measured
    assert set(Gates.model_fields) >= CHEAP_GATES


def test_flashing_light_is_no_cut() -> None:
    still = np.full(40, 0.02)
    cut = still.copy()
    cut[19] = 0.8
    assert find_cuts(cut, 0.3) == [20]
    assert find_cuts(np.full(40, 0.6), 0.3) == []


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_manifest_names_sources(dancers: Path, tmp_path: Path, kind: str) -> None:
    clips = some(dancers, tmp_path / "clips", "dark", "truncated")
    rows = {
        "csv": "\ufeffpath,note\nclips/dark.mp4,spreadsheets begin with a mark\nclips/gone.mp4,\n",
        "jsonl": '{"path": "clips/dark.mp4"}\n\n{"path": "clips/gone.mp4", "note": 1}\n',
    }
    manifest = tmp_path / f"some.{kind}"
    manifest.write_text(rows[kind])
    assert ingest.list_sources(str(manifest)) == [str(clips / "dark.mp4"), str(clips / "gone.mp4")]
    curate(manifest, tmp_path / "out")
    verdicts = [(row["verdict"], row["reason"]) for row in rows_of(tmp_path / "out")]
    assert verdicts == [("rejected", "min_brightness"), ("quarantined", "unreadable")]


def test_sources_are_found_by_folder_glob_and_name(dancers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = dancers / "clips"
    assert len(ingest.list_sources(str(dancers))) == 8 + 2  # two more below driving/ and truth/
    assert ingest.list_sources(str(clips / "dancer_*.mp4")) == [str(clips / f"dancer_{i}.mp4") for i in (0, 1)]
    monkeypatch.chdir(dancers)
    assert ingest.list_sources("clips/dark.mp4") == [str(clips / "dark.mp4")]  # whoever reads it may stand elsewhere
    with pytest.raises(SteadyDancerError, match="not a folder, a manifest .* or a video"):
        ingest.list_sources("clips/dark.txt")


def test_a_killed_run_goes_on_to_the_same_rows(dancers: Path, curated: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    slowly = [sys.executable, "-c", SLOWLY, *command(dancers, out, "--in-process")[3:]]
    for least_parts in (1, 3):
        kill_once(slowly, out, least_parts)
        assert not (out / "clips" / "run.json").exists()
        for part in (out / "measured").glob("part-*.parquet"):
            assert pa.parquet.read_table(part).num_rows  # what has its name is whole
    curate(dancers / "clips", out, CONFIG.model_copy(update={"packet_size": 1}))
    # Packets of another size have other names.
    after, undisturbed = (Artifact(folder / "clips").read().drop(["measured_part"]) for folder in (out, curated))
    assert after.equals(undisturbed)
    assert not list(out.rglob(".*.tmp*"))


def test_a_source_that_was_replaced_between_two_attempts_is_measured_again(dancers: Path, tmp_path: Path) -> None:
    """Also where all was measured and verdicts were being written; what was only touched is left as it is."""
    clips = some(dancers, tmp_path / "clips", "dancer_0", "dancer_1")
    config = CONFIG.model_copy(update={"packet_size": 1})
    curate(clips, tmp_path / "out", config)
    before = {Path(row["source_path"]).name: row["source_id"] for row in rows_of(tmp_path / "out")}
    (tmp_path / "out" / "clips" / "run.json").unlink()  # as it was before its end
    parts = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "measured").glob("part-*")}
    time.sleep(0.02)
    shutil.copyfile(clips / "dancer_0.mp4", clips / "dancer_1.mp4")
    shutil.copyfile(dancers / "clips" / "dancer_0.pose.safetensors", clips / "dancer_1.pose.safetensors")
    (clips / "dancer_0.mp4").touch()
    curate(clips, tmp_path / "out", config)
    rows = {Path(row["source_path"]).name: row for row in rows_of(tmp_path / "out")}
    assert rows["dancer_0.mp4"]["source_id"] == rows["dancer_1.mp4"]["source_id"] == before["dancer_0.mp4"]
    assert (rows["dancer_0.mp4"]["verdict"], rows["dancer_1.mp4"]["reason"]) == ("ok", "duplicate")
    assert sum(file.stat().st_mtime_ns == written for file, written in parts.items()) == 1


def test_an_excluded_set_without_a_file_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "a.mp4").write_bytes(b"x")
    config = CONFIG.model_copy(update={"exclude": str(tmp_path / "none")})
    with pytest.raises(
        ArtifactError, match="none contains no files: pass a folder of videos, or an .npz of fingerprints"
    ):
        job.plan(config, str(tmp_path / "*.mp4"), tmp_path / "out")


def test_an_excluded_set_is_read_once_and_what_of_it_cannot_be_read_is_told_and_recorded(
    dancers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = some(dancers, tmp_path / "clips", "dancer_0", "dancer_1")
    evaluation = some(dancers, tmp_path / "set", "dancer_1")
    (evaluation / "broken.mp4").write_bytes(b"once a video")
    config = CONFIG.model_copy(update={"exclude": str(evaluation), "packet_size": 1})
    record = curate(clips, tmp_path / "out", config)
    rows = {Path(row["source_path"]).name: row for row in rows_of(tmp_path / "out")}
    assert rows["dancer_1.mp4"]["reason"] == "max_leak_score"
    assert rows["dancer_1.mp4"]["leak_of"] == str(evaluation / "dancer_1.mp4")
    assert rows["dancer_0.mp4"]["verdict"] == "ok"
    assert record["inputs"]["excluded_videos"] == 1
    assert list(record["inputs"]["excluded_unreadable"]) == [str(evaluation / "broken.mp4")]
    said = capsys.readouterr().err
    assert "1 videos of" in said and f"{evaluation / 'broken.mp4'}: unreadable" in said
    # Workers, and an attempt that goes on, find it read.
    (tmp_path / "out" / "clips" / "run.json").unlink()
    monkeypatch.setattr(networks, "decode_low_resolution", None)
    assert curate(clips, tmp_path / "out", config)["inputs"] == record["inputs"]


def test_a_source_that_is_replaced_on_its_walk_is_quarantined(dancers: Path, tmp_path: Path) -> None:
    clips = some(dancers, tmp_path, "dancer_0")
    row = steps.probe_source(steps.open_source(str(clips / "dancer_0.mp4")), CONFIG)
    (first, *_) = steps.find_shots(row, CONFIG)
    shutil.copyfile(dancers / "clips" / "dancer_1.mp4", clips / "dancer_0.mp4")
    for stage in (lambda: steps.find_shots(row, CONFIG), lambda: steps.score_frames(first, CONFIG),
                  lambda: steps.estimate_pose(first, CONFIG)):  # fmt: skip
        with pytest.raises(BadClip, match="source_changed"):
            stage()


# A packet takes its time, so that the moment of the kill is not a matter of luck.
SLOWLY = """
import time
from steadydancer.datasets.artifact import Artifact
write_part = Artifact.write_part
Artifact.write_part = lambda *arguments: (write_part(*arguments), time.sleep(0.5))
from steadydancer.flows.cli import main
main()
"""


def command(dancers: Path, out: Path, *options: str) -> list[str]:
    config = out.parent / "preset.json"
    if not config.exists():
        from steadydancer.flows.presets import tiny

        run = tiny()
        config.write_text(
            run.model_copy(update={"curate": CONFIG.model_copy(update={"packet_size": 1})}).model_dump_json()
        )
    words = ["curate", "--clips", dancers / "clips", "--out", out, "--preset", config, *options]
    return [sys.executable, "-m", "steadydancer.flows.cli", *map(str, words)]


def kill_once(words: list[str], out: Path, least_parts: int, delay_s: float = 0.0) -> None:
    """Start a run and kill its driver, -9, as soon as it has some parts (and a moment later)."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        while run.poll() is None and len(list((out / "measured").glob("part-*.parquet"))) < least_parts:
            time.sleep(0.01)
        time.sleep(delay_s)
        assert run.poll() is None, "the run ended before it could be killed"
        run.send_signal(signal.SIGKILL)


@pytest.mark.acceptance
@pytest.mark.timeout(1500)
def test_a_killed_ray_driver_goes_on_to_the_same_rows(dancers: Path, curated: Path, tmp_path: Path) -> None:
    """At random moments; Ray's processes of a killed driver end by themselves."""
    out, chance = tmp_path / "out", random.Random(0)
    for least_parts in (0, 1, 3):
        kill_once(command(dancers, out), out, least_parts, chance.uniform(0.2, 3.0))
    subprocess.run(command(dancers, out), check=True, timeout=600)
    # Packets of another size have other names.
    after, undisturbed = (Artifact(folder / "clips").read().drop(["measured_part"]) for folder in (out, curated))
    assert after.equals(undisturbed)
    assert not list(out.rglob(".*.tmp*"))


@pytest.mark.skipif(not BAD.is_dir(), reason="../shared/bad is not here")
def test_whatever_lies_in_a_folder_gets_a_typed_verdict(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    shutil.copytree(BAD, clips)
    (clips / "directory.mp4").mkdir()
    (clips / "dangling.mp4").symlink_to("nowhere.mp4")
    config = CurateConfig(
        num_frames=33, packet_size=50, pose_model="supplied", shot_detector="threshold", text_detector="off"
    )
    record = curate(clips, tmp_path / "out", config)
    rows = rows_of(tmp_path / "out")
    reasons = {Path(row["source_path"]).name: row["reason"] for row in rows if row["verdict"] == "quarantined"}
    assert reasons == {
        "audio_only.mp4": "no_video",
        "dangling.mp4": "unreadable",
        "decord_corrupted.mp4": "corrupt_frames",
        "directory.mp4": "unreadable",
        "jpeg_named.mp4": "no_video",
        "text.mp4": "unreadable",
        "truncated_half.mp4": "truncated",
        "truncated_no_moov.mp4": "unreadable",
        "zero.mp4": "unreadable",
    }
    assert record["counts"]["inputs"] == len(rows)
    assert all(row["reason"] for row in rows)
    assert {Path(row["source_path"]).name for row in rows} == {path.name for path in clips.iterdir()} - {"manifest.tsv"}
    upright = {Path(row["source_path"]).stem: (row["width"], row["height"]) for row in rows}
    assert upright["rot_90"] == (320, 568) and upright["rot_180"] == (568, 320)


def test_a_parent_gives_what_is_the_same_and_the_rest_is_measured(
    dancers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = some(dancers, tmp_path / "clips", "dancer_0", "dancer_1", "dark", "truncated", "cut_long", "static")
    curate(clips, tmp_path / "old")
    # One goes, one comes, one is another file under its old name, one gets another caption later.
    for file in clips.glob("static.*"):
        file.unlink()
    some(dancers, clips, "two_people")
    for suffix in (".mp4", ".pose.safetensors"):
        shutil.copy(clips / f"dancer_0{suffix}", clips / f"dancer_1{suffix}")
    caption = clips / "cut_long.txt"
    caption.write_text("a new caption")
    os.utime(caption, (time.time() + 60,) * 2)
    gates = Gates(min_brightness=0, min_contrast=0, min_sharpness=0, max_blur=None, min_motion_magnitude=0)
    config = CONFIG.model_copy(update={"gates": gates, "packet_size": 2})

    def curated_with(out: Path, parent: Path | None) -> tuple[dict[str, Any], list[str]]:
        looked_at: list[str] = []
        monkeypatch.setattr(steps, "probe", lambda path: looked_at.append(Path(path).stem) or probe(path))
        record = job.run(
            config, clips=str(clips), out=out, parent=parent, engine=Engine(out / ".engine", in_process=True)
        )
        return record, sorted(looked_at)

    reported = job.plan(config, str(clips), tmp_path / "new", tmp_path / "old")
    assert reported["sources_measured_before"] == 3 and reported["sources_gone"] == 1
    twin, everything = curated_with(tmp_path / "twin", None)
    record, looked_at = curated_with(tmp_path / "new", tmp_path / "old")
    # `dark` had been refused before its pose; what was quarantined is tried again.
    assert looked_at == ["cut_long", "dancer_1", "dark", "truncated", "two_people"]
    assert everything == sorted([*looked_at, "dancer_0"])
    ours, theirs = (Artifact(folder / "clips").read() for folder in (tmp_path / "new", tmp_path / "twin"))
    assert ours.equals(theirs) and record["counts"] == twin["counts"]
    assert record["parent"]["sources_taken_over"] == 1
    assert [Path(name).stem for name in record["parent"]["gone"]] == ["static"]
    accepted = [row for row in rows_of(tmp_path / "new") if row["verdict"] == "ok"]
    assert Clips(tmp_path / "new").poses(accepted) == Clips(tmp_path / "twin").poses(accepted)
    with pytest.raises(ArtifactError, match="measured with different settings:\n  num_score_frames: 4 → 5"):
        job.run(config.model_copy(update={"num_score_frames": 5}), clips=str(clips), out=tmp_path / "x",
                parent=tmp_path / "old", engine=Engine(tmp_path / "e", in_process=True))  # fmt: skip


def test_what_a_manifest_says_now_stands_in_rows_that_are_taken_over(tmp_path: Path) -> None:
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"a film")
    row = {"source_path": str(clip), "source_id": content_digest(clip), "origin": "a studio", "licence": "CC0"}
    measured = Artifact(tmp_path / "measured")
    spans = ({"prompt": "then", "start_s": 0.0, "brightness": 0.5}, {"prompt": "then", "start_s": 2.0})
    other = {"source_path": str(tmp_path / "b.mp4"), "source_id": "b"}
    measured.write_part(Packet("p", ()), to_table([*({**row, **span} for span in spans), other]))
    part = {"source_path": str(clip), "measured_part": "part-p.parquet"}
    for says, wanted in (
        ({"origin": "an archive", "licence": None, "prompt": "now"}, ("an archive", None, "now")),
        ({"origin": None, "licence": "CC-BY", "prompt": None}, (None, "CC-BY", "then")),
    ):
        rows = reuse_measurements(measured, {**part, **says}, CONFIG)
        assert isinstance(rows, list)
        assert [(one["origin"], one["licence"], one["prompt"]) for one in rows] == [wanted] * 2
        assert [(one["start_s"], one["brightness"]) for one in rows] == [(0.0, 0.5), (2.0, None)]
    clip.write_bytes(b"another film")
    assert reuse_measurements(measured, part, CONFIG) == {**part, "measured_part": None}
