"""Keypoints that lie beside a file are taken at the times asked, before any estimator, and claim no measurement."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.toydance import save_supplied_pose, toy_pose
from steadydancer.models.pose.track import PoseTrack
from steadydancer.pipelines.common import poses
from steadydancer.pipelines.common.poses import find_poses
from steadydancer.pipelines.runtime.stage import BadClip

FPS = 24


class Estimator:
    """Finds what it was given, and counts how often it looked."""

    def __init__(self, tracks: list[PoseTrack], counts_people: bool = True) -> None:
        self.name, self.counts_people, self.tracks, self.shown = "mine", counts_people, tracks, 0

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        self.shown += 1
        return self.tracks


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Two people of whom one is never seen, 24 frames at 24 a second, beside a video that nobody opens."""
    people = [toy_pose(seed, 24, FPS, aspect=0.75) for seed in (3, 4)]
    people[0].body_visible[:] = False
    people[1].body_visible[:12, 5:] = False
    save_supplied_pose(tmp_path / "a.mp4", people, FPS)
    return tmp_path / "a.mp4"


def found(path: Path, times_s: list[float], pose_model: str = "auto", estimator: Any = None) -> Any:
    return find_poses(
        path, np.array(times_s), lambda: np.zeros((len(times_s), 8, 8, 3), np.uint8), pose_model, estimator
    )


def test_supplied_keypoints_are_taken_by_time_and_nobody_measured_how_sure_they_are(video: Path) -> None:
    estimator = Estimator([])
    for pose_model in ("auto", "supplied"):
        name, people, (track,) = found(video, [0, 0.49, 0.5, 23 / 24], pose_model, estimator)
        assert (name, people, estimator.shown) == ("supplied", 1, 0)
        expected = PoseSequence.from_bytes(toy_pose(4, 24, FPS, aspect=0.75)[np.array([0, 11, 12, 23])].to_bytes())
        np.testing.assert_array_equal(track.pose.body, expected.body)
        assert track.pose.body_visible.sum(axis=1).tolist() == [5, 5, 18, 18]
        assert track.confidence is None


def test_an_estimators_name_ignores_them_and_its_confidence_is_a_measurement(video: Path) -> None:
    sure = np.full((2, 18), 0.7, np.float32)
    track = PoseTrack(toy_pose(5, 2, FPS, aspect=0.75), sure)
    for estimator, counted in ((Estimator([track, track]), 2), (Estimator([track, track], counts_people=False), None)):
        name, people, tracks = found(video, [0, 0.5], "mine", estimator)
        assert (name, people, estimator.shown) == ("mine", counted, 1)
        assert tracks[0].confidence is sure
    beside_none = video.with_name("b.mp4")
    assert found(beside_none, [0], "auto", estimator)[0] == "mine" and found(beside_none, [0]) == (None, None, [])


def test_keypoints_that_end_too_early_or_are_no_numbers_are_the_clips_fault(video: Path) -> None:
    found(video, [1.0])  # one frame of grace
    with pytest.raises(BadClip, match=r"pose_too_short: .*1.00 s of keypoints, frames until 1.05 s"):
        found(video, [0, 1.05])
    person = toy_pose(3, 24, FPS, aspect=0.75)
    person.body[7, 2, 1] = np.nan
    save_supplied_pose(video, [person], FPS)
    with pytest.raises(BadClip, match="unreadable_pose: .*not finite numbers"):
        found(video, [0])
    video.with_name("a.pose.safetensors").write_bytes(b"no such file")
    with pytest.raises(BadClip, match="unreadable_pose"):
        found(video, [0])


def test_auto_takes_the_first_estimator_whose_weights_are_all_here(monkeypatch: pytest.MonkeyPatch) -> None:
    here: set[str] = set()
    opened: list[tuple[str, str]] = []
    monkeypatch.setattr(poses.lookup, "find", lambda row: Path("x") if row.name in here else None)
    monkeypatch.setattr(poses, "open_pose_estimator", lambda name, device: opened.append((name, device)) or name)
    assert poses.load_pose_estimator("auto") is None and poses.load_pose_estimator("supplied") is None
    here |= {"yolox", "blazepose"}
    assert poses.load_pose_estimator("auto", "cuda") == "blazepose"
    here.add("dwpose")
    assert poses.load_pose_estimator("auto") == "dwpose"
    assert poses.load_pose_estimator("animal") == "animal"
    assert opened == [("blazepose", "cuda"), ("dwpose", "cpu"), ("animal", "cpu")]
