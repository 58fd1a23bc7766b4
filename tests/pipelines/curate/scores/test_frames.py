"""Scores of single frames against their formulas, written once more in plain NumPy, and against drawn answers."""

import cv2
import numpy as np
import pytest

from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.pipelines.curate.scores.borders import Box, find_content
from steadydancer.pipelines.curate.scores.clipping import subject_clipped_ratio
from steadydancer.pipelines.curate.scores.frame_scores import (
    blur,
    find_cuts,
    grey_change,
    grey_of,
    histogram_change,
    luma_change,
    luma_of,
    technical_scores,
)
from steadydancer.pipelines.curate.scores.noise import blockiness
from steadydancer.pipelines.curate.scores.overlays import static_edge_ratio, text_scores


def plain(*colours: tuple[int, int, int], height: int = 40, width: int = 60) -> np.ndarray:
    return np.stack([np.full((height, width, 3), colour, np.uint8) for colour in colours])


def texture(num_frames: int, height: int, width: int, seed: int = 0, sigma: float = 3.0) -> np.ndarray:
    """Coloured blobs, other ones in each frame."""
    rng = np.random.default_rng(seed)
    frames = [cv2.GaussianBlur(rng.normal(0, 60 * sigma, (height, width, 3)), (0, 0), sigma) for _ in range(num_frames)]
    return np.clip(120 + np.stack(frames), 0, 255).astype(np.uint8)


@pytest.mark.filterwarnings("error")
def test_a_frame_too_small_for_sides_that_were_filled_in_has_none() -> None:
    frames = np.random.default_rng(0).integers(0, 40, (2, 24, 24, 3), np.uint8)
    frames[:, :, 4:20] += 180  # two straight seams, four columns from the sides
    assert find_content(frames) == Box()


def test_straight_seams_beside_sides_of_full_detail_are_part_of_the_picture() -> None:
    """Two door frames: the lines are as strong as those of a fill, but what is beside them is no blurred copy."""
    frames = np.random.default_rng(0).integers(0, 40, (2, 120, 160, 3), np.uint8)
    frames[:, :, 40:120] += 180
    assert find_content(frames) == Box()
    frames[:, :, :40], frames[:, :, 120:] = 20, 20 + np.arange(2)[:, None, None, None] * 30
    assert find_content(frames) != Box()


def test_luma_weighs_red_green_and_blue_in_this_order() -> None:
    frames = plain((255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 200, 30))
    np.testing.assert_array_equal(grey_of(frames)[:, 0, 0], [76, 150, 29, 124])
    assert grey_of(frames).shape == (4, 40, 60)
    np.testing.assert_allclose(luma_of(frames)[:, 3, 5], np.array([76, 150, 29, 124]) / 255, rtol=1e-6)


def test_changes_of_luma_are_means_over_the_picture() -> None:
    grey = np.zeros((3, 4, 5), np.uint8)
    grey[1, 0, :2], grey[2] = 100, 51
    np.testing.assert_allclose(grey_change(grey), [200 / 20 / 255, (2 * 49 + 18 * 51) / 20 / 255])
    assert len(grey_change(grey[:1])) == 0
    frames = np.repeat(grey[..., None], 3, axis=3)
    np.testing.assert_allclose(luma_change(frames), grey_change(grey))


def test_colours_that_have_nothing_in_common_change_by_one_and_half_of_a_picture_by_a_half() -> None:
    green, blue = (20, 200, 20), (20, 20, 200)
    frames = plain(green, green, blue, blue)
    frames[3, :, 30:] = green
    np.testing.assert_allclose(histogram_change(frames), [0, 1, 0.5], atol=1e-6)
    # Where they lie does not matter.
    moved = frames[3:].copy()
    np.testing.assert_allclose(histogram_change(np.concatenate([frames[3:], moved[:, :, ::-1]])), [0], atol=1e-9)
    # A step of brightness across the border of a bin is half a change and no whole one: bins are softened.
    near, far = (histogram_change(plain((v, v, v), (w, w, w)))[0] for v, w in ((95, 97), (60, 200)))
    assert near == pytest.approx(0.5, abs=0.01) and far == pytest.approx(1, abs=1e-6)


