"""Motion scores whose inputs are known: a camera's path that is given, frames that are drawn."""

import cv2
import numpy as np
import pytest

from steadydancer.pipelines.curate.scores import motion_scores as module
from steadydancer.pipelines.curate.scores.motion_scores import camera_path, motion_scores, own_motion_ratio
from steadydancer.pipelines.curate.scores.noise import noise

FPS = 16.0
HEIGHT, WIDTH = 60, 80  # a diagonal of 100
DIAGONAL = 100.0


def shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0, x], [0, 1.0, y]])


def given(monkeypatch: pytest.MonkeyPatch, matrices: list[np.ndarray], agreed: list[float], residual: list[float]):  # type: ignore[no-untyped-def]
    """`motion_scores` of grey frames through which the camera is said to go like this."""
    path = (np.stack(matrices), np.array(agreed), np.array(residual))
    monkeypatch.setattr(module, "camera_path", lambda luma: path)
    return motion_scores(np.full((len(matrices) + 1, HEIGHT, WIDTH, 3), 90, np.uint8), FPS)


def test_a_cameras_speed_and_shake_are_shares_of_the_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    # (3, 4) pixels and (0, 5) and (−6, 8): 5, 5 and 10; turned by (−3, 1) and (−6, 3) in between.
    scores = given(monkeypatch, [shift(3, 4), shift(0, 5), shift(-6, 8)], [0.9, 0.4, 0.5], [0.01, 0.02, 0.06])
    assert scores["camera_motion"] == pytest.approx(20 / 3 / DIAGONAL * FPS)
    assert scores["camera_shake"] == pytest.approx((np.hypot(3, 1) + np.hypot(6, 3)) / 2 / DIAGONAL)
    assert scores["flow_residual"] == pytest.approx(0.03)


def test_neither_speed_nor_shake_is_measured_where_the_camera_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that few corners agree on is no step: nothing is told of it, nor of a change to it or from it."""
    steps = [shift(3, 4)] * 3 + [shift(40, -30)] + [shift(0, 5)] * 4
    agreed, residual = [0.9] * 3 + [0.39] + [0.9] * 4, [0.01] * 3 + [0.5] + [0.02] * 4
    scores = given(monkeypatch, steps, agreed, residual)
    assert scores["camera_motion"] == pytest.approx(5 / DIAGONAL * FPS)
    # From the third to the fifth step the path turns, but nobody saw it: five pairs of steps, all straight.
    assert scores["camera_shake"] == pytest.approx(0, abs=1e-12)
    assert scores["flow_residual"] == pytest.approx((3 * 0.01 + 4 * 0.02) / 7)
    # Half of the pairs of neighbouring steps must be known; one less, and none of the three is told.
    known = given(monkeypatch, [shift(3, 4)] * 5, [0.9, 0.9, 0.9, 0, 0.9], [0.01] * 5)
    assert known["camera_motion"] == pytest.approx(5 / DIAGONAL * FPS)
    for few in ([0.9, 0.9, 0.0, 0.9, 0.0], [0.9, 0, 0.9, 0, 0.9]):
        scores = given(monkeypatch, [shift(3, 4)] * 5, few, [0.01] * 5)
        assert [scores[name] for name in ("camera_motion", "camera_shake", "flow_residual")] == [None] * 3
    # One step has no pair.
    assert given(monkeypatch, [shift(3, 4)], [1.0], [0.0])["camera_motion"] is None


def test_the_camera_is_followed_at_the_pictures_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn or a zoom about the middle does not move it, and about another point it does."""

    def about(x: float, y: float, zoom: float, angle: float = 0.0) -> np.ndarray:
        return cv2.getRotationMatrix2D((x, y), np.degrees(angle), zoom)

    still = given(monkeypatch, [about(40, 30, 1.1), about(40, 30, 0.8, 0.3), about(40, 30, 1, 0.2)], [1] * 3, [0] * 3)
    assert still["camera_motion"] == pytest.approx(0, abs=1e-9)
    # About the upper left corner: the middle goes a tenth of its way from there, (4, 3), 5 pixels.
    corner = given(monkeypatch, [about(0, 0, 1.1)] * 3, [1] * 3, [0] * 3)
    assert corner["camera_motion"] == pytest.approx(5 / DIAGONAL * FPS)


def landscape(side: int = 320) -> np.ndarray:
    rng = np.random.default_rng(0)
    layers = [cv2.GaussianBlur(rng.normal(0, 40 * s, (side, side)), (0, 0), s) for s in (1.5, 4, 12)]
    return np.clip(128 + sum(layers), 0, 255).astype(np.uint8)


def seen(matrices: list[np.ndarray], height: int = 100, width: int = 140) -> np.ndarray:
    """A landscape, cut at (90, 110), in frames that go from one to the next by these matrices."""
    total = np.vstack([shift(-90, -110), [0, 0, 1]])
    frames = []
    for step in [shift(0, 0), *matrices]:
        total = np.vstack([step, [0, 0, 1]]) @ total
        frames.append(cv2.warpAffine(landscape(), total[:2], (width, height), flags=cv2.INTER_CUBIC))
    return np.stack(frames)


