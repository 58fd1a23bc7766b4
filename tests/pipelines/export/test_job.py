"""What is exported is what was accepted: every frame at its place, and a folder that `curate` and others read again."""

import csv
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest

from steadydancer.datasets.artifact import Artifact, ArtifactError
from steadydancer.datasets.clips import COLUMNS, Clips
from steadydancer.datasets.schema import CLIP_SCHEMA, Row, to_table
from steadydancer.datasets.skeleton import PoseSequence, draw
from steadydancer.datasets.storage import Location, state_folder
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.storage.s3 import ObjectPath, upload_file
from steadydancer.datasets.toydance import load_supplied_pose, toy_pose
from steadydancer.datasets.video import decode, encode, probe, size_for_area
from steadydancer.pipelines.cache.accepted_clips import AcceptedClips
from steadydancer.pipelines.common.crop import to_content
from steadydancer.pipelines.curate import job as curate_job
from steadydancer.pipelines.curate import refilter
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.export import job, steps
from steadydancer.pipelines.export.config import ExportConfig
from steadydancer.pipelines.runtime.runner import Engine

SOURCE_SIZE = ExportConfig(max_area_px=None, packet_size=2)


def export(config: ExportConfig, clips: Location, out: Location) -> dict[str, Any]:
    return job.run(config, clips=clips, out=out, engine=Engine(state_folder(out), in_process=True))


def lines(folder: Location, name: str = "clips.jsonl") -> list[Row]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def accepted(out: Path) -> dict[str, Row]:
    return {row["clip_id"]: row for row in Clips(out).read().to_pylist() if row["verdict"] == "ok"}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