def test_a_cut_is_above_its_threshold_and_stands_alone() -> None:
    quiet = np.full(20, 0.01)

    def cuts(**changes: float) -> list[int]:
        change = quiet.copy()
        for name, value in changes.items():
            change[int(name[1:])] = value
        return find_cuts(change, 0.3)

    # A change from frame 9 to frame 10 makes frame 10 the first of its shot.
    assert cuts(_9=0.31) == [10] and cuts(_9=0.3) == [] and cuts(_0=0.5) == [1] and cuts(_19=0.5) == [20]
    assert cuts(_3=0.9, _12=0.4) == [4, 13]
    # Flashes: the median of the four changes before it and the four after it is 0.2, and 2.5 times that is asked.
    flashing = np.full(20, 0.2)
    flashing[9] = 0.5
    assert find_cuts(flashing, 0.3) == []
    flashing[9] = 0.51
    assert find_cuts(flashing, 0.3) == [10]
    # What lies five away does not count.
    flashing[:] = 0.01
    flashing[[3, 4, 5, 13, 14, 15]], flashing[9] = 0.29, 0.5
    assert find_cuts(flashing, 0.3) == [10]
    flashing[[6, 7, 8]] = 0.29
    assert find_cuts(flashing, 0.3) == []
    # At the ends there are fewer neighbours; alone it has none.
    assert find_cuts(np.array([0.5]), 0.3) == [1] and find_cuts(np.array([0.5, 0.21]), 0.3) == []


def laplacian(image: np.ndarray) -> np.ndarray:
    padded = np.pad(image, 1, mode="reflect")
    return padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * image


def test_exposure_contrast_sharpness_and_colour_are_their_formulas() -> None:
    frames = texture(3, 256, 300, sigma=2.0)
    frames[1] //= 3
    luma = grey_of(frames) / 255.0
    scores = technical_scores(frames)
    assert scores["brightness"] == pytest.approx(luma.mean(), rel=1e-4)
    assert scores["contrast"] == pytest.approx(np.mean([image.std() for image in luma]), rel=1e-4)
    # The short side has 256 pixels, so nothing is scaled.
    assert scores["sharpness"] == pytest.approx(np.mean([laplacian(image).var() for image in luma]), rel=1e-3)
    # Hasler and Süsstrunk's M3, of every other pixel.
    some = frames[:, ::2, ::2].astype(float)
    red, green, blue = np.moveaxis(some, -1, 0)
    first, second = (red - green).reshape(3, -1), ((red + green) / 2 - blue).reshape(3, -1)
    spread = np.hypot(first.std(axis=1), second.std(axis=1))
    centre = np.hypot(first.mean(axis=1), second.mean(axis=1))
    assert scores["colourfulness"] == pytest.approx((spread + 0.3 * centre).mean() / 255, rel=1e-3)
    strong = technical_scores(plain((250, 10, 30), (10, 250, 250)))
    centres = [np.hypot(240, 130 - 30), np.hypot(-240, 130 - 250)]
    assert strong["colourfulness"] == pytest.approx(0.3 * np.mean(centres) / 255, rel=1e-3)


def test_sharpness_is_told_at_one_size() -> None:
    """A picture of twice the size, by repeating pixels, is scaled to 256 pixels again: the shorter side."""
    small = texture(1, 256, 400, sigma=2.0)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    upright = np.ascontiguousarray(large.transpose(0, 2, 1, 3))
    sharpness = technical_scores(small)["sharpness"]
    for frames in (large, upright):
        assert technical_scores(frames)["sharpness"] == pytest.approx(sharpness, rel=1e-3)
        assert blur(frames) == pytest.approx(blur(small), rel=1e-3)


