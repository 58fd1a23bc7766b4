"""Seams, returns and drifts that are planted into clips whose values are known."""

import math

import numpy as np
import pytest

from steadydancer.models.metrics.window_seams import mean_by_window, reference_return, seam_jump


def clip(levels: list[int]) -> np.ndarray:
    """Grey frames of these levels."""
    return np.array(levels, np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)


def test_a_jump_is_measured_in_steps_of_the_motion() -> None:
    even = [2 * k for k in range(20)]
    assert seam_jump(clip(even), [8, 12]) == 1
    planted = [level + 6 * (k >= 8) for k, level in enumerate(even)]
    assert seam_jump(clip(planted), [8]) == 4
    assert seam_jump(clip(planted), [8, 12]) == pytest.approx(2.5)
    assert seam_jump(clip(planted), [9]) == 1
    # Neither a jump into frame 1 nor one between windows is the motion's own step.
    assert seam_jump(clip([200, *even]), [8]) == 1


def test_a_jump_down_is_as_large_as_one_up() -> None:
    assert seam_jump(clip([100, 102, 104, 94, 96, 98]), [3]) == 5


def test_a_jump_without_motion_or_seams_is_not_measured() -> None:
    assert math.isnan(seam_jump(clip([5] * 9), [4]))
    assert math.isnan(seam_jump(clip([2 * k for k in range(9)]), []))
    assert math.isnan(seam_jump(clip([1, 5]), []))


def test_a_video_that_returns_to_the_reference_is_nearer_to_it_after_a_seam() -> None:
    reference = clip([10])[0]
    away = [10, *[50] * 16]
    assert reference_return(clip(away), reference, [9]) == 1
    returns = [10, *[50] * 8, *[30] * 4, *[50] * 4]
    assert reference_return(clip(returns), reference, [9], num_frames=4) == 2
    assert reference_return(clip(returns), reference, [9]) == pytest.approx(40 / 30)
    assert reference_return(clip(returns), reference, [13], num_frames=4) == 0.5
    # Frames of the next window are not counted, and a seam near the end counts the frames that there are.
    assert reference_return(clip(returns), reference, [9, 13], num_frames=8) == pytest.approx((40 + 20) / (20 + 40))
    assert reference_return(clip([10, 50, 50, 30]), reference, [3]) == 2


def test_a_return_without_seams_or_beyond_the_reference_itself_is_not_measured() -> None:
    assert math.isnan(reference_return(clip([1, 2, 3]), clip([1])[0], []))
    assert math.isnan(reference_return(clip([1, 2, 1]), clip([1])[0], [2]))


def test_means_of_windows_leave_out_what_is_not_measured() -> None:
    values = np.array([np.nan, 1, 3, 5, np.nan, np.nan])
    np.testing.assert_array_equal(mean_by_window(values, [3, 4]), [2, 5, np.nan])
    np.testing.assert_array_equal(mean_by_window(values, []), [3])
