"""Pose following of real files: planted faults are found, and what the estimator cannot see is excluded by name.

Keypoints lie beside the videos, or come from an estimator that reads them off the pictures' brightness.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer.datasets.skeleton import PoseSequence, align_to_reference
from steadydancer.datasets.toydance import save_supplied_pose, toy_pose
from steadydancer.datasets.video import encode
from steadydancer.models.pose.track import PoseTrack
from steadydancer.pipelines.evaluate.catalogue import METRICS
from steadydancer.pipelines.evaluate.groups import pose
from steadydancer.pipelines.evaluate.judges import Judges
from steadydancer.pipelines.evaluate.protocols import PROTOCOLS, Protocol
from steadydancer.pipelines.evaluate.scores import NotMeasured, Score
from steadydancer.pipelines.evaluate.video import Rendered, Video

COUNT = 33
NAMES = {name for name, metric in METRICS.items() if metric.group == "pose"}
MIRRORED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]


def write(file: Path, poses: list[PoseSequence] | PoseSequence, size: tuple[int, int] = (64, 48)) -> str:
    """A grey video, or picture, with keypoints beside it."""
    people = poses if isinstance(poses, list) else [poses]
    frames = np.full((len(people[0]), *size, 3), 90, np.uint8)
    if file.suffix == ".png":
        import cv2

        cv2.imwrite(str(file), frames[0])
    else:
        encode(frames, file, 16)
    save_supplied_pose(file, people, 16)
    return str(file)


def measured(
    row: dict[str, Any], judges: Any = None, protocol: Protocol | None = None, **rendered: Any
) -> dict[str, Score]:
    row = {"image": None, "driving": None, "truth": None, "reason": None, "detail": None, "pose_model": None,
           "aligned": None, **row}  # fmt: skip
    video = Video.read(row, protocol or PROTOCOLS["all"], Rendered(**rendered))
    found = pose.measure(video, judges or Judges(), "auto" if judges is None else "stub")
    assert found.keys() == NAMES
    return {name: one for name, one in found.items() if isinstance(one, Score)}


@pytest.fixture
def driven() -> PoseSequence:
    return toy_pose(3, COUNT, 16)


def faults(driven: PoseSequence) -> dict[str, PoseSequence]:
    order = np.arange(COUNT)
    jumped = driven.body.copy()
    mirrored = driven.body * (-1, 1) + (1, 0)
    jumped[4:, :, 0] += 0.12
    return {
        "same": driven,
        "late": driven[np.maximum(order - 2, 0)],
        "frozen": driven[np.zeros(COUNT, int)],
        "mirrored": replace(driven, body=np.ascontiguousarray(mirrored[:, MIRRORED])),
        "jump": replace(driven, body=jumped),
    }


def test_planted_faults_are_found(tmp_path: Path, driven: PoseSequence) -> None:
    driving = write(tmp_path / "driving.mp4", driven)
    found = {
        name: measured({"video": write(tmp_path / f"{name}.mp4", one), "driving": driving})
        for name, one in faults(driven).items()
    }
    value = {name: {key: one.value for key, one in each.items()} for name, each in found.items()}
    same = value["same"]
    assert (same["pck_10"], same["akd_px"], same["lag"], same["mirrored"]) == (1, pytest.approx(0, abs=1e-4), 0, 0)
    assert same["velocity_correlation"] == pytest.approx(1) and same["jump_excess"] == pytest.approx(1)
    assert same["hands_pck_20"] == 1 and same["people_extra"] == 0 and same["people_pck_10"] == 1
    assert value["late"]["lag"] == 2 and value["late"]["lag_correlation"] > 0.9
    assert value["frozen"]["velocity_correlation"] == 0 and value["frozen"]["motion_ratio"] == 0
    assert found["frozen"]["lag"][:2] == (None, "uncorrelated")
    assert found["frozen"]["jump"].reason == found["frozen"]["jump_excess"].reason == "no_motion"
    assert value["mirrored"]["mirrored"] == 1 and value["mirrored"]["mirror_correlation"] == pytest.approx(1)
    assert value["jump"]["jump_excess"] > 2
    for name in ("pck_10[ceiling]", "velocity_correlation[ceiling]"):
        assert found["same"][name].reason == "supplied_keypoints"
    assert found["same"]["start_gap"].reason == "no_image"
    assert found["same"]["extra_rate"].reason == "all_driven"


def test_a_jump_in_steps_without_joints_is_not_measured(tmp_path: Path, driven: PoseSequence) -> None:
    """Hide the joints of the render from frame 4 on, where it jumps: three of the first eight steps remain, or six."""
    driving = write(tmp_path / "driving.mp4", driven)
    jumped = faults(driven)["jump"]
    for last, is_known in ((7, False), (4, True)):
        visible = jumped.body_visible.copy()
        visible[4 : last + 1] = False
        hidden = replace(jumped, body_visible=visible)
        found = measured({"video": write(tmp_path / f"{last}.mp4", hidden), "driving": driving})
        assert found["jump_driven"].value is not None and found["velocity_correlation"].value is not None
        assert (found["jump_excess"].value is not None) == is_known
        if not is_known:
            assert found["jump"].reason == found["jump_excess"].reason == "no_pose"
            assert "fewer than half of the first 8 steps" in str(found["jump_excess"].detail)


def test_a_record_says_that_the_driven_pose_was_aligned(tmp_path: Path, driven: PoseSequence) -> None:
    """The render follows the dancer of the reference: only the aligned pose fits it."""
    reference = toy_pose(8, 1, 16, centre_x=0.4)
    aligned = align_to_reference(driven, reference, 48 / 64, 48 / 64)
    row = {"image": write(tmp_path / "image.png", reference), "driving": write(tmp_path / "driving.mp4", driven),
           "video": write(tmp_path / "render.mp4", aligned)}  # fmt: skip
    follows = measured({**row, "aligned": True}, has_record=True)
    assert follows["pck_10"].value == 1 and follows["velocity_correlation"].value == pytest.approx(1, abs=1e-4)
    assert follows["start_gap"].value is not None and follows["start_gap"].value > 0.05
    unaligned = measured({**row, "aligned": False}, has_record=True)
    assert unaligned["akd_torso"].value > 0.05 and "not aligned" in str(unaligned["pck_10"].detail)
    # Without a record and without a truth it is a pair of two people, which is aligned too.
    assert measured(row)["pck_10"].value == 1


def test_without_a_driving_video_the_truth_is_followed(tmp_path: Path, driven: PoseSequence) -> None:
    row = {"video": write(tmp_path / "render.mp4", driven), "truth": write(tmp_path / "truth.mp4", driven[:20])}
    found = measured(row)
    assert found["pck_10"].value == 1 and found["pck_10"].frames_compared == 20
    assert "that of the ground truth" in str(found["pck_10"].detail)
    with pytest.raises(NotMeasured, match="neither a driving video nor a ground truth"):
        measured({"video": row["video"]}, StubJudges())
    with pytest.raises(NotMeasured, match="unreadable_driving"):
        measured({"video": row["video"], "driving": str(tmp_path / "gone.mp4")}, StubJudges())


def test_frames_of_a_protocol_are_followed_at_their_own_places(tmp_path: Path, driven: PoseSequence) -> None:
    row = {"video": write(tmp_path / "render.mp4", driven), "driving": write(tmp_path / "driving.mp4", driven)}
    found = measured(row, protocol=Protocol(name="s", num_frames=9, stride=3))
    assert found["pck_10"].value == 1 and found["pck_10"].frames_compared == 9


def test_several_persons_are_matched_and_a_lost_one_counts(tmp_path: Path, driven: PoseSequence) -> None:
    other = toy_pose(5, COUNT, 16, centre_x=0.9)
    driving = write(tmp_path / "driving.mp4", [driven, other])
    both = measured({"video": write(tmp_path / "both.mp4", [other, driven]), "driving": driving})
    assert (both["people_driven"].value, both["people_pck_10"].value, both["pck_10"].value) == (2, 1, 1)
    lost = measured({"video": write(tmp_path / "lost.mp4", [driven]), "driving": driving})
    assert lost["people_pck_10"].value == 0.5 and lost["pck_10"].value == 1
    extra = measured(
        {"video": write(tmp_path / "extra.mp4", [driven, other]), "driving": write(tmp_path / "o.mp4", driven)}
    )
    assert extra["people_extra"].value == 1
    nobody = replace(driven, body_visible=np.zeros_like(driven.body_visible))
    empty = measured({"video": write(tmp_path / "nobody.mp4", nobody), "driving": driving})
    assert (empty["pck_10"].value, empty["missing_rate"].value) == (0, 1)
    assert empty["velocity_correlation"][:2] == (None, "no_pose")
    with pytest.raises(NotMeasured, match="no person is found in the driving video"):
        measured({"video": write(tmp_path / "r.mp4", driven), "driving": write(tmp_path / "n.mp4", nobody)})


class StubJudges(Judges):
    """An estimator that finds the dancer exactly in the first clip it sees, and with noise in every later one."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.calls: list[tuple[int, ...]] = []
        self.noise, self.name, self.counts_people = noise, "stub", True

    def estimator(self, name: str) -> Any:
        return self

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        dancer = toy_pose(3, COUNT, 16)[: len(frames)]
        shift = self.noise * np.random.default_rng(len(self.calls)).normal(size=dancer.body.shape) if self.calls else 0
        self.calls.append(frames.shape)
        return [PoseTrack(replace(dancer, body=dancer.body + shift), None)]