@pytest.mark.parametrize(
    ("brightness", "exposure"), [(0.125, 0.5), (0.25, 1.0), (0.5, 1.0), (0.85, 1.0), (0.925, 0.5), (1.0, 0.0)]
)
def test_technical_quality_is_a_geometric_mean(brightness: float, exposure: float) -> None:
    level, half = brightness * 255, 255 * min(brightness, 1 - brightness, 0.05)
    frames = np.empty((1, 256, 256, 3))
    frames[:, :, :128], frames[:, :, 128:] = level - half, level + half
    frames[:, :128:2] = np.where(frames[:, :128:2] > level, level + half, frames[:, :128:2])
    scores = technical_scores(np.round(frames).astype(np.uint8))
    parts = (
        np.clip(min(scores["brightness"] / 0.25, (1 - scores["brightness"]) / 0.15), 0, 1),
        min(scores["contrast"] / 0.2, 1),
        min(scores["sharpness"] / 0.01, 1),
    )
    assert scores["technical_quality"] == pytest.approx((parts[0] * parts[1] * parts[2]) ** (1 / 3), abs=1e-6)
    assert parts[0] == pytest.approx(exposure, abs=0.02)
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert technical_scores(np.repeat(board[None, ..., None], 3, axis=3))["technical_quality"] == pytest.approx(1)


def crete_roffet(image: np.ndarray) -> float:
    """The blur effect: a 9-tap mean along each axis, and how much of the variation it leaves."""
    found = []
    for axis in (0, 1):
        size = image.shape[axis]
        padded = np.pad(image, [(4, 4) if k == axis else (0, 0) for k in (0, 1)], mode="reflect")
        smooth = sum(np.take(padded, range(k, k + size), axis=axis) for k in range(9)) / 9
        steps, left = (np.abs(np.diff(one, axis=axis)) for one in (image, smooth))
        found.append(1 - np.maximum(0, steps - left).sum() / steps.sum())
    return max(found)


def test_blur_is_its_formula_and_the_blurrier_direction_counts() -> None:
    frames = texture(2, 120, 160, sigma=1.5)
    frames[1] = cv2.blur(frames[1], (1, 7))
    expected = [crete_roffet(image) for image in grey_of(frames) / 255.0]
    assert expected[1] > expected[0] + 0.1
    assert blur(frames) == pytest.approx(np.mean(expected), rel=1e-4)
    across = texture(1, 120, 160, sigma=1.5)
    across[0] = cv2.blur(across[0], (7, 1))
    assert blur(across) == pytest.approx(crete_roffet(grey_of(across)[0] / 255.0), rel=1e-4)
    assert blur(plain((90, 90, 90))) == 1.0  # nothing to be seen changes by nothing


def test_bars_are_told_per_side_and_only_from_a_fiftieth_on() -> None:
    inside = texture(3, 100, 140)

    def content(top: int, bottom: int, left: int, right: int, colour: int = 0) -> tuple[float, ...]:
        padding = ((0, 0), (top, bottom), (left, right), (0, 0))
        frames = np.pad(inside, padding, constant_values=colour)
        box = find_content(frames)
        height, width = frames.shape[1:3]
        return box.left * width, box.top * height, (1 - box.right) * width, (1 - box.bottom) * height

    # One row or column of the seam goes with the bar.
    assert content(20, 0, 0, 0) == pytest.approx((0, 21, 0, 0))
    assert content(0, 12, 0, 0, 255) == pytest.approx((0, 0, 0, 13))
    assert content(0, 0, 30, 8, 90) == pytest.approx((31, 0, 9, 0))
    assert content(10, 14, 20, 24) == pytest.approx((21, 11, 25, 15))
    # 1 of 101 rows is a line that a codec left; 2 of 102 are a bar. Nine tenths of bars are no picture's.
    assert content(1, 0, 0, 0) == (0, 0, 0, 0) and content(2, 0, 0, 0) == pytest.approx((0, 3, 0, 0))
    assert content(100, 0, 0, 0) == (0, 0, 0, 0) and content(75, 0, 0, 0) == pytest.approx((0, 76, 0, 0))
    assert Box(0.1, 0.2, 0.6, 1.0).area == pytest.approx(0.5 * 0.8)


