"""Pose scores of a figure whose joints stand at whole numbers, so that each score can be told by hand."""

import numpy as np
import pytest

from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.pipelines.curate.scores.pose_scores import (
    MIRRORED,
    appearance_change,
    count_tracks,
    pose_scores,
    torso_length,
    without_flips,
)

FPS, ASPECT = 10.0, 0.5
NECK, R_SHOULDER, L_SHOULDER, R_HIP, R_ANKLE, L_HIP, L_ANKLE = 1, 2, 5, 8, 10, 11, 13
# In hundredths of the picture's height, from the neck; y points down. The torso is 20 long, the body 60 high.
PLACES = np.array(
    [
        *[(0, -8), (0, 0)],  # nose, neck
        *[(-8, 0), (-9, 10), (-10, 18), (8, 0), (9, 10), (10, 18)],  # right and left arm
        *[(-4, 20), (-4, 34), (-4, 48), (4, 20), (4, 34), (4, 48)],  # right and left leg
        *[(-1, -10), (1, -10), (-3, -12), (3, -12)],  # eyes, ears
    ],
    np.float64,
)


def figure(num_frames: int, x: float = 0.25, y: float = 0.3) -> np.ndarray:
    """Joints [F, 18, 2] in shares of a picture half as wide as high; (x, y) is the neck in picture heights."""
    return np.tile((np.array([x, y]) + PLACES / 100) / [ASPECT, 1], (num_frames, 1, 1))


def posed(body: np.ndarray, visible: np.ndarray | None = None) -> PoseSequence:
    visible = np.ones(body.shape[:2], bool) if visible is None else visible
    return PoseSequence(body, visible, np.full((len(body), 2, 21, 2), -1.0))


def scored(body: np.ndarray, visible: np.ndarray | None = None) -> dict[str, float | None]:
    pose = posed(body, visible)
    return pose_scores(pose, pose.body_visible.astype(np.float32), ASPECT, FPS)


def seen_but(num_frames: int, *hidden: tuple[int | slice, int | list[int] | slice]) -> np.ndarray:
    visible = np.ones((num_frames, 18), bool)
    for frames, joints in hidden:
        visible[frames, joints] = False
    return visible


def test_a_figure_that_stands_still_has_the_scores_of_its_drawing() -> None:
    scores = scored(figure(4))
    assert scores == pytest.approx(
        {
            "pose_confidence": 1.0,
            "missing_pose_ratio": 0.0,
            "visible_joint_ratio": 1.0,
            "head_ratio": 1.0,
            "subject_height": 0.60,  # from the ears at −12 to the ankles at 48
            "in_frame_ratio": 1.0,
            "head_above_hips_ratio": 1.0,
            "pose_jerk": 0.0,
            "pose_motion": 0.0,
            "pose_gap": 0,
            "subject_area": 0.40 * 0.60,  # the wrists are 20 apart, of a width of 50
            "subject_offset": 0.0,
            "track_continuity": 1.0,
            "torso_tilt_deg": 0.0,
            "rotation_rate": 0.0,
            "airborne_height": 0.0,
        },
        abs=1e-9,
    )


def test_shares_count_joints_and_frames_that_are_seen() -> None:
    visible = seen_but(
        10,
        (0, NECK),  # not usable: no neck
        (slice(1, 4), slice(2, 15)),  # not usable: neck and four more
        (4, slice(2, 14)),  # usable: neck, nose, eyes and ears are just six
        (5, [14, 15, 16, 17]),  # no head
        (slice(6, 8), [14, 15, 17]),  # one ear is a head
    )
    confidence = np.linspace(0, 1, 180).reshape(10, 18) ** 2
    scores = pose_scores(posed(figure(10), visible), confidence, ASPECT, FPS)
    assert scores["pose_confidence"] == pytest.approx(confidence.mean())
    unmeasured = pose_scores(posed(figure(10), visible), None, ASPECT, FPS)
    assert unmeasured == scores | {"pose_confidence": None}
    assert scores["missing_pose_ratio"] == pytest.approx(4 / 10) and scores["pose_gap"] == 4
    assert scores["visible_joint_ratio"] == pytest.approx((180 - 1 - 3 * 13 - 12 - 4 - 2 * 3) / 180)
    assert scores["head_ratio"] == pytest.approx(9 / 10)
    for joint in (14, 15, 16, 17):  # each of them alone is a head, and the nose is none
        hidden = [one for one in (14, 15, 16, 17) if one != joint]
        assert scored(figure(2), seen_but(2, (0, hidden), (1, [14, 15, 16, 17])))["head_ratio"] == 0.5
    # Two gaps: the longest one counts.
    gaps = seen_but(12, (slice(1, 3), NECK), (slice(4, 7), NECK), (slice(9, 11), NECK))
    assert scored(figure(12), gaps)["pose_gap"] == 3
    # One that lasts to the end, and one from the beginning.
    assert scored(figure(9), seen_but(9, (slice(0, 2), NECK), (slice(5, 9), NECK)))["pose_gap"] == 4