def test_a_value_names_the_estimator_that_was_chosen(tmp_path: Path, driven: PoseSequence) -> None:
    for name in ("render", "truth"):
        encode(np.full((COUNT, 64, 48, 3), 90, np.uint8), tmp_path / f"{name}.mp4", 16)
    row = {"image": None, "driving": None, "pose_model": None, "aligned": None, "reason": None, "detail": None,
           "video": str(tmp_path / "render.mp4"), "truth": str(tmp_path / "truth.mp4")}  # fmt: skip
    found = pose.measure(Video.read(row, PROTOCOLS["all"], Rendered()), StubJudges(), "auto")
    assert str(found["pck_10"].detail).startswith("stub; ")


def test_clips_that_the_estimator_cannot_see_are_excluded_from_motion(tmp_path: Path, driven: PoseSequence) -> None:
    row = {
        "video": write(tmp_path / "render.mp4", driven),
        "driving": write(tmp_path / "driving.mp4", driven, (96, 72)),
    }
    clear = measured(row, StubJudges())
    assert clear["velocity_correlation[ceiling]"].value == pytest.approx(1) and clear["lag"].value == 0
    judges = StubJudges(noise=0.2)
    noisy = measured(row, judges)
    # Driving clip, its coded copy, render: all of the render's size.
    assert judges.calls == [(COUNT, 64, 48, 3)] * 3
    assert noisy["velocity_correlation[ceiling]"].value < 0.5
    motion = {name for name, one in noisy.items() if one.reason == "not_measurable"}
    assert motion == {name for name, metric in METRICS.items() if metric.is_motion}
    assert noisy["pck_50"].value is not None and "and .5 is needed" in str(noisy["lag"].detail)
    # The driving clip of further renders is not estimated again.
    measured(row, judges)
    assert len(judges.calls) == 4