def test_a_bar_is_there_in_every_frame_all_along_its_line() -> None:
    frames = np.pad(texture(4, 100, 140), ((0, 0), (20, 0), (0, 0), (0, 0)))
    assert find_content(frames).top == pytest.approx(21 / 120)
    once = frames.copy()
    once[2, :20, :] = 60  # in one frame of four there is something
    assert find_content(once).top == 0
    logo = frames.copy()
    logo[:, 5:9, 40:60] = 200  # a channel's name in the bar
    assert find_content(logo).top == 0
    grainy = frames.copy()
    grainy[:, :20] = np.random.default_rng(0).integers(0, 10, (4, 20, 140, 1))  # less than ten grey levels
    assert find_content(grainy).top == pytest.approx(21 / 120)


def test_text_is_told_by_where_it_stays_and_how_far_it_runs() -> None:
    masks = np.zeros((4, 20, 40), bool)
    masks[:2, 2:4, 4:14] = True  # half of the frames: it stays
    masks[:1, 10:12, 4:30] = True  # a quarter: it does not
    masks[:, 15:17, 20:28] = True
    assert text_scores(masks) == {
        "text_ratio": (20 + 16) / 800,
        "text_length": 10 / 40,
        "any_text_ratio": pytest.approx((2 * 20 + 52 + 4 * 16) / 4 / 800),
    }
    # Pieces that touch at a corner are one line; over the height where it runs down: 9 of 20, not 9 of 40.
    touching = np.zeros((1, 20, 40), bool)
    touching[0, 2:4, 4:14] = touching[0, 4:6, 14:20] = True
    assert text_scores(touching)["text_length"] == 16 / 40
    down = np.zeros((1, 20, 40), bool)
    down[0, 2:11, 5:10] = True
    assert text_scores(down)["text_length"] == 9 / 20


def test_edges_that_stay_are_counted_while_the_camera_moves_far_enough() -> None:
    passing = texture(8, 90, 120, sigma=2.0) // 2  # another texture in each frame, as if it passed
    marked = passing.copy()
    marked[:, 20:50, 30:60] = 255
    plain_ratio, ratio = (static_edge_ratio(one, 0.05, 2.0) for one in (passing, marked))
    assert plain_ratio is not None and ratio is not None and plain_ratio < 0.001
    # The square's outline, two to four pixels wide.
    assert 4 * 30 * 2 / 10800 <= ratio <= 4 * 34 * 4 / 10800
    # 0.03 diagonals are far enough, whatever the time they take.
    assert static_edge_ratio(marked, 0.015, 2.0) == ratio and static_edge_ratio(marked, 0.0149, 2.0) is None
    assert static_edge_ratio(marked, 0.003, 10.0) == ratio and static_edge_ratio(marked, None, 99.0) is None
    assert static_edge_ratio(marked, 0.0, 99.0) is None
    # An edge that turns round now and then is none that was laid over: it stays in seven frames of eight, less one.
    for turned, seen in ((0, True), (1, False), (2, False)):
        square = np.full((8, 90, 120, 3), 90, np.uint8)
        square[:, 20:50, 30:60] = np.where(np.arange(8) < turned, 30, 150)[:, None, None, None]
        value = static_edge_ratio(square, 0.05, 2.0)
        assert value is not None and (value > 0.005) == seen
    # A faint edge of 4 levels a pixel counts, one of 1 level does not.
    for step, seen in ((16, True), (2, False)):
        faint = np.full((8, 90, 120, 3), 90, np.uint8)
        faint[:, 20:50, 30:60] += step
        value = static_edge_ratio(faint, 0.05, 2.0)
        assert value is not None and (value > 0.005) == seen


