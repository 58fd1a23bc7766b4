"""Pose following: published values, and clips whose answer is known."""

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from steadydancer.models import metrics
from steadydancer.models.metrics.assignment import assign

CASES = ["noise", "lag", "frozen", "mirrored", "jump", "lost", "calm", "half", "torsoless", "invisible"]
SWAPPED = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]
Clip = tuple[np.ndarray, np.ndarray]
Dance = Callable[..., Clip]
Same = Callable[..., None]


@pytest.mark.parametrize("case", CASES)
def test_published_values(golden: Mapping[str, np.ndarray], case: str, same: Same) -> None:
    size = golden["pose.width_height"]

    def part(name: str, otherwise: str) -> np.ndarray:
        return golden[name if (name := f"pose.{case}.{name}") in golden else otherwise]

    driven_visible = part("driven_visible", "pose.driven_visible")
    render, visible = part("render", "pose.noise.render"), part("render_visible", "pose.noise.render_visible")
    ours = metrics.pose_metrics(golden["pose.driven"] * size, driven_visible, render * size, visible, *size)
    inputs = {"render", "render_visible", "driven_visible"}
    names = {name.split(".")[2]: name for name in golden if name.startswith(f"pose.{case}.")}
    expected = {short: golden[name] for short, name in names.items() if short not in inputs}
    assert set(expected) == set(ours)
    same(ours, expected)


def test_a_perfect_render_has_nothing_to_find(dance: Dance) -> None:
    points, visible = dance(1, 40)
    ours = metrics.pose_metrics(points, visible, points, visible, 400, 300)
    for key in ("pck_10", "pck_detected_50", "oks", "oks_ap", "motion_ratio", "velocity_correlation", "jerk_ratio"):
        assert ours[key] == pytest.approx(1), key
    for key in ("akd_px", "akd_l1_px", "akd_torso", "mkr", "missing_rate", "lag"):
        assert ours[key] == 0, key
    assert ours["jump_excess"] == pytest.approx(1) and math.isnan(ours["extra_rate"])
    assert ours["torso_rule"] == 1 and ours["curve"].shape == (17,) and ours["speed"].shape == (39,)


@pytest.mark.parametrize("lag", [-5, -1, 3, 8])
def test_a_render_that_is_late_has_a_positive_lag(lag: int, dance: Dance) -> None:
    track, visible = dance(2, 60)
    ours = metrics.pose_metrics(track[10:50], visible[:40], track[10 - lag : 50 - lag], visible[:40], 400, 300)
    assert ours["lag"] == lag and ours["lag_correlation"] == pytest.approx(1)


def test_of_equal_correlations_the_shorter_lag_counts_and_then_the_positive_one() -> None:
    points, visible = np.zeros((20, 18, 2)), np.ones((20, 18), bool)
    points[1::2, :, 0] = 10  # to and fro: every second lag correlates fully
    assert metrics.pose_metrics(points, visible, points, visible, 400, 300)["lag"] == 0
    opposite = metrics.pose_metrics(points, visible, 10 - points, visible, 400, 300)
    assert opposite["lag"] == 1 and opposite["curve"][7:10] == pytest.approx([1, -1, 1])


def test_a_slip_of_the_estimator_is_left_out_of_the_correlation() -> None:
    """A step more than three times as long as nearly all driven ones is left out, a shorter one counts."""
    points, visible = np.zeros((41, 18, 2)), np.ones((41, 18), bool)
    points[1::2, :, 0] = 10
    for slip, is_left_out in ((28, False), (31, True)):
        render = points.copy()
        render[20:, 4, 1] += slip  # across the motion, so that it can only lower the correlation
        value = metrics.pose_metrics(points, visible, render, visible, 400, 300)["velocity_correlation"]
        assert (value == pytest.approx(1)) == is_left_out


def test_a_mirrored_render_correlates_better_when_mirrored(dance: Dance) -> None:
    points, visible = dance(3, 40)
    mirrored = points[:, SWAPPED] * (-1, 1) + (400, 0)
    ours = metrics.pose_metrics(points, visible, mirrored, visible, 400, 300)
    assert ours["mirror_correlation"] == pytest.approx(1) and ours["velocity_correlation"] < 0.5


def test_a_frozen_render_has_no_correlation_and_no_lag(dance: Dance) -> None:
    points, visible = dance(4, 40)
    frozen = np.repeat(points[:1], 40, axis=0)
    ours = metrics.pose_metrics(points, visible, frozen, visible, 400, 300)
    assert (ours["motion_ratio"], ours["velocity_correlation"], ours["mirror_correlation"]) == (0, 0, 0)
    assert np.isnan([ours["lag"], ours["lag_correlation"], ours["jump"], *ours["curve"]]).all()


