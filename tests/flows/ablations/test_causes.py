"""Causes: what they do to keypoints, and what they leave alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from steadydancer.datasets.supplied_poses import load_supplied_pose
from steadydancer.datasets.toydance import toy_clip
from steadydancer.flows.ablations.causes import CAUSES, LENGTHS, NOISE, cause_of, corrupted
from steadydancer.flows.ablations.packet import subsets_of
from steadydancer.flows.ablations.world import GAPS, make_pairs
from steadydancer.flows.demo.dancers import PairSet

POSE = toy_clip(5).pose


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cause_follows_its_seed_and_leaves_the_pose_that_it_was_given(cause: str) -> None:
    before = POSE.to_bytes()
    one, again, other = (corrupted(POSE, cause, seed) for seed in (3, 3, 4))
    assert one.to_bytes() == again.to_bytes() and POSE.to_bytes() == before
    is_changed = cause in ("noisy", "disparity", "missing")
    assert (one.to_bytes() != before) == (one.to_bytes() != other.to_bytes()) == is_changed


def test_noise_has_its_size_in_every_frame() -> None:
    steps = corrupted(POSE, "noisy", 0).body - POSE.body
    assert steps.std() == pytest.approx(NOISE, rel=0.05) and abs(steps.mean()) < NOISE / 5
    assert (np.abs(steps).max(axis=(1, 2)) > NOISE).all()


def test_another_build_scales_limbs_about_the_neck_by_the_same_factor_in_all_frames() -> None:
    body = corrupted(POSE, "disparity", 1).body
    np.testing.assert_allclose(body[:, [1, 2, 5]], POSE.body[:, [1, 2, 5]])  # neck and shoulders stay

    def factor(start: int, end: int) -> float:
        after, before = (points[:, end] - points[:, start] for points in (body, POSE.body))
        ratio = float(np.linalg.norm(after) / np.linalg.norm(before))
        np.testing.assert_allclose(after, ratio * before, atol=1e-6)
        return ratio

    arms, legs = [factor(2, 3), factor(3, 4), factor(5, 6)], [factor(8, 9), factor(12, 13)]
    np.testing.assert_allclose(arms, arms[0], rtol=1e-5)
    np.testing.assert_allclose(legs, legs[0], rtol=1e-5)
    for limb in (arms[0], legs[0]):
        assert np.log(LENGTHS[0]) - 1e-6 <= abs(np.log(limb)) <= np.log(LENGTHS[1]) + 1e-6


def test_missing_poses_hide_limbs_for_some_frames_and_exchange_sides_in_others() -> None:
    changed = corrupted(POSE, "missing", 2)
    hidden = POSE.body_visible & ~changed.body_visible
    assert hidden.any() and not hidden[0].any() and hidden.any(1).mean() < 0.5
    assert set(np.flatnonzero(hidden.any(0))) <= {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}
    moved = (changed.body != POSE.body).any(-1)
    frames = np.flatnonzero(moved.any(1))
    assert len(frames) and 0 not in frames
    np.testing.assert_array_equal(changed.body[frames[0], [4, 7]], POSE.body[frames[0], [7, 4]])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return make_pairs(tmp_path_factory.mktemp("world") / "pairs", num_pairs=1)


def test_every_cause_has_its_pairs_and_gaps_are_where_they_belong(pairs: PairSet) -> None:
    assert [cause_of(name) for name in pairs.ids()] == [*CAUSES]
    gaps = json.loads((pairs.folder / GAPS).read_text())
    assert {name for name, gap in gaps.items() if gap > 0.05} == {"start_gap-pair_0"}
    for line in (pairs.folder / "pairs.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert (pairs.folder / row["image"]).is_file() and (pairs.folder / row["driving"]).is_file()
        assert row["image"].startswith(f"images/{row['id']}.")


def test_causes_change_keypoints_and_no_picture(pairs: PairSet) -> None:
    def content(kind: str, cause: str) -> bytes:
        return pairs.video(kind, f"{cause}-pair_0").read_bytes()

    def pose(path: Path) -> bytes:
        supplied = load_supplied_pose(path)
        assert supplied is not None
        return supplied[0][0].to_bytes()

    clean = PairSet(pairs.folder)
    for cause in ("noisy", "disparity", "missing"):
        for kind in ("driving", "truth", "wrong"):
            assert content(kind, cause) == content(kind, "clean")
        assert pose(pairs.video("truth", f"{cause}-pair_0")) == pose(clean.video("truth", "clean-pair_0"))
        driven = pose(pairs.video("driving", f"{cause}-pair_0")) == pose(clean.video("driving", "clean-pair_0"))
        image = pose(pairs.image(f"{cause}-pair_0")) == pose(clean.image("clean-pair_0"))
        assert (driven, image) == ((True, False) if cause == "disparity" else (False, True))


def test_pairs_are_made_once(pairs: PairSet) -> None:
    before = (pairs.folder / GAPS).stat().st_mtime_ns
    make_pairs(pairs.folder, num_pairs=5)
    assert (pairs.folder / GAPS).stat().st_mtime_ns == before


def test_subsets_are_causes_and_halves_by_gap() -> None:
    gaps = {"clean-a": 0.0, "noisy-a": 0.0, "start_gap-a": 0.9, "start_gap-b": 0.5, "start_gap-c": 0.7}
    subsets = subsets_of(gaps)
    assert subsets["all"] == [*gaps] and subsets["misaligned"] == [*gaps][1:]
    assert subsets["small_gap"] == ["start_gap-b"] and subsets["large_gap"] == ["start_gap-c", "start_gap-a"]