def test_blocks_of_one_period_stand_out_in_both_directions_and_a_fence_in_one() -> None:
    def grid(rows: int | None, columns: int | None) -> float:
        frame = np.zeros((1, 240, 320), np.int64)
        if rows:
            frame += (np.arange(240) // rows % 2 * 30)[:, None]
        if columns:
            frame += np.arange(320) // columns % 2 * 30
        return blockiness(np.repeat((60 + frame).astype(np.uint8)[..., None], 3, axis=3))

    both = grid(8, 8)
    assert both > 1 and grid(4, 4) > 1
    assert grid(8, None) < 0.1 * both and grid(None, 8) < 0.1 * both and grid(8, 5) < 0.5 * both
    assert grid(40, 40) < 0.3 * both  # tiles are no blocks
    assert blockiness(plain((90, 90, 90))) == 0
    # Less than half a level from pixel to pixel is nothing that one sees: it counts for less.
    faint = np.repeat((60 + np.indices((240, 320)).sum(axis=0) // 8 % 2).astype(np.uint8)[None, ..., None], 3, axis=3)
    assert blockiness(faint) < both


def one_limb(start: tuple[float, float], end: tuple[float, float], num_frames: int) -> PoseSequence:
    """The right forearm and nothing else."""
    body, visible = np.full((num_frames, 18, 2), -1.0), np.zeros((num_frames, 18), bool)
    body[:, 3], body[:, 4], visible[:, 3:5] = start, end, True
    return PoseSequence(body, visible, np.full((num_frames, 2, 21, 2), -1.0))


def test_points_along_a_limb_are_counted_where_they_are_as_bright_as_can_be() -> None:
    frames = np.full((1, 40, 80, 3), 100, np.uint8)
    pose = one_limb((0.1, 0.25), (0.6, 0.75), 1)  # points at x 0.2, 0.3, 0.4, 0.5 and y 0.35, 0.45, 0.55, 0.65
    for number, (x, y) in enumerate(((16, 14), (24, 18), (32, 22), (40, 26)), start=1):
        frames[0, y, x] = 250
        assert subject_clipped_ratio(frames, pose) == number / 4
        frames[0, y, x - 1] = frames[0, y - 1, x] = 255  # beside the points: no matter
    frames[0, 26, 40] = 249
    assert subject_clipped_ratio(frames, pose) == 3 / 4
    # Points outside the picture do not count, and where none is left there is nothing to tell.
    white = np.full((1, 40, 80, 3), 255, np.uint8)
    white[0, :, :8] = 0
    leaving = one_limb((-0.15, 0.5), (0.35, 0.5), 1)  # x −0.05, 0.05, 0.15, 0.25
    assert subject_clipped_ratio(white, leaving) == 2 / 3
    assert subject_clipped_ratio(white, one_limb((1.1, 0.5), (1.5, 0.5), 1)) is None
    assert subject_clipped_ratio(white, one_limb((0.5, 1.0), (0.9, 1.0), 1)) is None


@pytest.mark.parametrize(
    ("start", "end"),
    [(2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13), (2, 8), (5, 11), (2, 11), (5, 8), (1, 0)],
)
def test_each_of_the_bodys_limbs_is_looked_along(start: int, end: int) -> None:
    """Arms, legs, both sides of the trunk, across it, and neck to nose, where nothing but their two joints is seen."""
    frames = np.zeros((1, 40, 80, 3), np.uint8)
    frames[0, [14, 18, 22, 26], [16, 24, 32, 40]] = 255
    body, visible = np.full((1, 18, 2), -1.0), np.zeros((1, 18), bool)
    body[:, start], body[:, end], visible[:, [start, end]] = (0.1, 0.25), (0.6, 0.75), True
    assert subject_clipped_ratio(frames, PoseSequence(body, visible, np.full((1, 2, 21, 2), -1.0))) == 1


def test_a_frame_in_which_no_limb_is_seen_hides_no_other() -> None:
    frames = np.full((3, 40, 80, 3), 255, np.uint8)
    pose = one_limb((0.1, 0.25), (0.6, 0.75), 3)
    pose.body_visible[:2] = False
    frames[:2] = 0
    assert subject_clipped_ratio(frames, pose) == 1


def test_six_frames_spread_over_the_clip_are_looked_at() -> None:
    frames = np.zeros((26, 40, 80, 3), np.uint8)
    frames[[0, 5, 10, 15, 20, 25]] = 255
    assert subject_clipped_ratio(frames, one_limb((0.1, 0.25), (0.6, 0.75), 26)) == 1
    frames[[0, 25]] = 0
    assert subject_clipped_ratio(frames, one_limb((0.1, 0.25), (0.6, 0.75), 26)) == pytest.approx(4 / 6)
    assert subject_clipped_ratio(frames[:2], one_limb((0.1, 0.25), (0.6, 0.75), 2)) == 0