def test_what_is_never_seen_is_null_and_not_zero() -> None:
    nobody = scored(figure(3), np.zeros((3, 18), bool))
    known = {"pose_confidence", "missing_pose_ratio", "visible_joint_ratio", "head_ratio", "pose_gap"}
    assert {name for name, value in nobody.items() if value is not None} == known
    assert nobody["missing_pose_ratio"] == 1 and nobody["pose_gap"] == 3 and nobody["head_ratio"] == 0
    # Joints that are seen without a neck: in the picture or not can be told, a place cannot.
    headless = scored(figure(3), seen_but(3, (slice(None), NECK)))
    assert {name for name, value in headless.items() if value is not None} == known | {"in_frame_ratio"}
    # Without hips nothing is known of the torso's angle, without feet nothing of flights; the rest is measured.
    bust = scored(figure(3), seen_but(3, (slice(None), slice(8, 14))))
    assert [name for name, value in bust.items() if value is None] == [
        "head_above_hips_ratio",
        "torso_tilt_deg",
        "rotation_rate",
        "airborne_height",
    ]
    # One frame has no neighbour, two have no second difference.
    one, two = scored(figure(1)), scored(figure(2))
    nulls = ["pose_jerk", "pose_motion", "track_continuity", "rotation_rate"]
    assert [name for name, value in one.items() if value is None] == nulls
    assert [name for name, value in two.items() if value is None] == ["pose_jerk"]


def test_joints_outside_the_picture_are_cut_from_the_box_and_told() -> None:
    # The neck 8 from the left edge and 10 from the top. Outside are the right elbow (−1) and wrist (−2) and the ears
    # (−2): four of 18. The eyes and the right shoulder lie on the edge, which is inside.
    body = figure(2, x=0.08, y=0.1)
    body[:, [14, 15], 1] = 0.0
    body[:, 2, 0] = 0.0
    scores = scored(body)
    assert scores["in_frame_ratio"] == pytest.approx(14 / 18)
    assert scores["subject_height"] == pytest.approx(0.58)  # from the edge to the ankles at 10 + 48
    assert scores["subject_area"] == pytest.approx(0.18 / 0.5 * 0.58)  # from the edge to the left wrist at 8 + 10
    assert scores["subject_offset"] == pytest.approx(0.5 - 0.18 / 0.5 / 2)
    # A joint that is not seen does not count, wherever it is said to be.
    hidden = scored(body, seen_but(2, (slice(None), [3, 4, 16, 17])))
    assert hidden["in_frame_ratio"] == 1
    # The right and the lower edge are inside, what lies beyond is not.
    low = figure(2, x=0.40, y=0.52)
    assert scored(low)["in_frame_ratio"] == pytest.approx(1)
    low[:, [R_ANKLE, L_ANKLE], 1] = 1.01
    assert scored(low)["in_frame_ratio"] == pytest.approx(16 / 18)
    assert scored(low)["subject_height"] == pytest.approx(0.60)


def test_place_is_the_median_over_usable_frames() -> None:
    body = np.concatenate([figure(3, x=0.25), figure(2, x=0.35), figure(4, x=0.10)])
    scores = scored(body)
    # Offsets 0 (three times), 0.2 (twice) and 0.3 (four times, the right wrist on the edge).
    assert scores["subject_offset"] == pytest.approx(0.2)
    unseen = seen_but(9, (slice(5, 9), NECK))
    assert scored(body, unseen)["subject_offset"] == pytest.approx(0.0)
    # Heights 60, 60, 30 (legs hidden): the median, of usable frames alone.
    legless = seen_but(3, (2, [9, 10, 12, 13]))
    assert scored(figure(3), legless)["subject_height"] == pytest.approx(0.60)
    legless = seen_but(3, (slice(1, 3), [9, 10, 12, 13]))
    assert scored(figure(3), legless)["subject_height"] == pytest.approx(0.32)
    assert scored(figure(3), legless)["subject_area"] == pytest.approx(0.4 * 0.32)


