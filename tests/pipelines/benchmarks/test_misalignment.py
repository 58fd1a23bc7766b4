"""Gaps of poses and pictures with a known answer."""

import json

import cv2
import numpy as np
import pytest

from steadydancer.datasets.benchmarks import KINDS
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.pipelines.benchmarks.candidates import File, measure_pair
from steadydancer.pipelines.benchmarks.config import XDanceConfig
from steadydancer.pipelines.benchmarks.drivers import motion_scores, person_blur
from steadydancer.pipelines.benchmarks.misalignment import (
    Box,
    flatness,
    framing_gap,
    person_box,
    shown_parts,
    skeleton_gap,
    start_gap,
)

# Shares of a square picture; the torso (neck to mid-hip) is 0.2 long, arms hang down.
STANDING = np.array(
    [
        [0.5, 0.2], [0.5, 0.3], [0.42, 0.3], [0.42, 0.4], [0.42, 0.5], [0.58, 0.3], [0.58, 0.4], [0.58, 0.5],
        [0.45, 0.5], [0.45, 0.65], [0.45, 0.8], [0.55, 0.5], [0.55, 0.65], [0.55, 0.8],
        [0.48, 0.18], [0.52, 0.18], [0.46, 0.19], [0.54, 0.19],
    ]
)  # fmt: skip
TORSO = 0.2


def pose_of(*bodies: np.ndarray, hidden: tuple[int, ...] = ()) -> PoseSequence:
    body = np.stack(bodies)
    seen = np.ones(body.shape[:2], bool)
    seen[:, list(hidden)] = False
    return PoseSequence(body, seen, np.full((len(body), 2, 21, 2), -1.0))


WHOLE = Box(0, 0, 1, 1)