def test_a_cameras_path_is_found_in_pixels_with_its_turn_and_zoom() -> None:
    steps = [shift(2, -1.5), cv2.getRotationMatrix2D((70, 50), 1.5, 1.0), cv2.getRotationMatrix2D((20, 80), 0, 1.02)]
    frames = seen(steps)
    found, agreed, residual = camera_path(frames)
    corners = np.array([[0, 0, 1], [140, 0, 1], [0, 100, 1], [140, 100, 1]]).T
    for matrix, step in zip(found, steps, strict=True):
        np.testing.assert_allclose(matrix @ corners, step @ corners, atol=0.25)
    assert (agreed > 0.8).all() and agreed.max() <= 1
    # What is left is what the camera uncovers at the edges; without its motion undone it were much more.
    apart = np.abs(np.diff(frames.astype(float), axis=0)).mean(axis=(1, 2)) / 255
    assert (residual < apart / 4).all() and (residual > 0).all()
    exact = cv2.warpAffine(frames[0], found[0], (140, 100), borderMode=cv2.BORDER_REPLICATE)
    assert residual[0] == pytest.approx(np.abs(exact.astype(float) - frames[1]).mean() / 255)


def test_where_nothing_can_be_followed_nothing_agrees() -> None:
    frames = seen([shift(1, 0)] * 3)
    frames[2] = 90
    found, agreed, residual = camera_path(frames)
    assert agreed[0] > 0.8 and agreed[1] == agreed[2] == 0 and residual[1] == residual[2] == 0
    np.testing.assert_array_equal(found[1:], np.tile(np.eye(2, 3), (2, 1, 1)))


def test_flicker_and_repeats_of_frames_whose_levels_are_known() -> None:
    levels = np.array([100, 110, 110, 100, 130, 130])
    frames = np.broadcast_to(levels[:, None, None, None], (6, HEIGHT, WIDTH, 3)).astype(np.uint8)
    scores = motion_scores(np.ascontiguousarray(frames), FPS)
    # Second differences −10, −10, 40, −30; two of five frames are as the one before.
    assert scores["flicker"] == pytest.approx(90 / 4 / 255)
    assert scores["frozen_ratio"] == pytest.approx(2 / 5)
    two, one = (
        motion_scores(np.ascontiguousarray(frames[:2]), FPS),
        motion_scores(np.ascontiguousarray(frames[:1]), FPS),
    )
    assert two["flicker"] is None and two["frozen_ratio"] == 0 and one["frozen_ratio"] is None
    # A tenth of a level, mean over the picture, is what recompressing changes; a fifth is not.
    for share, frozen in ((0.09, 1.0), (0.11, 0.0)):
        pair = np.full((2, 100, 100, 3), 90, np.uint8)
        pair[1].reshape(-1, 3)[: int(share * 10000)] = 91
        assert motion_scores(pair, FPS)["frozen_ratio"] == frozen


