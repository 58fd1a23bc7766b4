"""The numbers of a pair on hand-made renders: known values, and each damage makes the right number worse."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from steadydancer.datasets.images import read_image
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.supplied_poses import load_supplied_pose
from steadydancer.datasets.toydance import load_masks
from steadydancer.datasets.video import encode
from steadydancer.flows.demo import measure
from steadydancer.flows.demo.dancers import PairSet, make_pairs
from steadydancer.flows.demo.measure import PairFiles, measure_pair, read_frames
from steadydancer.flows.demo.results import MEANS, judged_metrics, judgements, more_metrics
from steadydancer.models.encoders import resize_image
from steadydancer.models.metrics import LIMBS, box_pck
from steadydancer.models.pose.track import PoseTrack

SIDE, COUNT = 64, 33


class NearestPose:
    """Finds the pose of the most similar known picture."""

    name, counts_people = "nearest", True

    def __init__(self, known: list[tuple[np.ndarray, PoseSequence]]) -> None:
        self.frames = np.concatenate([frames for frames, _ in known]).astype(np.float32)
        self.body = np.concatenate([pose.body for _, pose in known])
        self.visible = np.concatenate([pose.body_visible for _, pose in known])

    def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
        at = [int(((self.frames - frame) ** 2).mean((1, 2, 3)).argmin()) for frame in frames]
        hands = np.full((len(frames), 2, 21, 2), -1.0)
        return [PoseTrack(PoseSequence(self.body[at], self.visible[at], hands), None)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return make_pairs(tmp_path_factory.mktemp("pairs"), "easy", 3)


@pytest.fixture(scope="module")
def estimator(pairs: PairSet) -> NearestPose:
    known = []
    for name in pairs.ids():
        for kind in ("truth", "wrong"):
            path = pairs.video(kind, name)
            known.append((read_frames(path, COUNT, (SIDE, SIDE)), (load_supplied_pose(path) or ([], 0))[0][0]))
        image = (load_supplied_pose(pairs.image(name)) or ([], 0))[0][0]
        known.append((reference(pairs, name)[None], image))
    return NearestPose(known)


@pytest.fixture(autouse=True)
def coarse_autoencoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a network: a round trip that blurs."""
    monkeypatch.setattr(measure, "encode_video", lambda _, frames: frames)
    monkeypatch.setattr(
        measure, "decode_latents", lambda _, frames: np.stack([cv2.GaussianBlur(f, (0, 0), 0.8) for f in frames])
    )


def reference(pairs: PairSet, name: str) -> np.ndarray:
    return resize_image(read_image(pairs.image(name)).pixels, SIDE, SIDE)


def perfect(pairs: PairSet, name: str, kind: str) -> np.ndarray:
    """The truth at the render's size, with the reference picture as its first frame."""
    frames = read_frames(pairs.video(kind, name), COUNT, (SIDE, SIDE))
    frames[0] = reference(pairs, name)
    return frames