def test_nobody_in_the_driving_video_leaves_nothing_to_measure(dance: Dance) -> None:
    points, visible = dance(5, 12)
    ours = metrics.pose_metrics(points, visible & False, points, visible, 400, 300)
    values = {key for key, value in ours.items() if not np.isnan(value).all()}
    assert values == {"torso_rule", "extra_rate", "jump"} and ours["torso_rule"] == 0 and ours["extra_rate"] == 1


def test_nobody_in_the_render_is_wrong_everywhere(dance: Dance) -> None:
    points, visible = dance(5, 12)
    ours = metrics.pose_metrics(points, visible, points, visible & False, 400, 300)
    assert (ours["pck_50"], ours["oks"], ours["oks_ap"], ours["mkr"], ours["missing_rate"]) == (0, 0, 0, 1, 1)
    for key in ("pck_detected_50", "akd_px", "motion_ratio", "velocity_correlation", "lag", "jerk_ratio", "jump"):
        assert math.isnan(ours[key]), key


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 9])
def test_short_clips_leave_out_what_needs_more_frames(num_frames: int, dance: Dance) -> None:
    points, visible = dance(6, num_frames)
    ours = metrics.pose_metrics(points, visible, points + 1, visible, 400, 300)
    assert ours["akd_px"] == pytest.approx(math.sqrt(2)) and ours["akd_l1_px"] == pytest.approx(1)
    assert math.isnan(ours["motion_ratio"]) == (num_frames < 2) and ours["speed"].shape == (num_frames - 1,)
    assert math.isnan(ours["jerk_ratio"]) == (num_frames < 4) and math.isnan(ours["jump"])
    # One step has one term at lag 0 and none elsewhere.
    assert (~np.isnan(ours["curve"])).sum() == {1: 0, 2: 1}.get(num_frames, 2 * ((num_frames - 1) // 2) + 1)


def test_torso_rules(dance: Dance) -> None:
    points, visible = dance(7, 6)
    points[:, 1], points[:, 8], points[:, 11] = (200, 100), (180, 200), (230, 180)
    points[:, 2], points[:, 5] = (150, 110), (250, 110)

    def rule(*hidden: int) -> tuple[float, int]:
        seen = visible.copy()
        seen[:, list(hidden)] = False
        return metrics.torso_length(points, seen)

    assert rule() == (pytest.approx(math.hypot(5, 90)), 1)
    assert rule(11) == (pytest.approx(math.hypot(20, 100)), 2)
    assert rule(8) == (pytest.approx(math.hypot(30, 80)), 2)
    assert rule(8, 11) == rule(1) == (pytest.approx(130), 3)
    length, number = rule(1, 2)
    assert math.isnan(length) and number == 0
    points[2, :, 0] = math.nan  # hidden in one frame: the others give the length
    assert rule() == (pytest.approx(math.hypot(5, 90)), 1)


def test_points_that_are_not_finite_count_as_invisible(dance: Dance, same: Same) -> None:
    points, visible = dance(9, 12)
    holes, hidden = points.copy(), visible.copy()
    holes[3, 4], holes[7, 6, 1], hidden[3, 4], hidden[7, 6] = math.nan, math.inf, False, False
    ours = metrics.pose_metrics(points, visible, holes, visible, 400, 300)
    same(ours, metrics.pose_metrics(points, visible, points, hidden, 400, 300))
    assert ours["missing_rate"] == pytest.approx(2 / (12 * 18))


def test_oks_needs_three_joints_and_an_area(dance: Dance) -> None:
    points, visible = dance(10, 4)
    visible[0], visible[1] = False, False
    visible[0, :2] = visible[1, :3] = True
    points[2, :, 0] = 50  # all joints on one line
    frames = metrics.pose_metrics(points, visible, points, visible, 400, 300)["oks_frames"]
    np.testing.assert_array_equal(frames, [math.nan, 1, math.nan, 1])


def test_shapes_that_do_not_fit_are_refused(dance: Dance) -> None:
    points, visible = dance(8, 6)
    for wrong in ((points[:5], visible), (points, visible[:5]), (points[:, :17], visible[:, :17])):
        with pytest.raises(ValueError, match="Expected points"):
            metrics.pose_metrics(points, visible, *wrong, 400, 300)
    with pytest.raises(ValueError, match="no area"):
        metrics.pose_metrics(points, visible, points, visible, 0, 300)


def test_box_pck_of_a_known_error() -> None:
    """The box is that of the visible ones of all 14 joints, whatever is scored; frame 0 does not count."""
    points, visible = np.zeros((3, 18, 2)), np.ones((3, 18), bool)
    points[:, 0], points[:, 10], points[:, 17] = (0, 0), (40, 100), (500, 500)  # an ear is outside the box
    render = points.copy()
    render[0] += 50
    render[1, list(metrics.LIMBS)] += (6, 8)
    render[2, [3, 4]] += (6, 8.01)
    assert metrics.box_pck(points, visible, render, visible, metrics.LIMBS) == 6 / 8
    assert metrics.box_pck(points, visible, render, visible) == 26 / 28
    assert metrics.box_pck(points, visible, render, visible, metrics.LIMBS, first_frame=0) == 6 / 12
    assert metrics.box_pck(points, visible, render, visible, metrics.LIMBS, threshold=0.09) == 2 / 8
    lost = visible.copy()
    lost[2, 7] = False
    assert metrics.box_pck(points, visible, render, lost, metrics.LIMBS) == 5 / 8
    assert metrics.box_pck(points, lost, render, visible, metrics.LIMBS) == 5 / 7
    assert math.isnan(metrics.box_pck(points[:1], visible[:1], render[:1], visible[:1]))
    assert metrics.LIMBS == (3, 4, 6, 7)


def test_people_are_matched_by_similarity(golden: Mapping[str, np.ndarray]) -> None:
    size = golden["pose.width_height"]
    driven, render = golden["people.driven"] * size, golden["people.render"] * size
    visible, found = golden["people.driven_visible"], golden["people.render_visible"]
    ours = metrics.people_metrics(driven, visible, render, found, *size)
    np.testing.assert_allclose(ours["oks_matrix"], golden["people.oks_matrix"], atol=1e-12)
    assert ours["assignment"].tolist() == golden["people.assignment"].tolist() and ours["num_extra"] == 1
    np.testing.assert_allclose([one["pck_10"] for one in ours["people"]], golden["people.pck_10"])
    fewer = metrics.people_metrics(driven, visible, render[2:], found[2:], *size)
    assert fewer["assignment"].tolist() == [0, -1] and fewer["num_extra"] == 0
    assert fewer["people"][1]["missing_rate"] == 1 and fewer["people"][1]["pck_10"] == 0
    nobody = metrics.people_metrics(driven, visible, render[:0], found[:0], *size)
    assert nobody["oks_matrix"].shape == (2, 0) and nobody["assignment"].tolist() == [-1, -1]


def test_the_assignment_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows, columns = (int(n) for n in rng.integers(1, 6, 2))
        gains = rng.normal(size=(rows, columns)).round(int(rng.integers(3)))
        choice = assign(gains)
        used = [column for column in choice if column >= 0]
        assert len({*used}) == len(used) == min(rows, columns)
        wide = gains if rows <= columns else gains.T
        best = max(
            sum(wide[i, j] for i, j in enumerate(order))
            for order in itertools.permutations(range(wide.shape[1]), wide.shape[0])
        )
        assert sum(gains[i, j] for i, j in enumerate(choice) if j >= 0) == pytest.approx(best)


def test_start_gap_in_torso_lengths(golden: Mapping[str, np.ndarray]) -> None:
    size = golden["pose.width_height"]
    driven, visible = golden["pose.driven"] * size, golden["pose.driven_visible"]
    length, _ = metrics.torso_length(driven, visible)
    reference = golden["gap.reference"] * size, golden["gap.reference_visible"]
    gap = metrics.start_gap(*reference, driven[0], visible[0], length)
    assert gap == pytest.approx(golden["gap.value"], rel=1e-9)
    assert math.isnan(metrics.start_gap(reference[0], reference[1] & False, driven[0], visible[0], length))


def test_a_pair_counts_as_resolved_if_it_has_a_gap_and_no_jump() -> None:
    gaps = np.array([0.5, 0.9, 0.49, 0.7, math.nan])
    excesses = np.array([1.3, 1.31, 0.8, math.nan, 1.0])
    assert metrics.resolved_share(gaps, excesses) == (0.5, 2)
    share, count = metrics.resolved_share(gaps[2:3], excesses[2:3])
    assert math.isnan(share) and count == 0


def test_a_hand_is_measured_by_its_own_length() -> None:
    hand = np.random.default_rng(0).uniform(0, 40, (5, 21, 2))
    hand[:, 0], hand[:, 9] = (0, 0), (30, 40)
    visible = np.ones((5, 21), bool)
    render = hand + np.array([3, 3.9])
    render[:, 20] += 1
    ours = metrics.hand_metrics(hand, visible, render, visible)
    assert ours["hand_px"] == 50 and ours["pck_10"] == pytest.approx(20 / 21)
    visible[:, 9] = False
    assert math.isnan(metrics.hand_metrics(hand, visible, render, visible)["pck_50"])