def moving_square(num_frames: int, step: int) -> np.ndarray:
    """A bright square of 20 × 20 that goes to the right over a dark landscape."""
    frames = np.repeat(landscape()[None, :100, :140] // 2, num_frames, axis=0)
    for index, frame in enumerate(frames):
        frame[40:60, 10 + step * index : 30 + step * index] = 255
    return frames


def still(num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    return np.tile(np.eye(2, 3), (num_frames - 1, 1, 1)), np.ones(num_frames - 1, bool)


def test_frames_half_a_second_apart_are_compared_every_quarter() -> None:
    # At 4 frames a second these are two apart, each with each next one: the square goes 2 · 12 = 24, off itself.
    own = own_motion_ratio(moving_square(5, 12), *still(5), fps=4.0)
    assert own is not None and 2 * 20 * 20 <= own * 94 * 134 <= 2 * 26 * 26
    # At 2 a second one apart: 12 pixels, and the square covers 8 of the 20 before.
    near = own_motion_ratio(moving_square(5, 12), *still(5), fps=2.0)
    assert near is not None and 2 * 12 * 20 * 0.9 <= near * 94 * 134 <= 2 * 18 * 26
    # Fewer frames than half a second: not measured. Exactly one pair: measured.
    assert own_motion_ratio(moving_square(8, 4), *still(8), FPS) is None
    assert own_motion_ratio(moving_square(9, 4), *still(9), FPS) is not None


def test_own_motion_is_the_ninetieth_percentile_and_skips_what_is_not_known() -> None:
    # 11 comparisons at 4 a second; the square goes in the last three of them only.
    frames = moving_square(1, 0).repeat(13, axis=0)
    last = moving_square(3, 24)
    frames[11], frames[12] = last[1], last[2]
    matrices, known = still(13)
    shares = [own_motion_ratio(frames[k : k + 3], *still(3), fps=4.0) for k in range(11)]
    assert shares[:9] == [0.0] * 9 and shares[9] != shares[10] and min(shares[9:]) > 0.05  # type: ignore[operator]
    own = own_motion_ratio(frames, matrices, known, fps=4.0)
    assert own == pytest.approx(min(shares[9:]))  # type: ignore[type-var]
    known[10] = False  # on the way of both comparisons that see it
    assert own_motion_ratio(frames, matrices, known, fps=4.0) == 0
    known[:] = np.arange(12) % 2 == 0
    assert own_motion_ratio(frames, matrices, known, fps=4.0) is None


def test_a_path_is_walked_in_its_order() -> None:
    """First zoomed, then shifted is not first shifted, then zoomed."""
    zoom = cv2.getRotationMatrix2D((0, 0), 0, 1.25)
    for steps in ([zoom, shift(-20, -12)], [shift(-20, -12), zoom]):
        own = own_motion_ratio(seen(steps), np.stack(steps), np.ones(2, bool), fps=4.0)
        assert own is not None and own < 0.02
        wrong = own_motion_ratio(seen(steps), np.stack(steps[::-1]), np.ones(2, bool), fps=4.0)
        assert wrong is not None and wrong > 0.1


def test_noise_in_time_follows_the_camera_where_it_is_known() -> None:
    """A fine texture, which is no noise: it moves by whole pixels, ever other ones, for five frames and then rests."""
    rng = np.random.default_rng(2)
    scene = np.clip(rng.normal(128, 25, (200, 200)), 0, 255).astype(np.uint8)
    steps = [(2, 3), (-1, 4), (5, 0), (0, -2), *[(0, 0)] * 4]
    corners = np.cumsum([(30, 20), *steps], axis=0)
    frames = np.stack([scene[y : y + 100, x : x + 120] for x, y in corners])
    path, known = np.stack([shift(-x, -y) for x, y in [*steps[:4], *[(2, 3)] * 4]]), np.arange(8) < 4
    # Where it rests, the path says nonsense, and that it is not known.
    assert noise(frames, path, known) == 0
    # Wherever one side of a frame is taken wrongly, the texture is fine and seems to change, which is noise.
    for wrong in (np.ones(8, bool), np.zeros(8, bool), np.arange(8) < 3, np.arange(8) < 5):
        value = noise(frames, path, wrong)
        assert value is not None and value * 255 > 1
    assert noise(frames, -path, known) != 0
    noisy = np.clip(0.2 * (frames - 128.0) + 128 + rng.normal(0, 6, frames.shape), 0, 255).astype(np.uint8)
    assert noise(noisy, path, known) == pytest.approx(6 / 255, rel=0.1)


def test_noise_is_the_lesser_of_what_is_fine_and_what_changes() -> None:
    """A board of single pixels is fine and stays, a plain that blinks changes and is not fine; stripes are no noise."""
    parity = np.indices((40, 40)).sum(axis=0) % 2
    board = np.tile(90 + 40 * parity, (9, 1, 1)).astype(np.uint8)
    stripes = np.tile(np.array([90, 130], np.uint8), (9, 40, 20))
    blinking = np.full((9, 40, 40), 90, np.uint8)
    blinking[::2] = 100
    sure = np.tile(np.eye(2, 3), (8, 1, 1)), np.ones(8, bool)
    assert noise(stripes, *sure) == noise(board, *sure) == noise(blinking, *sure) == 0
    level = np.sqrt(np.pi / 2) / 255  # of the mean absolute value of normal noise to its σ
    # In time |10 − 2·0 + 10| = 20 everywhere, 1² + 2² + 1² = 6; in space 16 · 20 = 320 of 36 squares, more.
    changing = board.copy()
    changing[::2] += 10
    assert noise(changing, *sure) == pytest.approx(20 / np.sqrt(6) * level, rel=1e-5)
    # A board of one grey level that blinks as before: in space 16 · 0.5 = 8, now less than in time.
    assert noise((blinking + parity).astype(np.uint8), *sure) == pytest.approx(8 / 6 * level, rel=1e-5)
    # The calmest tenth counts: a fifth of the picture that blinks less.
    changing[:, :, :8] = board[:, :, :8]
    changing[::2, :, :8] += 2
    assert noise(changing, *sure) == pytest.approx(4 / np.sqrt(6) * level, rel=1e-5)
    three, two = (noise(changing[:k], sure[0][: k - 1], sure[1][: k - 1]) for k in (3, 2))
    assert three == pytest.approx(4 / np.sqrt(6) * level, rel=1e-5) and two is None


def test_noise_is_averaged_over_five_by_five_pixels() -> None:
    """In time alone, for the picture is a board of single pixels; the window and its mirrored edges by plain NumPy."""
    rng = np.random.default_rng(3)
    board = 60 + 120 * (np.indices((24, 30)).sum(axis=0) % 2)
    frames = (board + rng.integers(-9, 10, (3, 24, 30))).astype(np.uint8)
    before, now, after = frames.astype(float)
    change = np.pad(np.abs(before - 2 * now + after), 2, mode="reflect")
    means = np.lib.stride_tricks.sliding_window_view(change, (5, 5)).mean(axis=(2, 3))
    wanted = np.percentile(means, 10) * np.sqrt(np.pi / 2) / np.sqrt(6) / 255
    assert noise(frames, np.tile(np.eye(2, 3), (2, 1, 1)), np.ones(2, bool)) == pytest.approx(wanted, rel=1e-4)