def test_a_track_is_continuous_where_boxes_overlap_by_three_tenths() -> None:
    # Boxes are 20 wide: shifted by s they overlap by (20 − s) / (20 + s).
    for shift, continuous in ((10.7, 1.0), (10.8, 0.5)):  # 0.303 and 0.299
        body = figure(3, x=0.2)
        body[2, :, 0] += shift / 100 / ASPECT
        assert scored(body)["track_continuity"] == continuous
    # And 60 high.
    for shift, continuous in ((32.0, 1.0), (32.5, 0.5)):
        body = figure(3, y=0.13)
        body[2, :, 1] += shift / 100
        assert scored(body)["track_continuity"] == continuous
    # Boxes apart in both directions have no area in common, and frames between which one is missing are no neighbours.
    body = figure(4, x=0.12, y=0.13)
    body[2:] += (0.5, 0.7)
    assert scored(np.clip(body, 0, 1))["track_continuity"] == pytest.approx(2 / 3)
    assert scored(body, seen_but(4, (2, NECK)))["track_continuity"] == 1
    assert scored(body[::2], seen_but(2))["track_continuity"] == 0


def test_speed_is_torsos_a_second_and_jerk_torsos_a_frame_squared() -> None:
    body = figure(5)
    # Left wrist in x (10 a frame, 3 frames long), right knee in y once by 40: torso 20.
    body[:, 7, 0] += np.array([0, 10, 20, 30, 30]) / 100 / ASPECT
    body[2:, 9, 1] += 0.4
    scores = scored(body)
    assert scores["pose_motion"] == pytest.approx((3 * 0.5 + 2.0) / (4 * 18) * FPS)
    # Second differences: of the wrist 0, 0, 0.5; of the knee 2, 2, 0; of all else 0. 54 values, three of them not 0.
    second = np.sort([0.5, 2.0, 2.0] + [0.0] * 51)
    assert scores["pose_jerk"] == pytest.approx(np.interp(0.95 * 53, np.arange(54), second))
    assert 0 < scores["pose_jerk"] < 0.5  # type: ignore[operator]


def test_motion_and_jerk_are_not_measured_across_unseen_frames() -> None:
    """A joint that is lost and found elsewhere did not fly there."""
    body, visible = figure(9), seen_but(9, (slice(3, 5), [4, 7]))
    body[3:5, [4, 7]] = 0.0  # where an estimator leaves what it does not see
    body[5:, [4, 7], 1] += 0.3  # and where it finds them again
    scores = scored(body, visible)
    assert scores["pose_motion"] == pytest.approx(0, abs=1e-9) and scores["pose_jerk"] == pytest.approx(0, abs=1e-9)
    seen = scored(body)
    assert seen["pose_motion"] > 0.9 and seen["pose_jerk"] > 0.5  # type: ignore[operator]
    # A joint that is not seen in the middle frame has no second difference, whatever its ends do.
    blinking = seen_but(3, (1, [4, 7, 3, 6]))
    moved = figure(3)
    moved[2, [3, 4, 6, 7]] += 0.2
    assert scored(moved, blinking)["pose_jerk"] == 0 and scored(moved, blinking)["pose_motion"] == 0
    assert scored(moved)["pose_jerk"] > 1  # type: ignore[operator]


def turned(angles_deg: np.ndarray) -> np.ndarray:
    """The figure turned about its hips, clockwise in the picture, by an angle a frame."""
    hips = np.array([0, 20.0])
    out = []
    for angle in np.radians(angles_deg):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        out.append((np.array([0.25, 0.5]) + (PLACES - hips) @ turn.T / 100) / [ASPECT, 1])
    return np.array(out)


def test_the_torsos_angle_is_unwrapped_where_it_passes_head_down() -> None:
    # On the head, swaying by 20 degrees a frame: each step passes from 170 to −170 degrees.
    scores = scored(turned(np.where(np.arange(12) % 2, 170.0, 190.0)))
    assert scores["rotation_rate"] == pytest.approx(np.radians(20) * FPS)
    assert scores["torso_tilt_deg"] == pytest.approx(170) and scores["head_above_hips_ratio"] == 0
    # Round and round, both ways, in uneven steps: none is larger than 40 degrees.
    for sense in (1, -1):
        steps = sense * np.tile([30.0, 35.0, 40.0], 12)
        wheel = scored(turned(np.concatenate([[0.0], np.cumsum(steps)])))
        assert wheel["rotation_rate"] == pytest.approx(np.radians(40) * FPS)
        assert 0.3 < wheel["head_above_hips_ratio"] < 0.7  # type: ignore[operator]