def turned(body: np.ndarray, joint: int, about: int, degrees: float) -> np.ndarray:
    """Turn a joint about another, which keeps the limb's length."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    out = body.copy()
    out[joint] = body[about] + turn @ (body[joint] - body[about])
    return out


def longer(body: np.ndarray, factor: float) -> np.ndarray:
    """Stretch both legs."""
    out = body.copy()
    for hip, knee, ankle in ((8, 9, 10), (11, 12, 13)):
        out[knee] = body[hip] + factor * (body[knee] - body[hip])
        out[ankle] = out[knee] + factor * (body[ankle] - body[knee])
    return out


def test_boxes_of_visible_joints() -> None:
    assert person_box(pose_of(STANDING)) == pytest.approx((0.42, 0.18, 0.58, 0.8))
    half = pose_of(STANDING, hidden=(9, 10, 12, 13))
    assert person_box(half) == pytest.approx((0.42, 0.18, 0.58, 0.5))
    assert shown_parts(pose_of(STANDING)) - shown_parts(half) == {"leg_upper", "leg_lower"}
    assert person_box(pose_of(STANDING, hidden=tuple(range(1, 18)))) is None


@pytest.mark.parametrize(
    ("box", "gap"),
    [
        ((0.2, 0.2, 0.6, 0.6), 0),
        ((0.2, 0.2, 0.6, 0.4), 0.5),
        ((0.4, 0.2, 0.8, 0.6), 2 / 3),
        ((0.7, 0.7, 0.9, 0.9), 1),
    ],
)
def test_framing_is_what_boxes_do_not_share(box: tuple[float, ...], gap: float) -> None:
    one = Box(0.2, 0.2, 0.6, 0.6)
    assert framing_gap(one, Box(*box)) == pytest.approx(gap) == pytest.approx(framing_gap(Box(*box), one))


def test_a_body_of_another_size_and_place_has_the_same_skeleton() -> None:
    smaller = pose_of(0.3 + 0.5 * STANDING)
    assert skeleton_gap(smaller, pose_of(STANDING), 1, 1) == pytest.approx(0, abs=1e-12)
    wide = pose_of(STANDING * (0.5, 1))  # the same body in a picture twice as wide
    assert skeleton_gap(wide, pose_of(STANDING), 2, 1) == pytest.approx(0, abs=1e-12)


def test_longer_legs_count_by_their_share_of_the_limbs() -> None:
    # Four of eleven limbs: neck, shoulders, four of the arms, the trunk, four of the legs.
    gap = skeleton_gap(pose_of(longer(STANDING, 1.2)), pose_of(STANDING), 1, 1)
    assert gap == pytest.approx(4 / 11 * np.log(1.2))


def test_the_driving_frame_most_like_the_reference_counts() -> None:
    foreshortened = STANDING.copy()
    foreshortened[[4, 7]] = foreshortened[[3, 6]] + 0.02
    assert skeleton_gap(pose_of(STANDING), pose_of(foreshortened), 1, 1) > 0.2
    assert skeleton_gap(pose_of(STANDING), pose_of(foreshortened, STANDING), 1, 1) == pytest.approx(0, abs=1e-12)
    # A frame in which few limbs can be compared does not win by what it hides.
    few = pose_of(longer(STANDING, 1.5), longer(STANDING, 1.5))
    few.body_visible[1, [9, 10, 12, 13, 3, 4, 6, 7]] = False
    assert skeleton_gap(pose_of(STANDING), few, 1, 1) == pytest.approx(4 / 11 * np.log(1.5))


def test_too_few_limbs_are_not_measured() -> None:
    legs_only = pose_of(STANDING, hidden=tuple(range(8)))
    assert np.isnan(skeleton_gap(legs_only, pose_of(STANDING, hidden=(10, 13)), 1, 1))


def test_start_gap_is_of_posture_alone() -> None:
    moved = pose_of(0.3 + 0.5 * longer(STANDING, 1.3))
    assert start_gap(moved, pose_of(STANDING), 1, 1)[0] == pytest.approx(0, abs=1e-6)
    # A forearm of half a torso at a right angle to the other: √2 · 0.1 of 18 joints.
    bent = pose_of(turned(STANDING, 4, 3, 90))
    gap, reason = start_gap(bent, pose_of(STANDING), 1, 1)
    assert (gap, reason) == (pytest.approx(np.sqrt(2) * 0.1 / TORSO / 18, rel=1e-5), None)
    assert start_gap(pose_of(STANDING), pose_of(turned(STANDING, 4, 3, 90)), 1, 1)[0] == pytest.approx(gap, rel=1e-5)
    # Only the first driven pose counts.
    assert start_gap(bent, pose_of(turned(STANDING, 4, 3, 90), STANDING), 1, 1)[0] == pytest.approx(0, abs=1e-6)


def test_a_start_gap_that_cannot_be_measured_says_why() -> None:
    gap, reason = start_gap(pose_of(STANDING, hidden=(1,)), pose_of(STANDING), 1, 1)
    assert np.isnan(gap) and reason is not None and "too little of a person" in reason
    gap, reason = start_gap(pose_of(STANDING), pose_of(STANDING, hidden=(1,)), 1, 1)
    assert np.isnan(gap) and reason is not None and "shows a neck and a limb" in reason


def test_flat_colour_and_texture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    plain = np.full((256, 256, 3), 90, np.uint8)
    assert flatness(plain, WHOLE) == 1 and flatness(noise, WHOLE) < 0.01
    half = np.concatenate([plain[:, :128], noise[:, :128]], axis=1)
    assert flatness(half, WHOLE) == pytest.approx(0.5, abs=0.02)
    assert flatness(half, Box(0, 0, 0.45, 1)) == 1  # the person alone
    assert np.isnan(flatness(half, Box(0, 0, 0.01, 1)))


def test_motion_of_a_walk_at_a_known_speed() -> None:
    speed, fps = 0.5, 24  # torsos per second
    frames = [STANDING + np.array([k * speed * TORSO / fps, 0]) for k in range(24)]
    scores = motion_scores(pose_of(*frames), 1, fps)
    assert scores["motion"] == pytest.approx(speed)
    assert (scores["pose_change"], scores["occlusion"]) == (pytest.approx(0, abs=1e-12), 0)


def test_change_of_pose_and_occlusion() -> None:
    frames = [STANDING] * 8 + [turned(STANDING, 4, 3, 180)] * 8  # one wrist moves one torso
    pose = pose_of(*frames)
    pose.body_visible[:4, 10] = False
    scores = motion_scores(pose, 1, 8)  # half a second is four frames
    assert scores["pose_change"] == pytest.approx(1 / 18)
    assert scores["occlusion"] == pytest.approx(4 / 16 / 18)
    never = pose_of(*frames, hidden=(9, 10, 12, 13))  # not occluded: not in the picture
    assert motion_scores(never, 1, 8)["occlusion"] == 0


def test_nobody_moves_where_nobody_is_seen() -> None:
    scores = motion_scores(pose_of(STANDING, STANDING, hidden=tuple(range(18))), 1, 16)
    assert all(np.isnan(value) for value in scores.values())


def test_blur_is_of_the_person() -> None:
    rng = np.random.default_rng(1)
    sharp = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    soft = cv2.GaussianBlur(sharp, (0, 0), 2)
    mixed = np.concatenate([soft[:, :48], sharp[:, 48:]], axis=1)
    left, right = Box(0, 0, 0.45, 1), Box(0.55, 0, 1, 1)
    assert person_blur(mixed[None], [left]) > person_blur(mixed[None], [right]) + 0.2
    assert np.isnan(person_blur(mixed[None], [None]))


def test_what_cannot_be_measured_is_null_with_a_reason_and_gives_no_kind() -> None:
    def file(pose: PoseSequence) -> File:
        return File({"id": "x", "pose": pose.to_bytes(), "width": 64, "height": 64, "style": None, "flatness": None})

    shoulders = pose_of(STANDING, hidden=(0, 1, 3, 4, *range(6, 18)))  # a line, not a box
    one = measure_pair(file(shoulders), file(pose_of(STANDING)), XDanceConfig())
    assert [one.gap(kind) for kind in KINDS] == [None, pytest.approx(1), None, None]
    assert set(one.notes) == {"style_gap", "skeleton_gap", "start_gap"} and all(one.notes.values())
    one = measure_pair(file(shoulders), file(shoulders), XDanceConfig())
    assert [one.gap(kind) for kind in KINDS] == [None] * 4 and one.kinds == ()
    assert one.notes["framing_gap"] == "too few joints are visible to have a box"
    assert one.measured["height_ratio"] is None
    json.dumps(one.measured, allow_nan=False)


def test_hidden_legs_are_a_kind_of_framing() -> None:
    def file(pose: PoseSequence) -> File:
        return File({"id": "x", "pose": pose.to_bytes(), "width": 64, "height": 64, "style": None, "flatness": 0.5})

    half = pose_of(STANDING, hidden=(9, 10, 12, 13))
    one = measure_pair(file(half), file(pose_of(STANDING)), XDanceConfig())
    assert one.measured["hidden_parts"] == ["leg_lower", "leg_upper"] and one.kinds == ("framing",)
    assert one.gap("framing") == pytest.approx(1 - 0.32 / 0.62, rel=1e-6)
    assert measure_pair(file(pose_of(STANDING)), file(half), XDanceConfig()).kinds == ()
