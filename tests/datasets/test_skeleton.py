"""Parity with the released pose code (fixtures) and known answers. Fixtures: tests/golden."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from steadydancer.datasets.skeleton import (
    PoseSequence,
    align_people_to_reference,
    align_to_reference,
    draw,
    perturb,
    simulate_first_motion,
)

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
    with pytest.raises(ValueError, match=rf"target_frame must be in 1\.\.5, not {target_frame}"):
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


def upright(x: float, y: float, unit: float, num_frames: int = 1) -> PoseSequence:
    """Somebody whose limbs have whole lengths in `unit`, neck at (x, y), fingers a unit below the wrists, all seen."""
    places = [
        *[(0, -2), (0, 0)],  # nose, neck
        *[(-1, 0), (-1, 2), (-1, 4), (1, 0), (1, 2), (1, 4)],  # right and left arm
        *[(-1, 6), (-1, 8), (-1, 10), (1, 6), (1, 8), (1, 10)],  # right and left leg
        *[(-1, -3), (1, -3), (-2, -3), (2, -3)],  # eyes, ears
    ]
    body = np.array([x, y]) + unit * np.array(places, float)
    hands = np.broadcast_to(body[[7, 4], None] + [0, unit], (2, 21, 2))
    bodies, all_hands = (np.repeat(part[None], num_frames, axis=0).copy() for part in (body, hands))
    return PoseSequence(bodies, np.ones((num_frames, 18), bool), all_hands)


def test_missing_points_stay_missing_by_coordinate_and_are_shifted_all_the_same():
    driving, reference = upright(0.4, 0.3, 0.04, 2), upright(0.5, 0.4, 0.04)
    driving.body[1, 4] = -1
    driving.body[1, 10, 0] = -1
    driving.hands[1, 0, 3] = -1
    aligned = align_to_reference(driving, reference, 1.0, 0.5)
    # In heights: x from 0.4 to 0.5 · 0.5, y from 0.3 to 0.4; then x is divided by 0.5.
    shift = np.array([0.25 - 0.4, 0.1])
    np.testing.assert_allclose(aligned.body[1, 4], (-1 + shift) / [0.5, 1], atol=1e-12)
    np.testing.assert_allclose(aligned.hands[1, 0, 3], (-1 + shift) / [0.5, 1], atol=1e-12)
    np.testing.assert_allclose(aligned.body[1, 10, 0], (-1 + shift[0]) / 0.5, atol=1e-12)
    np.testing.assert_allclose(aligned.body[1, 10, 1], aligned.body[0, 10, 1], atol=1e-12)
    # The right fingers hang from a wrist at (−1, −1): lower arm (1), hand (1) and the way from that wrist all count.
    assert (aligned.hands[1, 1] > 0).all()


def test_a_missing_point_of_the_reference_makes_its_limb_long():
    driving, reference = upright(0.4, 0.3, 0.04), upright(0.5, 0.4, 0.04)
    reference.body[0, 3] = -1  # the right elbow: both right arm ratios grow, and both arms take the mean
    aligned = align_to_reference(driving, reference, 1.0, 1.0)
    shoulder, wrist = np.array([0.46, 0.4]), np.array([0.46, 0.56])
    upper = (np.linalg.norm(shoulder + 1) / 0.08 + 1) / 2
    lower = (np.linalg.norm(wrist + 1) / 0.08 + 1) / 2
    np.testing.assert_allclose(aligned.body[0, 5], [0.54, 0.4], atol=1e-12)
    np.testing.assert_allclose(aligned.body[0, 6], [0.54, 0.4 + 0.08 * upper], atol=1e-5)
    np.testing.assert_allclose(aligned.body[0, 7], [0.54, 0.4 + 0.08 * (upper + lower)], atol=1e-5)
    fingers = 0.4 + 0.08 * (upper + lower) + 0.04 * (upper + lower) / 2
    np.testing.assert_allclose(aligned.hands[0, 0], np.broadcast_to([0.54, fingers], (21, 2)), atol=1e-5)
    np.testing.assert_allclose(aligned.body[0, [8, 9, 10]], reference.body[0, [8, 9, 10]], atol=1e-12)


def test_stretching_rounds_its_centre_as_opencv_does():
    driving, reference = upright(0.4, 0.3, 0.04), upright(0.5, 0.4, 0.04)
    reference.body[0, 0, 1] = 0.4 - 0.08 * 50  # a neck of fifty lengths
    aligned = align_to_reference(driving, reference, 1.0, 1.0)
    centre = np.array([0.4, 0.3], np.float32).astype(float)
    expected = 50 * driving.body[0, 0] - 49 * centre + [0.1, 0.1]
    assert np.abs(expected - [0.5, 0.4 - 4]).max() > 1e-7
    np.testing.assert_allclose(aligned.body[0, 0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("joint", "onto", "lost", "lost_hands"),
    [
        (3, 2, {3, 4, 6, 7}, {0, 1}),  # no right upper arm: no arm beyond the shoulders, no hand
        (4, 3, {4, 7}, {0, 1}),
        (0, 1, {0, 14, 15, 16, 17}, set()),
        (5, 2, {2, 3, 4, 5, 6, 7}, {0, 1}),
        (12, 11, {9, 10, 12, 13}, set()),
    ],
)
def test_a_driving_limb_of_no_length_loses_what_hangs_on_it(joint, onto, lost, lost_hands):
    driving, reference = upright(0.4, 0.3, 0.04, 2), upright(0.5, 0.4, 0.04)
    driving.body[0, joint] = driving.body[0, onto]  # in frame 0 only, but the scale holds for all
    aligned = align_to_reference(driving, reference, 1.0, 1.0)
    is_lost = np.isclose(aligned.body, -0.9, atol=1e-12).all(axis=(0, 2))
    assert set(np.flatnonzero(is_lost)) == lost
    is_lost = np.isclose(aligned.hands, -0.9, atol=1e-12).all(axis=(0, 2, 3))
    assert set(np.flatnonzero(is_lost)) == lost_hands


def test_what_has_no_length_in_both_keeps_its_own_however_long_its_twin():
    driving, reference = upright(0.4, 0.3, 0.04), upright(0.5, 0.4, 0.04)
    for pose in (driving, reference):
        pose.body[:, 3] = pose.body[:, 2]  # right upper arm: 0 / 0
    reference.body[:, 6:8, 1] += 0.08  # left upper arm: 2
    aligned = align_to_reference(driving, reference, 1.0, 1.0)
    np.testing.assert_allclose(aligned.body[0, 6] - aligned.body[0, 5], [0, 0.08], atol=1e-12)
    # The mean of both arms decides the hands: no number and 1 is no number, so 1.
    np.testing.assert_allclose(aligned.hands[0, 0] - aligned.body[0, 7], np.tile([0, 0.04], (21, 1)), atol=1e-12)


def test_float32_keypoints_align_like_float64_ones():
    def as_float32(pose):
        return PoseSequence(pose.body.astype(np.float32), pose.body_visible, pose.hands.astype(np.float32))

    driving, reference = upright(0.4, 0.3, 0.04, 6), upright(0.5, 0.4, 0.05)
    rng = np.random.default_rng(6)
    for points in (driving.body, driving.hands, reference.body):
        points += rng.uniform(-0.02, 0.02, points.shape)
    scale, aspect = np.linspace(0.7, 1.3, 6), np.linspace(1.4, 0.6, 6)
    exact = align_to_reference(driving, reference, 1.6, 0.7)
    rounded = align_to_reference(as_float32(driving), as_float32(reference), 1.6, 0.7)
    assert rounded.body.dtype == rounded.hands.dtype == np.float64
    assert_same(rounded, exact, 1e-6)
    assert_same(perturb(rounded, scale, aspect), perturb(exact, scale, aspect), 1e-6)


def test_a_shift_of_the_negative_pose_moves_its_neck_and_all_other_points_alike():
    pose = upright(0.5, 0.4, 0.04, 2)
    pose = PoseSequence(pose.body, pose.body_visible, pose.hands, np.full((2, 68, 2), 0.2))
    scale, aspect, shift = np.array([1.2, 0.7]), np.array([0.6, 1.0]), np.array([[0.1, -0.2], [0.0, 0.05]])
    still, moved = perturb(pose, scale, aspect), perturb(pose, scale, aspect, shift)
    np.testing.assert_allclose(moved.body[:, 1], pose.body[:, 1] + shift, atol=1e-12)
    for name in ("body", "hands", "faces"):
        step = getattr(moved, name) - getattr(still, name)
        np.testing.assert_allclose(
            step, np.broadcast_to(shift.reshape(2, *[1] * (step.ndim - 2), 2), step.shape), atol=1e-12
        )
    np.testing.assert_array_equal(moved.body_visible, pose.body_visible)


def test_the_negative_pose_moves_missing_points_too_and_only_shifts_faces():
    pose = upright(0.5, 0.4, 0.04, 2)
    pose.hands[:, 0] = -1
    pose.body_visible[:, 3] = False
    pose = PoseSequence(pose.body, pose.body_visible, pose.hands, np.full((2, 68, 2), 0.2))
    negative = perturb(pose, np.array([0.7, 1.0]), np.array([0.6, 1.4]))
    # x · 0.42 and y · 0.7, then the neck goes back from (0.21, 0.28) to (0.5, 0.4)
    np.testing.assert_allclose(negative.hands[0, 0], np.tile([-0.42 + 0.29, -0.7 + 0.12], (21, 1)), atol=1e-12)
    np.testing.assert_allclose(negative.body[0, 3], [0.46 * 0.42 + 0.29, 0.48 * 0.7 + 0.12], atol=1e-12)
    np.testing.assert_allclose(negative.faces[0], np.tile([0.49, 0.32], (68, 1)), atol=1e-12)
    np.testing.assert_allclose(negative.faces[1], np.tile([0.2 - 0.2, 0.2], (68, 1)), atol=1e-12)
    np.testing.assert_array_equal(negative.body_visible, pose.body_visible)


def test_what_lies_outside_is_cut_off_and_no_more():
    """On a large canvas the same whole pixels give the same drawing, of which the small canvas is a part."""
    rng = np.random.default_rng(8)
    pixels = rng.integers(-40, 104, (3, 18, 2)) * 2  # even: no middle of a limb lies between pixels
    visible = rng.random((3, 18)) < 0.8
    no_hands = np.full((3, 2, 21, 2), -1.0)
    small = draw(PoseSequence(pixels / 128, visible, no_hands), 128, 128)
    large = draw(PoseSequence((pixels + 128) / 512, visible, no_hands), 512, 512)
    # OpenCV rounds where it cuts an edge at the border: a pixel there may differ.
    assert (small != large[:, 128:256, 128:256]).any(axis=-1).sum() <= 3
    assert small.any(axis=(1, 2, 3)).all()


def test_a_hand_is_drawn_right_of_and_below_the_first_pixels_only():
    def with_hand(*points):
        hands = np.full((1, 2, 21, 2), -1.0)
        hands[0, 0, : len(points)] = np.array(points) / 64
        return draw(PoseSequence(np.zeros((1, 18, 2)), np.zeros((1, 18), bool), hands), 64, 64)[0]

    for point in ((0.9, 30), (30, 0.9), (0, 0), (-5, 30)):
        assert not with_hand(point).any()
    assert tuple(with_hand((1, 30))[30, 1]) == (255, 0, 0)
    assert with_hand((66, 30))[30, 63, 0] == 255  # beyond the other edges it is cut off only
    edge = with_hand((10, 30), (40, 30))
    assert edge[30, 25].any()
    assert not with_hand((0.5, 30), (40, 30))[30, 25].any()  # an edge needs both its ends


def test_a_limb_that_leads_far_away_has_whole_degrees_and_misses_the_canvas():
    body = np.full((1, 18, 2), 0.5)
    visible = np.zeros((1, 18), bool)
    visible[0, 1:3] = True
    no_hands = np.full((1, 2, 21, 2), -1.0)
    alone = draw(PoseSequence(body, np.eye(18, dtype=bool)[[1]], no_hands), 64, 64)
    for far, is_hit in (
        ((4e5, 4e5), True),
        ((3e5, 4e5), False),
        ((3e12, 4e12), True),
    ):  # 45°, 53.13°, beyond all limits
        body[0, 2] = far
        assert (draw(PoseSequence(body, visible, no_hands), 64, 64) != alone).any() == is_hit


def test_all_joints_lie_over_all_limbs_and_the_later_person_over_the_earlier():
    visible = np.zeros((1, 18), bool)
    visible[0, [1, 2]] = True
    no_hands = np.full((1, 2, 21, 2), -1.0)
    first, second = np.zeros((1, 18, 2)), np.zeros((1, 18, 2))
    first[0, 1], first[0, 2] = (0.5, 0.5), (0.5, 0.9)
    second[0, 1], second[0, 2] = (0.1, 0.5), (0.9, 0.5)  # its limb crosses the other's neck
    people = [PoseSequence(body, visible, no_hands) for body in (first, second)]
    frame = draw(people, 100, 100)[0]
    assert tuple(frame[50, 50]) == (0, 85, 255)
    assert tuple(frame[50, 30]) == (0, 0, 153)
    second[0, 1] = (0.5, 0.5)
    second[0, 2] = (0.5, 0.5)
    assert tuple(draw(people, 100, 100)[0][50, 50]) == (0, 170, 255)  # its right shoulder is painted after all necks
    hand = np.full((1, 2, 21, 2), -1.0)
    hand[0, 0, 0] = 0.5
    people[0] = PoseSequence(first, visible, hand)
    assert tuple(draw(people, 100, 100)[0][50, 50]) == (255, 0, 0)  # hands lie over all bodies


def test_frame_zero_alone_says_how_the_whole_clip_is_scaled_and_placed():
    """Later frames of both, whatever they show, change nothing of it."""
    driving, reference = upright(0.4, 0.3, 0.04, 3), upright(0.5, 0.4, 0.04, 2)
    driving.body[1:] = driving.body[1:] * 1.5 + 0.1  # comes nearer, and goes
    reference.body[1] *= 0.3
    aligned = align_to_reference(driving, reference, 1.0, 1.0)
    assert_same(aligned[:1], reference[:1], 1e-9)
    # Scales of 1 and a shift of (0.1, 0.1), for every frame.
    np.testing.assert_allclose(aligned.body[1:], driving.body[1:] + 0.1, atol=1e-9)


def test_faces_are_placed_and_not_scaled():
    driving, reference = upright(0.4, 0.3, 0.04, 2), upright(0.5, 0.4, 0.08)
    points = np.random.default_rng(0).uniform(0.2, 0.6, (2, 68, 2))
    points[1, 5] = -1
    with_face = PoseSequence(driving.body, driving.body_visible, driving.hands, points)
    aligned = align_to_reference(with_face, reference, 1.5, 0.5)
    assert aligned.faces is not None
    shift = np.array([0.5 * 0.5 - 0.4 * 1.5, 0.1])  # of the neck, in heights
    expected = (points * [1.5, 1] + shift) / [0.5, 1]
    expected[1, 5] = (-1 + shift) / [0.5, 1]
    np.testing.assert_allclose(aligned.faces, expected, atol=1e-12)
    assert align_to_reference(driving, reference, 1.5, 0.5).faces is None


def test_people_who_follow_take_the_first_ones_scales_and_shift():
    main, other, reference = upright(0.4, 0.3, 0.04, 2), upright(0.7, 0.2, 0.03, 2), upright(0.5, 0.4, 0.08)
    other.body_visible[1, 4] = False
    first, second = align_people_to_reference([main, other], reference, 1.0, 1.0)
    assert_same(first, align_to_reference(main, reference, 1.0, 1.0), 0)
    np.testing.assert_allclose(first.body[0], reference.body[0], atol=1e-6)
    # Twice as long, from the own neck, which is shifted by (0.1, 0.1).
    np.testing.assert_allclose(second.body[0], upright(0.8, 0.3, 0.06).body[0], atol=1e-6)
    np.testing.assert_array_equal(second.body_visible, other.body_visible)


def test_faces_follow_the_neck_of_a_negative_pose():
    pose = upright(0.4, 0.3, 0.04, 2)
    points = np.random.default_rng(0).uniform(0.2, 0.6, (2, 68, 2))
    pose = PoseSequence(pose.body, pose.body_visible, pose.hands, points)
    negative = perturb(pose, np.array([0.5, 2.0]), np.array([3.0, 0.25]))
    # The neck (0.4, 0.3) would come to (0.4 · 1.5, 0.3 · 0.5) and (0.4 · 0.5, 0.3 · 2): what brings it back.
    shift = np.array([[-0.2, 0.15], [0.2, -0.3]])
    assert negative.faces is not None
    np.testing.assert_allclose(negative.faces, points + shift[:, None], atol=1e-12)
    np.testing.assert_allclose(negative.hands[1], pose.hands[1] * [0.5, 2] + shift[1], atol=1e-12)


def test_pose_simulation_moves_faces_that_are_seen_at_both_ends():
    pose = random_pose()
    points = np.random.default_rng(1).uniform(0.2, 0.6, (6, 68, 2))
    points[0, 3] = points[4, 8] = -1
    simulated = simulate_first_motion(PoseSequence(pose.body, pose.body_visible, pose.hands, points), 4)
    expected = points.copy()
    expected[1] = points[0] + (points[4] - points[0]) / 4
    expected[1, [3, 8]] = points[1, [3, 8]]
    np.testing.assert_allclose(simulated.faces, expected, atol=1e-12)
    assert simulated.body_visible is not pose.body_visible and not np.shares_memory(simulated.hands, pose.hands)


def painted(pose: PoseSequence, height: int = 100, width: int = 100) -> np.ndarray:
    return draw(pose, height, width)[0]


def test_a_finger_is_drawn_between_points_that_are_both_seen():
    hidden = np.zeros((1, 18), bool)
    hands = np.full((1, 2, 21, 2), -1.0)
    hands[0, 1, [0, 1]] = (0.2, 0.5), (0.8, 0.5)  # wrist and the thumb's first joint, of the right hand
    both = painted(PoseSequence(np.full((1, 18, 2), 0.5), hidden, hands))
    assert both[50, 50].tolist() == [0, 0, 255]
    for lost in ((-1.0, -1.0), (-0.05, 0.5), (0.8, -0.05)):  # as alignment leaves what is not seen
        one = hands.copy()
        one[0, 1, 1] = lost
        frame = painted(PoseSequence(np.full((1, 18, 2), 0.5), hidden, one))
        columns = np.flatnonzero(frame.any(axis=(0, 2)))
        assert columns.min() == 16 and columns.max() == 24  # the wrist's dot, and no line from it
        other = hands.copy()
        other[0, 1, 0] = lost
        columns = np.flatnonzero(painted(PoseSequence(np.full((1, 18, 2), 0.5), hidden, other)).any(axis=(0, 2)))
        assert columns.min() == 76 and columns.max() == 84


def test_a_picture_of_one_persons_limbs_has_their_colours_joint_by_joint():
    """Each joint alone is a dot in its own colour, each pair a limb in its own, at six tenths of full brightness."""
    wheel = [
        *[(0, 0, 255), (0, 85, 255), (0, 170, 255), (0, 255, 255), (0, 255, 170), (0, 255, 85)],
        *[(0, 255, 0), (85, 255, 0), (170, 255, 0), (255, 255, 0), (255, 170, 0), (255, 85, 0)],
        *[(255, 0, 0), (255, 0, 85), (255, 0, 170), (255, 0, 255), (170, 0, 255), (85, 0, 255)],
    ]
    limbs = ["1-2", "1-5", "2-3", "3-4", "5-6", "6-7", "1-8", "8-9", "9-10", "1-11", "11-12", "12-13", "0-1", "0-14",
             "14-16", "0-15", "15-17"]  # fmt: skip
    unseen = np.full((1, 2, 21, 2), -1.0)
    for joint in range(18):
        visible = np.arange(18)[None] == joint
        assert painted(PoseSequence(np.full((1, 18, 2), 0.5), visible, unseen))[50, 50].tolist() == list(wheel[joint])
    for first in range(18):
        for second in range(first + 1, 18):
            body = np.full((1, 18, 2), 0.5)
            body[0, first], body[0, second] = (0.1, 0.5), (0.9, 0.5)
            visible = np.isin(np.arange(18), [first, second])[None]
            name = f"{first}-{second}"
            colour = [int(0.6 * level) for level in wheel[limbs.index(name)]] if name in limbs else [0, 0, 0]
            assert painted(PoseSequence(body, visible, unseen))[50, 50].tolist() == colour, name


@pytest.mark.parametrize("order", ["transposed", "strided", "reversed", "columns"])
def test_an_arrays_layout_in_memory_does_not_change_what_is_saved(tmp_path: Path, order: str) -> None:
    """The library of the format writes memory as it lies: a mirrored or selected pose came back with mixed joints."""
    from steadydancer.datasets.supplied_poses import load_supplied_pose, save_supplied_pose

    def laid_out(array: np.ndarray) -> np.ndarray:
        if order == "transposed":
            return np.asfortranarray(array)
        if order == "strided":
            return np.repeat(array, 2, axis=1)[:, ::2]
        return array[::-1][::-1] if order == "reversed" else array[:, list(range(array.shape[1]))]

    plain = random_pose()
    faces = np.random.default_rng(1).uniform(0, 1, (6, 68, 2))
    parts = [laid_out(part) for part in (plain.body, plain.body_visible, plain.hands, faces)]
    assert order == "reversed" or not any(part.flags.c_contiguous for part in parts)
    odd, expected = PoseSequence(*parts), PoseSequence(plain.body, plain.body_visible, plain.hands, faces)
    assert_same(PoseSequence.from_bytes(odd.to_bytes()), expected, 1e-6)
    save_supplied_pose(tmp_path / "a.mp4", [odd, odd], 16)
    supplied = load_supplied_pose(tmp_path / "a.mp4")
    assert supplied is not None and len(supplied[0]) == 2
    for person in supplied[0]:
        assert_same(person, expected, 1e-6)


def test_masks_are_saved_whatever_their_layout(tmp_path: Path) -> None:
    from steadydancer.datasets.toydance.files import load_masks, save_masks

    masks = np.random.default_rng(0).random((5, 9, 13)) < 0.5
    for odd in (np.asfortranarray(masks), masks.transpose(2, 1, 0).copy().transpose(2, 1, 0), masks[:, ::-1]):
        save_masks(tmp_path / "a.mp4", odd)
        np.testing.assert_array_equal(load_masks(tmp_path / "a.mp4"), odd)
