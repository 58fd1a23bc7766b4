"""Parity with the released pose code (fixtures) and known answers. Fixtures: tests/golden."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from steadydancer.datasets.skeleton import PoseSequence, align_to_reference, draw, perturb, simulate_first_motion

GOLDEN = Path(__file__).parents[1] / "golden"


def read_rgb(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


def from_fixture(data, prefix: str) -> PoseSequence:
    body = np.reshape(data[f"{prefix}body"], (-1, 18, 2))
    return PoseSequence(
        body=body,
        body_visible=np.reshape(data[f"{prefix}subset"], (-1, 18)) >= 0,
        hands=np.reshape(data[f"{prefix}hands"], (-1, 2, 21, 2)),
        faces=np.reshape(data[f"{prefix}faces"], (-1, 1, 68, 2))[:, 0],
    )


def random_pose(num_frames: int = 6, seed: int = 0) -> PoseSequence:
    rng = np.random.default_rng(seed)
    hands = rng.uniform(0.1, 0.9, (num_frames, 2, 21, 2))
    hands[rng.random((num_frames, 2, 21)) < 0.2] = -1
    visible = rng.random((num_frames, 18)) < 0.8
    return PoseSequence(rng.uniform(0.1, 0.9, (num_frames, 18, 2)), visible, hands)


def assert_same(actual: PoseSequence, expected: PoseSequence, tolerance: float) -> None:
    np.testing.assert_array_equal(actual.body_visible, expected.body_visible)
    for name in ("body", "hands", "faces"):
        if getattr(expected, name) is None:
            assert getattr(actual, name) is None
        else:
            np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def aligned_fixture():
    with np.load(GOLDEN / "align_1.npz") as data:
        return dict(data)


@pytest.mark.parametrize(("width", "height"), [(328, 448), (896, 512)])
def test_drawing_equals_the_release_pixel_for_pixel(width, height):
    with np.load(GOLDEN / "draw_1.npz") as data:
        pose = from_fixture(data, "")
    frames = draw(pose, height, width)
    np.testing.assert_array_equal(frames[0], read_rgb(GOLDEN / f"draw_1_{width}x{height}.png"))


def test_alignment_equals_the_release(aligned_fixture):
    aspects = [w / h for w, h in (aligned_fixture["video_wh"], aligned_fixture["ref_resized_wh"])]
    aligned = align_to_reference(from_fixture(aligned_fixture, "drv_"), from_fixture(aligned_fixture, "ref_"), *aspects)
    assert_same(aligned, from_fixture(aligned_fixture, "pos_"), 1e-6)


def test_negative_pose_equals_the_release(aligned_fixture):
    _, _, scale, aspect = aligned_fixture["random_draws"].T
    negative = perturb(from_fixture(aligned_fixture, "pos_"), scale, aspect)
    assert_same(negative, from_fixture(aligned_fixture, "neg_"), 1e-6)


@pytest.mark.parametrize("kind", ["pos", "neg"])
def test_aligned_frames_draw_like_the_release(aligned_fixture, kind):
    width, height = aligned_fixture["canvas_wh"]
    pose = from_fixture(aligned_fixture, f"{kind}_")[2:3]
    np.testing.assert_array_equal(draw(pose, height, width)[0], read_rgb(GOLDEN / f"align_1_{kind}_frame2.png"))


def test_aligning_to_oneself_changes_nothing():
    pose = random_pose()
    aligned = align_to_reference(pose, pose[:1], 0.6, 0.6)
    np.testing.assert_allclose(aligned.body, pose.body, atol=1e-12)
    seen = pose.hands > 0
    np.testing.assert_allclose(aligned.hands[seen], pose.hands[seen], atol=1e-12)
    assert (aligned.hands[~seen] < 0).all()


def test_alignment_gives_the_reference_lengths_and_place():
    driving, reference = random_pose(seed=1), random_pose(1, seed=2)
    aligned = align_to_reference(driving, reference, 1.6, 0.7)
    np.testing.assert_allclose(aligned.body[0, 1], reference.body[0, 1], atol=1e-12)

    def neck_length(pose):
        return np.linalg.norm((pose.body[0, 0] - pose.body[0, 1]) * [0.7, 1])

    np.testing.assert_allclose(neck_length(aligned), neck_length(reference), atol=1e-12)


def test_a_limb_without_length_loses_its_points_and_a_missing_part_is_left_alone():
    driving, reference = random_pose(seed=3), random_pose(1, seed=4)
    driving.body[0, 9] = driving.body[0, 8]  # right thigh of no length: infinite scale for both thighs
    shift = reference.body[0, 1] - driving.body[0, 1]
    aligned = align_to_reference(driving, reference, 1.0, 1.0)
    for joint in (9, 10, 12, 13):
        np.testing.assert_allclose(aligned.body[:, joint], np.broadcast_to(-1 + shift, (6, 2)), atol=1e-12)
    assert (np.abs(aligned.body[:, [8, 11, 3, 4]] - (-1 + shift)) > 1e-3).all()
    assert draw(aligned, 64, 48).any()


def test_perturbing_keeps_the_neck_and_every_frame_has_its_own_draw():
    pose = random_pose()
    scale, aspect = np.ones(6), np.ones(6)
    scale[3], aspect[3] = 1.2, 0.5
    changed = perturb(pose, scale, aspect)
    np.testing.assert_allclose(changed.body[:, 1], pose.body[:, 1], atol=1e-12)
    np.testing.assert_allclose(np.delete(changed.body, 3, 0), np.delete(pose.body, 3, 0), atol=1e-12)
    expected = pose.body[3, 1] + (pose.body[3, 4] - pose.body[3, 1]) * [0.6, 1.2]
    np.testing.assert_allclose(changed.body[3, 4], expected, atol=1e-12)


@pytest.mark.parametrize("target_frame", [1, 2, 4])
def test_pose_simulation_interpolates_what_is_seen_at_both_ends(target_frame):
    pose = random_pose()
    pose.body_visible[:] = True
    pose.body_visible[0, 5] = pose.body_visible[1, 6] = False
    pose.hands[0, 0, 7] = -1
    simulated = simulate_first_motion(pose, target_frame)
    expected = pose.body[0] + (pose.body[target_frame] - pose.body[0]) / target_frame
    expected[5] = pose.body[1, 5]
    np.testing.assert_allclose(simulated.body[1], expected, atol=1e-12)
    # joint 6 is interpolated from two seen ends, so it is seen; if frame 1 is itself the end it stays unseen
    assert simulated.body_visible[1, 6] == (target_frame != 1)
    np.testing.assert_array_equal(simulated.hands[1, 0, 7], pose.hands[1, 0, 7])
    keep = [0, 2, 3, 4, 5]
    assert_same(simulated[np.array(keep)], pose[np.array(keep)], 0)


def test_uniform_motion_is_a_fixed_point_of_pose_simulation():
    start, step = random_pose(1).body, np.random.default_rng(5).normal(0, 0.01, (1, 18, 2))
    body = start + step * np.arange(6)[:, None, None]
    pose = PoseSequence(body, np.ones((6, 18), bool), np.full((6, 2, 21, 2), -1.0))
    assert_same(simulate_first_motion(pose, 3), pose, 1e-12)


@pytest.mark.parametrize("target_frame", [0, 6])
def test_pose_simulation_refuses_a_target_outside_the_clip(target_frame):
    with pytest.raises(ValueError, match="target_frame"):
        simulate_first_motion(random_pose(), target_frame)


def test_bytes_round_trip_is_float32():
    pose = random_pose()
    with_faces = PoseSequence(pose.body, pose.body_visible, pose.hands, np.full((6, 68, 2), 0.25))
    for sequence in (pose, with_faces):
        again = PoseSequence.from_bytes(sequence.to_bytes())
        assert again.body.dtype == np.float32
        assert_same(again, sequence, 1e-7)


def test_slicing_takes_frames():
    pose = random_pose()
    assert_same(pose[2:4], pose[np.array([2, 3])], 0)
    assert len(pose[2:4]) == 2


def test_wrong_shapes_are_refused():
    pose = random_pose()
    with pytest.raises(ValueError, match="hands must have shape"):
        PoseSequence(pose.body, pose.body_visible, pose.hands[:3])
    with pytest.raises(ValueError, match="bool"):
        PoseSequence(pose.body, pose.body_visible.astype(float), pose.hands)


def test_two_people_share_the_canvas():
    one = PoseSequence(np.full((1, 18, 2), 0.25), np.ones((1, 18), bool), np.full((1, 2, 21, 2), -1.0))
    other = PoseSequence(np.full((1, 18, 2), 0.75), np.ones((1, 18), bool), np.full((1, 2, 21, 2), -1.0))
    both = draw([one, other], 64, 64)
    np.testing.assert_array_equal(both, np.maximum(draw(one, 64, 64), draw(other, 64, 64)))


def test_colours_are_the_exchanged_ones_and_unseen_parts_are_not_drawn():
    body = np.tile(np.array([0.5, 0.9]), (1, 18, 1))
    body[0, 0], body[0, 1], body[0, 2] = (0.5, 0.2), (0.5, 0.5), (0.1, 0.5)
    visible = np.zeros((1, 18), bool)
    visible[0, :3] = True
    pose = PoseSequence(body, visible, np.full((1, 2, 21, 2), -1.0))
    frame = draw(pose, 100, 100)[0]
    assert tuple(frame[50, 30]) == (0, 0, 153)  # neck to right shoulder: blue, 0.6 of full brightness
    assert frame[35, 50, 0] == 153  # nose to neck: red
    assert not frame[80:].any()