@pytest.fixture(scope="module")
def exported(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `export` of the accepted clips at their own size."""
    out = tmp_path_factory.mktemp("exported")
    export(SOURCE_SIZE, curated, out)
    return out / "export"


def test_every_exported_frame_is_the_sources_frame_at_that_time(curated: Path, exported: Path) -> None:
    clips = accepted(curated)
    assert {row["id"] for row in lines(exported)} == set(clips) and len(clips) == 3
    for reported in lines(exported):
        row = clips[reported["id"]]
        at_source = decode(row["source_path"], row["start_s"] + np.arange(33) / 16)
        info = probe(exported / reported["video"])
        assert (info.num_frames, info.fps, info.height, info.width) == (33, 16.0, *at_source.shape[1:3])
        ours = decode(exported / reported["video"], np.arange(33) / 16)
        distance = np.array([[np.abs(a[::4, ::4].astype(int) - b[::4, ::4]).mean() for b in at_source] for a in ours])
        # Frames that the source repeats are equally near; the frame's own is never farther than any.
        assert (distance.diagonal() <= distance.min(axis=1) + 1e-9).all()
        assert (distance.argmin(axis=1) == np.arange(33)).mean() > 0.5
        assert psnr(ours, at_source) > 35


def test_where_nothing_was_accepted_the_reasons_are_counted(curated: Path, tmp_path: Path) -> None:
    config = refilter.change_selection(Clips(curated).record, {"gates": {"min_side_px": 99999}})
    refilter.run(config, clips=curated, out=tmp_path)
    refused = sum(row["reason"] == "min_side_px" for row in Clips(tmp_path).read().to_pylist())
    for open_clips in (lambda: job.plan(SOURCE_SIZE, tmp_path, tmp_path), lambda: AcceptedClips(tmp_path)):
        with pytest.raises(ArtifactError, match=f"has no accepted clip .*{refused} min_side_px"):
            open_clips()


def test_lossless_means_every_bit(curated: Path, tmp_path: Path) -> None:
    record = export(SOURCE_SIZE.model_copy(update={"lossless": True}), curated, tmp_path)
    assert record["encoding"]["lossless"] and record["counts"]["ok"] == 3
    clips = accepted(curated)
    for reported in lines(tmp_path / "export"):
        row = clips[reported["id"]]
        at_source = decode(row["source_path"], row["start_s"] + np.arange(33) / 16)
        assert np.array_equal(decode(tmp_path / "export" / reported["video"], np.arange(33) / 16), at_source)


def test_pose_videos_keypoints_and_captions_belong_to_the_frames(curated: Path, exported: Path) -> None:
    clips = accepted(curated)
    poses = Clips(curated).poses(clips.values())
    for reported in lines(exported):
        row = clips[reported["id"]]
        pose = PoseSequence.from_bytes(poses[reported["id"]])
        supplied = load_supplied_pose(exported / reported["video"])
        assert supplied is not None and supplied[1] == 16 and len(supplied[0]) == 1
        for name in ("body", "body_visible", "hands"):
            assert np.array_equal(getattr(supplied[0][0], name), getattr(pose, name))
        drawn = draw(pose, row["height"], row["width"])
        assert psnr(decode(exported / reported["pose_video"], np.arange(33) / 16), drawn) > 25
        assert (exported / reported["caption"]).read_text().strip() == row["prompt"] == reported["prompt"]
        assert reported["scores"]["pose_motion"] == row["pose_motion"] and reported["source_id"] == row["source_id"]
        assert (reported["start_s"], reported["end_s"], reported["num_frames"]) == (row["start_s"], row["end_s"], 33)


def test_curate_reads_an_export_again(curated: Path, exported: Path, tmp_path: Path) -> None:
    config = CurateConfig.model_validate(Clips(curated).record["config"])
    engine = Engine(tmp_path / ".engine", in_process=True)
    curate_job.run(config, clips=str(exported / "clips.jsonl"), out=tmp_path, engine=engine)
    before, again = accepted(curated), Clips(tmp_path).read().to_pylist()
    assert {Path(row["source_path"]).stem for row in again} == set(before)
    assert {row["verdict"] for row in again} == {"ok"} and {row["start_s"] for row in again} == {0.0}
    old, new = Clips(curated).poses(before.values()), Clips(tmp_path).poses(again)
    for row in again:
        clip_id = Path(row["source_path"]).stem
        assert new[row["clip_id"]] == old[clip_id]  # bit for bit, and so what is drawn and learnt of it
        assert row["prompt"] == before[clip_id]["prompt"] and row["pose_model"] == "supplied"
        assert row["pose_motion"] == pytest.approx(before[clip_id]["pose_motion"])


@pytest.fixture
def bordered(tmp_path: Path) -> Path:
    """A curation of one clip whose picture (48 x 32 at left 8, top 4) lies within black borders."""
    picture = np.random.default_rng(0).integers(0, 255, (9, 4, 6, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    frames = np.zeros((9, 48, 64, 3), np.uint8)
    frames[:, 4:36, 8:56] = picture
    encode(frames, tmp_path / "source.mp4", 16, lossless=True)
    pose = toy_pose(3, 9, 16, aspect=64 / 48)
    source = tmp_path / "source.mp4"
    row = {
        "source_path": str(source), "source_id": content_digest(source), "clip_id": "c", "start_s": 0.0, "end_s": 0.5,
        "num_frames": 9, "width": 64, "height": 48, "crop_left_px": 8, "crop_top_px": 4, "crop_width_px": 48,
        "crop_height_px": 32, "verdict": "ok", "measured_part": "part-0.parquet", "origin": "a set", "licence": "CC0",
    }  # fmt: skip
    for name in ("clips", "measured"):
        (tmp_path / name).mkdir()
    pq.write_table(to_table([{**row, "pose": pose.to_bytes()}]), tmp_path / "measured" / "part-0.parquet")
    pq.write_table(to_table([row]).select(COLUMNS), tmp_path / "clips" / "part-0.parquet")
    write_json(tmp_path / "clips" / "run.json", {"measured": "measured", "config": {"fps": 16.0, "num_frames": 9}})
    return tmp_path


def test_borders_are_cut_off_and_keypoints_follow(bordered: Path) -> None:
    export(SOURCE_SIZE.model_copy(update={"lossless": True}), bordered, bordered / "out")
    folder = bordered / "out" / "export"
    (reported,) = lines(folder)
    picture = decode(bordered / "source.mp4", np.arange(9) / 16)[:, 4:36, 8:56]
    assert np.array_equal(decode(folder / reported["video"], np.arange(9) / 16), picture)
    pose = to_content(toy_pose(3, 9, 16, aspect=64 / 48), (8 / 64, 4 / 48, 48 / 64, 32 / 48))
    supplied = load_supplied_pose(folder / reported["video"])
    assert supplied is not None
    np.testing.assert_allclose(supplied[0][0].body, pose.body, atol=1e-6)
    np.testing.assert_array_equal(
        decode(folder / reported["pose_video"], np.arange(9) / 16), draw(supplied[0][0], 32, 48)
    )
    assert (reported["origin"], reported["source"], reported["licence"]) == ("a set", "a set", "CC0")


def test_at_the_trained_size_frames_are_those_that_a_cache_encodes(bordered: Path) -> None:
    from steadydancer.models.encoders import resize_image

    config = ExportConfig(max_area_px=32 * 64, lossless=True)
    export(config, bordered, bordered / "out")
    folder = bordered / "out" / "export"
    height, width = size_for_area(32, 48, 32 * 64)
    ours = decode(folder / lines(folder)[0]["video"], np.arange(9) / 16)
    at_source = decode(bordered / "source.mp4", np.arange(9) / 16)[:, 4:36, 8:56]
    theirs = np.stack([resize_image(frame, height, width) for frame in at_source])
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1  # one resizes in fixed point, the other rounds once


def test_frames_in_pieces_are_the_frames_at_once(curated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = next(iter(job.accepted_clips(Clips(curated))))
    config = ExportConfig(max_area_px=96 * 96)
    in_pieces = np.concatenate(list(steps._frames(Path(row["source_path"]), row, config)))
    monkeypatch.setattr(steps, "FRAMES_AT_A_TIME", 1000)
    (at_once,) = steps._frames(Path(row["source_path"]), row, config)
    assert len(in_pieces) == 33 and np.array_equal(in_pieces, at_once)


def test_other_projects_find_their_columns(curated: Path, tmp_path: Path) -> None:
    export(ExportConfig(layout="diffsynth", max_area_px=64 * 64), curated, tmp_path / "a")
    folder = tmp_path / "a" / "export"
    table = list(csv.DictReader((folder / "metadata.csv").open()))
    assert [list(row) for row in table] == 3 * [["video", "prompt", "control_video", "animate_pose_video"]]
    assert all((folder / row[name]).is_file() for row in table for name in row if name != "prompt")
    assert [row["prompt"] for row in table] == [row["prompt"] for row in lines(folder)]

    export(ExportConfig(layout="musubi", max_area_px=64 * 64), curated, tmp_path / "b")
    folder = tmp_path / "b" / "export"
    settings = tomllib.loads((folder / "dataset.toml").read_text())
    rows = lines(folder, settings["datasets"][0]["video_jsonl_file"])
    assert len(rows) == 3 and all(set(row) == {"video_path", "control_path", "caption"} for row in rows)
    assert all((folder / row[name]).is_file() for row in rows for name in ("video_path", "control_path"))
    assert settings["datasets"][0]["target_frames"] == [33] and "source_fps" not in settings["datasets"][0]
    width, height = settings["general"]["resolution"]
    sizes = {(info.height, info.width) for info in (probe(folder / row["video_path"]) for row in rows)}
    assert (height, width) in sizes and all(h * w <= height * width and h % 16 == w % 16 == 0 for h, w in sizes)


def test_a_clip_without_a_prompt_is_text_to_pandas(bordered: Path) -> None:
    export(ExportConfig(layout="diffsynth", max_area_px=None), bordered, bordered / "out")
    table = pandas.read_csv(bordered / "out" / "export" / "metadata.csv")
    assert isinstance(table["prompt"][0], str) and not table["prompt"][0].strip()


def test_a_source_that_went_or_changed_is_quarantined_and_counts_balance(dancers: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for k in range(3):
        for suffix in (".mp4", ".pose.safetensors", ".txt"):
            twin = dancers / "clips" / f"dancer_{k % 2}{suffix}"
            (clips / f"dancer_{k}{suffix}").write_bytes(twin.read_bytes())
    with (clips / "dancer_2.mp4").open("ab") as file:
        file.write(b"\0\0\0\x08free")  # another file that shows the same
    config = CurateConfig(num_frames=13, max_clips_per_source=1, pose_model="supplied", shot_detector="threshold",
                          text_detector="off", duplicates={"scope": "off"})  # fmt: skip
    engine = Engine(tmp_path / ".engine", in_process=True)
    curate_job.run(config, clips=str(clips), out=tmp_path, engine=engine)
    (clips / "dancer_0.mp4").unlink()
    (clips / "dancer_1.mp4").write_bytes((clips / "dancer_2.mp4").read_bytes()[:-1])
    record = export(ExportConfig(max_area_px=None), tmp_path, tmp_path / "out")
    assert record["counts"] == {"inputs": 3, "ok": 1, "rejected": 0, "quarantined": 2}
    reasons = {
        Path(row["source_path"]).stem: row["reason"] for row in Artifact(tmp_path / "out/export").read().to_pylist()
    }
    assert reasons == {"dancer_0": "unreadable", "dancer_1": "source_changed", "dancer_2": None}
    (reported,) = lines(tmp_path / "out" / "export")
    names = {file.name.split(".")[0] for file in (tmp_path / "out" / "export" / "videos").iterdir()}
    assert names == {reported["id"]}


def test_a_killed_export_goes_on_to_the_same_bytes(
    curated: Path, exported: Path, tmp_path: Path, killed_at_second_part: Callable[[str], None]
) -> None:
    code = f"""
        from pathlib import Path
        from steadydancer.pipelines.export import job
        from steadydancer.pipelines.export.config import ExportConfig
        from steadydancer.pipelines.runtime.runner import Engine
        out = Path({str(tmp_path)!r})
        config = ExportConfig(max_area_px=None, packet_size=2)
        job.run(config, clips=Path({str(curated)!r}), out=out, engine=Engine(out / ".engine", in_process=True))
    """
    killed_at_second_part(code)
    assert not (tmp_path / "export" / "run.json").exists() and not (tmp_path / "export" / "clips.jsonl").exists()
    (part,) = (tmp_path / "export").glob("part-*")
    before = part.stat().st_mtime_ns
    export(SOURCE_SIZE, curated, tmp_path)
    assert part.stat().st_mtime_ns == before
    files = {file.relative_to(exported): file.read_bytes() for file in exported.rglob("*") if file.is_file()}
    for name, data in files.items():
        assert name.name == "run.json" or (tmp_path / "export" / name).read_bytes() == data, name
    assert len(list((tmp_path / "export").rglob("*"))) == len(list(exported.rglob("*")))


def test_another_configuration_on_the_same_folder_is_refused(curated: Path, exported: Path) -> None:
    with pytest.raises(ArtifactError, match="config.lossless: false → true"):
        export(SOURCE_SIZE.model_copy(update={"lossless": True}), curated, exported.parent)


@pytest.mark.parametrize("column", ["prompt", "source_path"])
def test_clips_of_which_something_that_is_exported_is_other_are_others(
    curated: Path, exported: Path, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = job.accepted_clips(Clips(curated))
    monkeypatch.setattr(job, "accepted_clips", lambda clips: [*rows[:-1], {**rows[-1], column: "another"}])
    with pytest.raises(ArtifactError, match="clips: "):
        export(SOURCE_SIZE, curated, exported.parent)
    monkeypatch.setattr(job, "accepted_clips", lambda clips: rows[::-1])  # the same clips
    assert export(SOURCE_SIZE, curated, exported.parent)["counts"]["inputs"] == len(rows)


def test_exporting_from_a_store_to_a_store(bucket: str, bordered: Path) -> None:
    root = ObjectPath.parse(bucket)
    for file in bordered.rglob("*"):
        if file.is_file():
            upload_file(file, root / "curated" / file.relative_to(bordered).as_posix())
    for name, columns in (("clips", COLUMNS), ("measured", CLIP_SCHEMA.names)):
        rows = pq.read_table(bordered / name / "part-0.parquet").to_pylist()
        moved = to_table([{**row, "source_path": f"{root}/curated/source.mp4"} for row in rows]).select(columns)
        pq.write_table(moved, bordered / f"{name}.parquet")
        upload_file(bordered / f"{name}.parquet", root / "curated" / name / "part-0.parquet")
    export(SOURCE_SIZE, root / "curated", root / "out")
    export(SOURCE_SIZE, bordered, bordered / "out")
    here, there = bordered / "out" / "export", root / "out" / "export"
    for name in ("videos/c.mp4", "pose_videos/c.mp4", "videos/c.txt", "videos/c.pose.safetensors", "clips.jsonl"):
        assert (there / name).read_bytes() == (here / name).read_bytes()


@pytest.mark.acceptance
def test_workers_of_ray_write_the_same_bytes(curated: Path, exported: Path, tmp_path: Path) -> None:
    record = job.run(SOURCE_SIZE, clips=curated, out=tmp_path, engine=Engine(tmp_path / ".engine"))
    assert record["counts"] == Artifact(exported).record()["counts"]
    for file in exported.rglob("*.*"):
        if file.name != "run.json":
            assert (tmp_path / "export" / file.relative_to(exported)).read_bytes() == file.read_bytes()