def test_tilt_is_a_percentile_of_frames_whose_torso_is_seen() -> None:
    angles = np.zeros(21)
    angles[3], angles[8], angles[15] = 50, -40, 30
    scores = scored(turned(angles))
    assert scores["torso_tilt_deg"] == pytest.approx(40)  # the second largest of 21 is their 95th percentile
    assert scores["rotation_rate"] == pytest.approx(np.radians(50) * FPS)  # there and back: two of 20 steps
    for hidden in (NECK, R_HIP, L_HIP):
        visible = seen_but(21, (3, hidden), (8, hidden))
        assert scored(turned(angles), visible)["torso_tilt_deg"] == pytest.approx(3)  # a tenth of 30
        assert scored(turned(angles), visible)["rotation_rate"] < np.radians(31) * FPS  # type: ignore[operator]
    # Sideways is neither up nor down: 90 degrees either way.
    assert scored(turned(np.array([90.0, -90.0])))["torso_tilt_deg"] == pytest.approx(90)


def test_a_turn_is_not_measured_across_unseen_frames() -> None:
    angles = np.where(np.arange(10) < 5, 0.0, 60.0)
    visible = seen_but(10, (5, R_HIP))
    assert scored(turned(angles), visible)["rotation_rate"] == pytest.approx(0, abs=1e-9)
    assert scored(turned(angles))["rotation_rate"] > np.radians(20) * FPS  # type: ignore[operator]


def test_the_ground_is_where_the_lower_foot_mostly_is() -> None:
    body = figure(21, y=0.5)
    feet = [R_ANKLE, L_ANKLE]
    # The right foot alone leaves the ground: the lower one, the left, does not.
    body[5:15, R_ANKLE, 1] -= 0.2
    assert scored(body)["airborne_height"] == pytest.approx(0, abs=1e-9)
    # Both: 30, 20 and 10 hundredths in one frame each, torsos of 20. The 95th percentile of 21 is the second largest.
    for frame, height in ((2, 0.3), (9, 0.2), (17, 0.1)):
        body[frame, feet, 1] = 0.98 - height
    assert scored(body)["airborne_height"] == pytest.approx(1.0)
    # One frame in which both seem to be far below the floor does not lower it.
    body[4, feet, 1] = 1.98
    assert scored(body)["airborne_height"] == pytest.approx(1.0)
    # A frame in which one foot is hidden says nothing.
    assert scored(body, seen_but(21, (2, R_ANKLE), (9, L_ANKLE), (17, R_ANKLE)))["airborne_height"] == pytest.approx(0)


def test_head_and_hips_are_compared_where_both_are_seen() -> None:
    body = figure(10)
    body[:3, NECK, 1] = 0.51  # below the hips at 30 + 20
    assert scored(body)["head_above_hips_ratio"] == pytest.approx(0.7)
    for hidden in (R_HIP, L_HIP):
        assert scored(body, seen_but(10, (slice(0, 2), hidden)))["head_above_hips_ratio"] == pytest.approx(7 / 8)
    # The middle of the hips counts, not one of them.
    body[:, R_HIP, 1], body[:, L_HIP, 1] = 0.2, 0.9
    assert scored(body)["head_above_hips_ratio"] == pytest.approx(1.0)


def test_a_torso_is_measured_by_hips_else_by_shoulders() -> None:
    body = figure(5) * [ASPECT, 1]
    body[3:, [R_HIP, L_HIP], 1] += 0.1  # 20, 20, 20, 30, 30
    assert torso_length(body, seen_but(5)) == pytest.approx(0.20)
    assert torso_length(body, seen_but(5, (slice(0, 2), R_HIP))) == pytest.approx(0.30)
    assert torso_length(body, seen_but(5, (slice(0, 2), NECK))) == pytest.approx(0.30)
    assert torso_length(body, seen_but(5, (slice(None), L_HIP))) == pytest.approx(1.3 * 0.16)
    body[2:, R_SHOULDER, 0] -= 0.04
    assert torso_length(body, seen_but(5, (slice(None), L_HIP))) == pytest.approx(1.3 * 0.20)
    assert torso_length(body, seen_but(5, (slice(None), L_HIP), (slice(2, 5), L_SHOULDER))) == pytest.approx(1.3 * 0.16)
    assert torso_length(body, seen_but(5, (slice(None), [L_HIP, R_SHOULDER]))) is None
    # All joints in one place: nothing to measure by.
    assert torso_length(np.full((2, 18, 2), 0.5), seen_but(2)) is None
    assert scored(np.full((2, 18, 2), 0.5))["pose_motion"] is None


