"""Dances keep to the floor, the picture and the beat, and are the same for every body."""

import numpy as np
import pytest

from steadydancer.datasets.skeleton import align_to_reference
from steadydancer.datasets.toydance.choreography import channels_at, choreograph, dance_of, rotation
from steadydancer.datasets.toydance.figure import joints_of, make_figure, realigned
from steadydancer.datasets.toydance.moves import MOVES
from steadydancer.datasets.toydance.pairs import make_pair
from steadydancer.datasets.toydance.render import render
from steadydancer.datasets.toydance.scenes import make_scene


@pytest.mark.parametrize(("one", "other"), [(1, 2), (3, 9), (4, 5), (30, 17)])
@pytest.mark.parametrize("aspects", [(1.0, 1.0), (1.3, 0.8)])
def test_aligning_a_dance_gives_the_own_pose_of_the_other_body(one, other, aspects):
    """The known answer of pose transfer: directions of the dance times the bones of the reference dancer."""
    driving_aspect, aspect = aspects
    driving = make_scene(other, "easy", 33, aspect=driving_aspect).main.figure
    look = make_scene(one, "easy", 1, aspect=aspect).main.look
    expected = make_figure(look.body, driving.dance, (0.4 * aspect, 0.45), aspect)
    # The same start pose, and also another one: in frame 0 all limbs are in the plane of the picture.
    for reference in (expected[:1].pose, make_scene(one, "easy", 1, aspect=aspect).main.figure.pose):
        aligned = align_to_reference(driving.pose, reference, driving_aspect, aspect)
        shift = reference.body[0, 1] - expected.pose.body[0, 1]
        np.testing.assert_allclose(aligned.body - shift, expected.pose.body, atol=1e-7)
        np.testing.assert_allclose(aligned.hands - shift, expected.pose.hands, atol=1e-7)
    assert np.abs(driving.pose.body - expected.pose.body).max() > 0.02


def test_a_dance_starts_in_the_plane_of_the_picture_facing_the_camera():
    for seed in range(40):
        dance = make_scene(seed, "easy", 2).main.figure.dance
        for name in ("upper_arms", "forearms", "thighs", "shins"):
            np.testing.assert_allclose(getattr(dance, name)[0, :, 2], 0, atol=1e-9)
        np.testing.assert_allclose(dance.head[0, 2], [0, 0, 1], atol=1e-9)


def test_dancers_stay_in_the_picture_at_a_plausible_speed_and_travel():
    travels = []
    for seed in range(60):
        scene = make_scene(seed, "easy", 33)
        figure = scene.main.figure
        assert ((figure.pose.body > 0) & (figure.pose.body < 1)).all(), seed
        assert (figure.pose.hands > -0.02).all() and (figure.pose.hands < 1.02).all(), seed
        speed = np.linalg.norm(np.diff(figure.pose.body[:, :14], axis=0), axis=-1).max()
        assert speed < 0.09, seed
        travels.append(np.ptp(figure.pose.body[:, 1, 0]))
        feet = figure.pose.body[:, [10, 13], 1].max(axis=1)
        if "jumps" not in scene.main.steps.named("moves", 4.0):
            assert np.ptp(feet) < 0.03, seed  # a foot is on the floor
    assert np.mean(travels) > 0.12


def test_bones_keep_their_lengths_in_space():
    body = make_scene(1, "easy", 1).main.look.body
    joints = joints_of(body, make_scene(3, "easy", 33).main.figure.dance)
    for start, end in ((2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13), (0, 1)):
        length = np.linalg.norm(joints[:, start] - joints[:, end], axis=-1)
        np.testing.assert_allclose(length, length[0], atol=1e-9)


def test_a_foot_stays_where_it_stands():
    body = make_scene(1, "easy", 1).main.look.body
    for seed in range(10):
        steps = choreograph(seed, 3.0)
        dance = dance_of(steps, body, 48, 16)
        c = channels_at(steps, np.arange(48) / 16)
        ankles = joints_of(body, dance)[:, [13, 10], :2] + dance.path[:, None]
        for k, side in enumerate(("left", "right")):
            stands = (c[f"lift_{side}"] < 1e-6) & (c["hop"] < 1e-6)
            both = (
                stands[1:]
                & stands[:-1]
                & (np.abs(np.diff(c[f"foot_{side}"])) < 1e-9)
                & (np.abs(np.diff(c["yaw"])) < 1e-9)
            )
            moved = np.linalg.norm(np.diff(ankles[:, k], axis=0), axis=-1)
            assert not both.any() or moved[both].max() < 0.02 * body.leg + 1e-6


def test_every_move_occurs_and_every_one_moves():
    found = {name for seed in range(120) for name in choreograph(seed, 4.0).named("moves", 4.0)}
    assert found == set(MOVES)
    rng = np.random.default_rng(0)
    for name, move in MOVES.items():
        assert all(key for key in move(rng, 1)), name


def test_rotations_are_rotations_and_lean_where_they_say():
    angles = np.random.default_rng(0).uniform(-2, 2, (3, 20))
    matrices = rotation(*angles)
    np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), np.tile(np.eye(3), (20, 1, 1)), atol=1e-12)
    zero, some = np.zeros(1), np.full(1, 0.5)
    assert rotation(some, zero, zero)[0, 0, 2] > 0  # a turn to the dancer's left: the front points to the right
    assert rotation(zero, some, zero)[0, 0, 1] < 0  # leaning to the left moves the hips to the other side
    assert rotation(zero, zero, some)[0, 1, 2] > 0  # bending forward: the front points down


def test_pairs_are_true_and_the_wrong_dance_is_far_away():
    wrong_pck, wrong_psnr = [], []
    for seed in range(6):
        pair = make_pair(seed, "easy", 33)
        truth, wrong = pair.truth.main.figure, pair.wrong.main.figure
        expected = make_figure(
            pair.reference.main.look.body,
            pair.driving.main.figure.dance,
            tuple(pair.reference.main.figure.pose.body[0, 1]),
            1.0,
        )
        np.testing.assert_allclose(truth.pose.body, expected.pose.body, atol=1e-7)
        assert ((truth.pose.body > 0) & (truth.pose.body < 1)).all(-1).mean() > 0.97
        gap = np.abs(pair.reference.main.figure.pose.body[0] - truth.pose.body[0]).max()
        assert gap > 0.05
        box = np.ptp(truth.pose.body[1:, :14], axis=1).max(axis=-1)
        distance = np.linalg.norm(truth.pose.body[1:] - wrong.pose.body[1:], axis=-1)[:, [3, 4, 6, 7]]
        wrong_pck.append((distance < 0.1 * box[:, None]).mean())
        right_frames, wrong_frames = (render(scene, 64, 64) for scene in (pair.truth, pair.wrong))
        union = (right_frames.masks | wrong_frames.masks)[1:]
        error = (right_frames.frames[1:].astype(float) - wrong_frames.frames[1:])[union]
        wrong_psnr.append(10 * np.log10(255**2 / (error**2).mean()))
    assert np.mean(wrong_pck) < 0.35 and np.mean(wrong_psnr) < 13


def test_a_pair_without_a_gap_starts_as_its_picture():
    pair = make_pair(3, "easy", 5, start_gap=False, driving_aspect=0.75)
    np.testing.assert_allclose(pair.truth.main.figure.pose.body[0], pair.reference.main.figure.pose.body[0], atol=1e-7)
    same = realigned(pair.truth.main.figure, pair.truth.main.figure.pose, 1.0)
    assert same == pair.truth.main.figure or len(same) == 5