def write(folder: Path, pairs: PairSet, name: str, **renders: np.ndarray) -> PairFiles:
    """Write renders, perfect ones by default, with every bit."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {"render": perfect(pairs, name, "truth"), "wrong_render": perfect(pairs, name, "wrong")}
    made = {"control": made["render"], **made, **renders}
    for kind, frames in made.items():
        encode(frames, folder / f"{name}-{kind}.mp4", 16, lossless=True)
    files = {kind: folder / f"{name}-{kind}.mp4" for kind in made}
    return PairFiles(pairs.image(name), pairs.video("truth", name), pairs.video("wrong", name), **files)


@pytest.fixture
def measured(pairs: PairSet, estimator: NearestPose, tmp_path: Path) -> Any:
    def run(name: str = "pair_0", **renders: np.ndarray) -> dict[str, Any]:
        return measure_pair(write(tmp_path / "renders", pairs, name, **renders), None, estimator)

    return run


def changed(frames: np.ndarray, by: int) -> np.ndarray:
    """Change every number by `by` levels, up or down."""
    return np.where(frames > 127, frames.astype(int) - by, frames.astype(int) + by).astype(np.uint8)


def test_an_error_of_ten_levels_has_its_psnr_and_the_pose_is_found(pairs: PairSet, measured: Any) -> None:
    truth, image = perfect(pairs, "pair_0", "truth"), reference(pairs, "pair_0")
    values = measured(render=changed(truth, 10), wrong_render=changed(truth, 20))
    of = {levels: 20 * np.log10(255 / levels) for levels in (10, 20)}
    assert values["right_pose_psnr_db"] == pytest.approx(of[10])
    assert values["wrong_pose_psnr_db"] == pytest.approx(of[20])
    assert values["right_minus_wrong_pose_psnr_db"] == pytest.approx(20 * np.log10(2))
    assert values["first_frame_psnr_db"] == pytest.approx(of[10])
    assert values["psnr_db"] < of[10]  # the first frame of the truth is another pose
    assert values["pck_0_1"] == values["pck_0_1_limbs"] == 1
    assert image.shape == (SIDE, SIDE, 3)


def test_the_wrong_pose_scores_what_two_dances_have_in_common(pairs: PairSet, measured: Any) -> None:
    values = measured()
    poses = [(load_supplied_pose(pairs.video(kind, "pair_0")) or ([], 0))[0][0] for kind in ("truth", "wrong")]
    (driven, seen), (other, other_seen) = ((pose.body * SIDE, pose.body_visible) for pose in poses)
    assert values["pck_0_1_limbs_wrong_pose"] == box_pck(other, other_seen, driven, seen, LIMBS) < 0.5
    assert values["pck_0_1_limbs_frozen"] < 0.6 < values["pck_0_1_limbs"]
    assert values["right_minus_wrong_ceiling_db"] > 5


def test_only_pixels_of_the_two_dancers_count(pairs: PairSet, measured: Any) -> None:
    truth = perfect(pairs, "pair_0", "truth")
    masks = load_masks(pairs.video("truth", "pair_0")) | load_masks(pairs.video("wrong", "pair_0"))
    small = np.stack([cv2.resize(m.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for m in masks])
    outside = np.where((small < 0.5)[..., None], changed(truth, 60), changed(truth, 10))
    assert measured(render=outside)["right_pose_psnr_db"] == pytest.approx(20 * np.log10(25.5))


def test_blur_lowers_what_pixels_measure(pairs: PairSet, measured: Any) -> None:
    good, truth = measured(), perfect(pairs, "pair_0", "truth")
    blurred = measured(render=np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in truth]))
    for name in ("right_minus_wrong_pose_psnr_db", "right_pose_psnr_db", "first_frame_psnr_db", "psnr_db"):
        assert blurred[name] < good[name] - 5
    assert blurred["pck_0_1"] > 0.9


def test_the_wrong_pose_in_place_of_the_right_one_is_seen(pairs: PairSet, measured: Any) -> None:
    good, pasted = measured(), measured(render=perfect(pairs, "pair_0", "wrong"))
    assert pasted["right_minus_wrong_pose_psnr_db"] == 0 and good["right_minus_wrong_pose_psnr_db"] > 10
    assert pasted["pck_0_1_limbs"] < 0.5 < pasted["pck_0_1_limbs_wrong_pose"] == 1
    assert pasted["first_frame_psnr_db"] == good["first_frame_psnr_db"] == 100


def test_a_shifted_first_frame_lowers_its_psnr_and_nothing_else(pairs: PairSet, measured: Any) -> None:
    good, truth = measured(), perfect(pairs, "pair_0", "truth")
    truth[0] = np.roll(truth[0], 2, axis=1)
    shifted = measured(render=truth)
    assert shifted["first_frame_psnr_db"] < 30
    same = ("right_minus_wrong_pose_psnr_db", "pck_0_1", "pck_0_1_limbs", "jump_ceiling", "autoencoder_psnr_db")
    assert {name: shifted[name] for name in same} == {name: good[name] for name in same}


def test_a_lag_lowers_pck_and_psnr(pairs: PairSet, measured: Any) -> None:
    good, truth = measured(), perfect(pairs, "pair_0", "truth")
    late = measured(render=np.concatenate([truth[:1].repeat(6, 0), truth[1:-5]]))
    assert late["pck_0_1_limbs"] < good["pck_0_1_limbs"] - 0.2
    assert late["right_minus_wrong_pose_psnr_db"] < good["right_minus_wrong_pose_psnr_db"] - 10


def test_a_jump_at_the_start_is_relative_to_the_truths(pairs: PairSet, measured: Any) -> None:
    truth = read_frames(pairs.video("truth", "pair_0"), COUNT, (SIDE, SIDE))
    flash = truth.copy()
    flash[:4] = 255 - flash[:4]
    values = measured(render=truth, control=flash)
    assert values["jump_stage2"] > 3 * values["jump_stage3"] > 0
    assert values["jump_stage3"] == pytest.approx(values["jump_ceiling"], rel=0.25)


def test_a_render_without_a_person_has_no_joints(pairs: PairSet, tmp_path: Path) -> None:
    class Nobody:
        name, counts_people = "nobody", True

        def estimate(self, frames: np.ndarray) -> list[PoseTrack]:
            return []

    values = measure_pair(write(tmp_path, pairs, "pair_0"), None, Nobody())
    assert values["pck_0_1"] == values["pck_0_1_limbs"] == 0 and np.isnan(values["appearance"]).all()


def test_a_render_that_is_longer_than_its_truth_is_refused(pairs: PairSet, measured: Any) -> None:
    truth = perfect(pairs, "pair_0", "truth")
    with pytest.raises(ValueError, match="has 33 frames, but 34 are compared"):
        measured(render=np.concatenate([truth, truth[-1:]]))


def test_the_summary_has_the_judged_names_with_interval_and_number(pairs: PairSet, measured: Any) -> None:
    rows = [measured(name) for name in pairs.ids()]
    metrics = judged_metrics(rows)
    assert set(metrics) == {
        "right_minus_wrong_pose_psnr_db", "right_minus_wrong_ceiling_db", "pck_0_1", "pck_0_1_limbs",
        "pck_0_1_limbs_wrong_pose", "first_frame_psnr_db", "autoencoder_first_frame_psnr_db", "autoencoder_psnr_db",
        "start_gap_jump_stage2", "start_gap_jump_stage3",
    }  # fmt: skip
    for result in metrics.values():
        assert set(result) == {"mean", "low", "high", "num_clips"} and result["num_clips"] == 3
        assert result["low"] <= result["mean"] <= result["high"]
    for name in MEANS:
        assert metrics[name]["mean"] == pytest.approx(np.mean([row[name] for row in rows]))
    jumps = metrics["start_gap_jump_stage3"]["mean"]
    assert jumps == pytest.approx(sum(r["jump_stage3"] for r in rows) / sum(r["jump_ceiling"] for r in rows))
    more = more_metrics(rows)
    assert more["identity_retrieval"]["mean"] == more["identity_retrieval_ceiling"]["mean"] == 1
    json.dumps([metrics, more], allow_nan=False)
    met = {goal: is_met for goal, _, is_met in judgements(metrics, more)}
    assert met["right minus wrong pose at least 6 dB"] and met["identities kept, at least 0.95"]
    assert met["jump of stage 3 at most 0.5 of the control's"] is False  # the same videos


def test_a_pair_without_a_value_is_left_out_and_counted(pairs: PairSet, measured: Any) -> None:
    rows = [measured(name) for name in pairs.ids()]
    rows[0] = {**rows[0], "pck_0_1": None, "jump_stage2": np.nan}
    metrics = judged_metrics(rows)
    assert metrics["pck_0_1"]["num_clips"] == metrics["start_gap_jump_stage2"]["num_clips"] == 2
    assert metrics["start_gap_jump_stage3"]["num_clips"] == 3
    nothing = judged_metrics([{**row, "pck_0_1": None} for row in rows])["pck_0_1"]
    assert nothing == {"mean": None, "low": None, "high": None, "num_clips": 0}


def test_other_dancers_in_the_renders_lower_the_retrieval(
    pairs: PairSet, measured: Any, estimator: NearestPose, tmp_path: Path
) -> None:
    """Each render shows the dancer of the next pair."""
    names, rows = pairs.ids(), []
    for k, name in enumerate(names):
        other = write(tmp_path / "other", pairs, names[(k + 1) % 3])
        files = write(tmp_path / "own", pairs, name)
        rows.append(measure_pair(replace(files, render=other.render), None, estimator))
    assert more_metrics(rows)["identity_retrieval"]["mean"] == 0
    assert more_metrics(rows)["identity_retrieval_ceiling"]["mean"] == 1