def test_left_and_right_are_exchanged_back_with_what_is_seen_of_them() -> None:
    body = figure(6)
    visible = seen_but(6, (slice(None), 4))  # the right wrist is never seen
    flipped, flipped_visible = body.copy(), visible.copy()
    flipped[2:4], flipped_visible[2:4] = body[2:4][:, MIRRORED], visible[2:4][:, MIRRORED]
    restored, seen = without_flips(flipped, flipped_visible)
    np.testing.assert_array_equal(restored, body)
    np.testing.assert_array_equal(seen, visible)
    np.testing.assert_array_equal(flipped[2], body[2][MIRRORED])  # what was given is not changed
    assert flipped_visible[2, 7] == False  # noqa: E712
    # A joint whose counterpart is not seen says nothing of the sides, wherever that one is said to be.
    alone = figure(2)
    alone[1, 4, 0] += 0.2
    alone[1, 7] = alone[0, 4]
    lonely = np.isin(np.arange(18), [NECK, 4])[None].repeat(2, axis=0)
    np.testing.assert_array_equal(without_flips(alone, lonely)[0], alone)
    assert [MIRRORED[k] for k in MIRRORED] == list(range(18))
    # Each joint's counterpart lies at the other side of the figure.
    np.testing.assert_array_equal(PLACES[MIRRORED], PLACES * [-1, 1])


def test_people_are_counted_by_their_median_height_in_frames_that_show_them() -> None:
    def person(scale: float, visible: np.ndarray | None = None) -> PoseSequence:
        return posed(figure(5) * [1, scale], visible)

    third = 1 / 3
    assert count_tracks([person(1), person(third + 1e-6), person(third - 1e-3)]) == (2, pytest.approx(third, abs=1e-4))
    # Taller than the main one: the share is cut to 1, and both count.
    assert count_tracks([person(0.5), person(1)]) == (2, 1.0)
    # Seen in two frames of five, in whole: as high as ever. One joint alone has no height.
    some = seen_but(5, (slice(0, 3), slice(None)))
    assert count_tracks([person(1), person(0.5, some)]) == (2, pytest.approx(0.5))
    dot = seen_but(5, (slice(None), slice(1, 18)))
    assert count_tracks([person(1), person(0.9, dot)]) == (1, 0.0)
    two = seen_but(5, (slice(None), slice(2, 18)))  # nose and neck: 8 of 60
    assert count_tracks([person(1), person(0.9, two)]) == (1, pytest.approx(0.9 * 8 / 60))
    # A main person without any height: everybody counts.
    assert count_tracks([person(1, dot), person(1), person(1)]) == (3, 0.0)
    # The median, not the mean or an end.
    part = seen_but(5, (slice(0, 2), slice(8, 14)))
    assert count_tracks([person(1), person(0.6, part)]) == (2, pytest.approx(0.6))


def test_a_torsos_colour_is_read_inside_its_corners() -> None:
    """Picture 50 wide and 100 high: shoulders at y 30, hips at y 50, columns 17 to 33."""
    frames = np.zeros((4, 100, 50, 3), np.uint8)
    frames[:, 30:51, 17:34] = (100, 50, 0)
    frames[2:, 30:51, 17:34] = (100, 80, 30)  # a change of 60 levels over three colours
    pose = posed(figure(4))
    assert appearance_change(frames, pose) == pytest.approx((30 + 30) / 3 / 255)
    # What is round it does not count.
    noisy = frames.copy()
    noisy[1, :30] = noisy[1, 51:] = noisy[1, :, :17] = noisy[1, :, 34:] = 255
    assert appearance_change(noisy, pose) == pytest.approx(20 / 255)
    # Where no shoulders are seen, nothing is known, and no change is told to or from it.
    assert appearance_change(frames, posed(figure(4), seen_but(4, (2, R_SHOULDER)))) == pytest.approx(0)
    assert appearance_change(frames, posed(figure(4), seen_but(4, (slice(0, 4, 2), L_SHOULDER)))) is None
    # Half of the shoulders' width is read below them where no hip is seen: rows 30 to 38.
    chest = frames.copy()
    chest[2:, 39:] = 255
    chest[2:, 30:39, 17:34] = (100, 50, 60)
    hipless = posed(figure(4), seen_but(4, (slice(None), [R_HIP, L_HIP])))
    assert appearance_change(chest, hipless) == pytest.approx(60 / 3 / 255)
    # Cut at the picture's edges; a torso outside of it has no colour.
    outside = figure(4)
    outside[1:3] += (2.0, 0.0)
    assert appearance_change(frames[:, :, :0], pose) is None
    edge = figure(4, x=0.0)
    left = np.zeros((4, 100, 50, 3), np.uint8)
    left[2:, 30:51, :9] = 51
    assert appearance_change(left, posed(edge)) == pytest.approx(0.2)
