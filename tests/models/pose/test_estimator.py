from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadydancer.datasets.arrays import Frames
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.models.pose import animal as animal_pose
from steadydancer.models.pose import blazepose, dwpose
from steadydancer.models.pose import estimator as pose_estimator
from steadydancer.models.pose.estimator import PoseEstimator, open_pose_estimator
from steadydancer.models.pose.track import PoseTrack, to_openpose
from steadydancer.models.weights import lookup as weights
from steadydancer.pipelines.common.poses import find_poses


def test_joints_are_named_the_same_in_all_numberings() -> None:
    names = "nose,le_in,leye,le_out,re_in,reye,re_out,lear,rear,lmouth,rmouth,lsho,rsho,lelb,relb,lwri,rwri"
    names += ",lpin,rpin,lind,rind,lthu,rthu,lhip,rhip,lkne,rkne,lank,rank"
    coco = "nose,leye,reye,lear,rear,lsho,rsho,lelb,relb,lwri,rwri,lhip,rhip,lkne,rkne,lank,rank"
    animal = "leye,reye,nose,neck,tail,lsho,lelb,lwri,rsho,relb,rwri,lhip,lkne,lank,rhip,rkne,rank"
    openpose = "nose,rsho,relb,rwri,lsho,lelb,lwri,rhip,rkne,rank,lhip,lkne,lank,reye,leye,rear,lear"
    for numbering, joints in ((names, blazepose.JOINTS), (coco, dwpose.COCO_JOINTS)):
        assert [numbering.split(",")[joint] for joint in joints] == openpose.split(",")
    nose, *limbs_and_eyes = openpose.split(",")[:-2]
    assert [animal.split(",")[joint] for joint in animal_pose.ANIMAL_JOINTS] == [nose, "neck", *limbs_and_eyes]


def test_the_neck_is_the_middle_of_the_shoulders() -> None:
    points, scores = np.zeros((2, 133, 2), np.float32), np.full((2, 133), 0.9, np.float32)
    points[1, 5], points[1, 6], scores[1, 6] = [10, 4], [20, 8], 0.2
    body, confidence = to_openpose(points, scores, dwpose.COCO_JOINTS, (5, 6))
    assert body[1, 1].tolist() == [15, 6]
    assert confidence[1, 1] == np.float32(0.2)
    assert body[1, 2].tolist() == [20, 8]
    assert body[1, 5].tolist() == [10, 4]
    assert not body[0].any()
    alone = to_openpose(points[1], scores[1], dwpose.COCO_JOINTS, (5, 6))
    np.testing.assert_array_equal(alone[0], body[1])


def test_missing_weights_are_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(weights.WeightsError, match=r"pose_detection\.tflite.*weights fetch blazepose"):
        open_pose_estimator("blazepose")
    for name in ("dwpose", "animal"):
        with pytest.raises(
            weights.WeightsError, match=r"yolox_l\.onnx not found.*hf download yzd-v/DWPose yolox_l\.onnx"
        ):
            open_pose_estimator(name)
    (tmp_path / "DWPose").mkdir()
    (tmp_path / "DWPose" / "yolox_l.onnx").write_bytes(b"")
    with pytest.raises(weights.WeightsError, match=r"vitpose-b-apt36k\.onnx not found .*easy_ViTPose"):
        open_pose_estimator("animal")
    with pytest.raises(ValueError, match="expected one of dwpose, animal, blazepose"):
        open_pose_estimator("openpose")


def test_local_files_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnx_graph: Any, write_toy_yolox: Any
) -> None:
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path))
    write_toy_yolox(tmp_path / "DWPose" / "yolox_l.onnx", "batch")
    for path in ("DWPose/dw-ll_ucoco_384.onnx", "easy_ViTPose/onnx/apt36k/vitpose-b-apt36k.onnx"):
        graph = onnx_graph()
        output = graph.add("Relu", "input")
        graph.save(tmp_path / path, ["batch", 3, 8, 8], {output: ["batch", 3, 8, 8]})
    for name in ("dwpose", "animal"):
        for max_people in (None, 1):
            estimator = open_pose_estimator(name, max_people=max_people)
            assert estimator.name == name
            assert estimator.counts_people == (max_people is None)


def test_what_is_missing_is_fetched_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(name: str) -> Path:
        asked.append(name)
        raise weights.WeightsError("no network")

    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pose_estimator.lookup, "fetch", fetch)
    with pytest.raises(weights.WeightsError, match="no network"):
        open_pose_estimator("dwpose", download=True)
    assert asked == ["yolox"]


@pytest.mark.parametrize(("name", "parts"), [("dwpose", ["yolox", "dwpose"]), ("animal", ["yolox", "animal"])])
def test_each_part_is_fetched_and_the_settings_are_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, parts: list[str]
) -> None:
    made: list[tuple[Any, ...]] = []

    def make(*folders: Path, device: str, max_people: int | None) -> str:
        made.append((*folders, device, max_people))
        return "an estimator"

    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pose_estimator.lookup, "fetch", lambda part: tmp_path / part)
    monkeypatch.setattr(dwpose, "DWPose", make)
    monkeypatch.setattr(animal_pose, "AnimalPose", make)
    assert open_pose_estimator(name, device="cuda", max_people=3, download=True) == "an estimator"
    assert open_pose_estimator(name, download=True) == "an estimator"
    assert made == [tuple(tmp_path / part for part in parts) + more for more in (("cuda", 3), ("cpu", None))]


class Mine:
    """As the module's docstring tells to write one."""

    name, counts_people = "mine", True

    def estimate(self, frames: Frames) -> list[PoseTrack]:
        rng = np.random.default_rng(len(frames))
        body, seen = rng.random((len(frames), 18, 2)), np.ones((len(frames), 18), bool)
        return [PoseTrack(PoseSequence(body, seen, np.full((len(frames), 2, 21, 2), -1.0)), seen.astype(np.float32))]


def test_an_estimator_of_ones_own_is_as_good(tmp_path: Path) -> None:
    mine: PoseEstimator = Mine()
    frames = np.zeros((5, 8, 6, 3), np.uint8)
    name, num_people, tracks = find_poses(tmp_path / "clip.mp4", np.arange(5) / 16, lambda: frames, "auto", mine)
    assert (name, num_people) == ("mine", 1)
    assert len(tracks[0].pose) == 5
