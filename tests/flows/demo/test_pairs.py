"""Pairs made of accepted clips: ids that differ, truths where a clip drives itself, frames that are the clip's."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.compute as pc
import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.artifact import Artifact, Packet
from steadydancer.datasets.clips import COLUMNS
from steadydancer.datasets.manifest import read_manifest
from steadydancer.datasets.schema import Row, to_table
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.datasets.toydance import load_supplied_pose, toy_pose
from steadydancer.datasets.video import decode, encode, frame_times_s, probe, size_for_area
from steadydancer.flows.demo.pairs import MAX_AREA_PX, pairs_of_clips


@pytest.mark.parametrize("num_accepted", [1, 2, 3])
def test_each_pair_has_an_id_of_its_own_whatever_was_accepted(curated: Path, tmp_path: Path, num_accepted: int) -> None:
    accepted = Artifact(curated / "clips").read()
    accepted = accepted.filter(pc.equal(accepted["verdict"], "ok")).slice(0, num_accepted)
    assert len(accepted) == num_accepted
    Artifact(tmp_path / "clips").write_part(Packet("some", ()), accepted)
    shutil.copy(curated / "clips" / "run.json", tmp_path / "clips")
    (tmp_path / "measured").symlink_to(curated / "measured")

    rows = read_manifest(pairs_of_clips(tmp_path, 3), ("image", "driving"))
    assert len({row["id"] for row in rows}) == len(rows) == num_accepted
    driven_by_themselves = {row["id"] for row in rows if Path(row["image"]).stem == Path(row["driving"]).stem}
    assert {path.stem for path in (tmp_path / "pairs" / "truth").glob("*.mp4")} == driven_by_themselves
    for row in rows:
        assert probe(row["driving"]).num_frames == 33
        (pose,), fps = load_supplied_pose(Path(row["driving"])) or ([], 0)
        assert (len(pose), fps) == (33, 16.0)
        assert np.isfinite(pose.body).all()
        # Each file's keypoints have its full name: nobody need know whose they are.
        for file, frames in ((Path(row["image"]), 1), (Path(row["driving"]), 33)):
            assert file.with_name(f"{file.name}.pose.safetensors").is_file()
            ((own,), _) = load_supplied_pose(file) or ([], 0)
            assert (
                len(own) == frames and (own.body[0] == load_supplied_pose(file.with_suffix(".mp4"))[0][0].body[0]).all()
            )
    assert not list((tmp_path / "pairs" / "clips").glob("????????????????.pose.safetensors"))


def test_pairs_as_they_were_laid_before_are_left_and_keep_their_keypoints(curated: Path, tmp_path: Path) -> None:
    """One file of keypoints, by the stem, for a clip and its first frame."""
    (tmp_path / "clips").symlink_to(curated / "clips")
    (tmp_path / "measured").symlink_to(curated / "measured")
    rows = read_manifest(pairs_of_clips(tmp_path, 2), ("image", "driving"))
    folder = tmp_path / "pairs" / "clips"
    for keypoints in folder.glob("*.png.pose.safetensors"):
        keypoints.unlink()
    for keypoints in folder.glob("*.mp4.pose.safetensors"):
        keypoints.rename(str(keypoints).replace(".mp4.", "."))
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert read_manifest(pairs_of_clips(tmp_path, 2), ("image", "driving")) == rows
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    for row in rows:
        ((of_image,), _), ((of_video,), _) = (load_supplied_pose(Path(row[name])) for name in ("image", "driving"))
        assert len(of_video) == len(of_image) == 33


LEVELS, STEP = {"tall": 30, "wide": 50}, 4  # of the first frame, and by how much each next one is lighter
SIZES = {"tall": (96, 64), "wide": (64, 128)}
# (source, first frame of the clip at 16 a second, seed of its pose)
CLIPS = [("tall", 0, 0), ("tall", 11, 1), ("wide", 4, 2), ("wide", 20, 3)]
NUM_FRAMES = 9


@pytest.fixture
def several(tmp_path: Path) -> list[Row]:
    """A finished curation of two sources of other sizes and rates, each with two clips, none from its beginning."""
    for name, (height, width) in SIZES.items():
        rate = {"tall": 16, "wide": 32}[name]
        shades = LEVELS[name] + STEP * (np.arange(3 * rate) * 16 // rate)
        encode(np.broadcast_to(shades[:, None, None, None], (len(shades), height, width, 3)).astype(np.uint8),
               tmp_path / f"{name}.mp4", rate, lossless=True)  # fmt: skip
    rows = []
    for k, (name, first, seed) in enumerate(CLIPS):
        source = tmp_path / f"{name}.mp4"
        height, width = SIZES[name]
        rows.append(
            {"source_path": str(source), "source_id": content_digest(source), "clip_id": f"{k:016d}", "width": width,
             "height": height, "start_s": first / 16, "end_s": (first + NUM_FRAMES - 1) / 16, "num_frames": NUM_FRAMES,
             "measured_part": "part-x.parquet", "pose": toy_pose(seed, NUM_FRAMES, 16).to_bytes(), "verdict": "ok",
             "prompt": f"dance {k}"}
        )  # fmt: skip
    Artifact(tmp_path / "measured").write_part(Packet("x", ()), to_table(rows))
    Artifact(tmp_path / "clips").write_part(Packet("x", ()), to_table(rows).select(COLUMNS))
    record = {"kind": "clips", "config": {"fps": 16.0}, "measured": "measured"}
    write_json(tmp_path / "clips" / "run.json", record)
    return rows


def shade(frames: np.ndarray) -> list[int]:
    return frames.reshape(len(frames), -1).mean(axis=1).round().astype(int).tolist()


def test_a_pair_is_a_clips_own_span_at_its_own_size_driven_by_itself_and_the_next_one_in_turn(
    several: list[Row], tmp_path: Path
) -> None:
    pairs = read_manifest(pairs_of_clips(tmp_path, 4), ("image", "driving"))
    drivers = [0, 2, 2, 0]  # of pairs 0 to 3
    assert [(row["id"], row["prompt"]) for row in pairs] == [
        (f"{k:016d}-{driver:016d}", f"dance {k}") for k, driver in enumerate(drivers)
    ]
    truths = {path.stem: path for path in (tmp_path / "pairs" / "truth").iterdir()}
    assert set(truths) == {pairs[0]["id"], pairs[2]["id"]}
    for k, (row, driver) in enumerate(zip(pairs, drivers, strict=True)):
        image, video = cv2.imread(row["image"]), probe(row["driving"])
        for number, size in ((k, image.shape[:2]), (driver, (video.height, video.width))):
            assert size == size_for_area(*SIZES[CLIPS[number][0]], MAX_AREA_PX)
        name, first, seed = CLIPS[driver]
        levels = [LEVELS[name] + STEP * (first + n) for n in range(NUM_FRAMES)]
        frames = decode(row["driving"], frame_times_s(row["driving"]))
        assert np.abs(np.array(shade(frames)) - levels).mean() < STEP / 2  # the codec's own error; no frame is another
        assert abs(shade(image[None])[0] - (LEVELS[CLIPS[k][0]] + STEP * CLIPS[k][1])) <= 1
        (pose,), fps = load_supplied_pose(Path(row["driving"])) or ([], 0)
        assert fps == 16 and np.allclose(pose.body, toy_pose(seed, NUM_FRAMES, 16).body, atol=1e-6)
        if row["id"] in truths:
            assert truths[row["id"]].read_bytes() == Path(row["driving"]).read_bytes()


def test_clips_whose_source_was_replaced_make_no_pairs(
    several: list[Row], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copyfile(tmp_path / "wide.mp4", tmp_path / "tall.mp4")
    pairs = read_manifest(pairs_of_clips(tmp_path, 4), ("image", "driving"))
    assert [row["id"] for row in pairs] == [f"{2:016d}-{2:016d}", f"{3:016d}-{2:016d}"]
    assert len(caplog.messages) == 2 and all("source_changed" in line for line in caplog.messages)
    (tmp_path / "wide.mp4").unlink()
    shutil.rmtree(tmp_path / "pairs")
    with pytest.raises(SteadyDancerError, match="sources of all 4 chosen clips .* have changed since curation"):
        pairs_of_clips(tmp_path, 4)
