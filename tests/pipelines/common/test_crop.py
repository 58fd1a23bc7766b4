"""Frames and keypoints are cut to the same picture, and come back."""

import numpy as np
import pytest

from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.pipelines.common.crop import (
    WHOLE,
    content_shares,
    content_size,
    crop_box,
    crop_frames,
    cropped_shares,
    to_content,
    to_frame,
)

# All four numbers differ, and so do both sides of the frame.
ROW = {"width": 400, "height": 200, "crop_left_px": 100, "crop_top_px": 20, "crop_width_px": 240, "crop_height_px": 150}


def random_pose(seed: int = 0) -> PoseSequence:
    rng = np.random.default_rng(seed)
    body, hands, faces = (rng.uniform(0.1, 0.9, (3, *shape)) for shape in ((18, 2), (2, 21, 2), (68, 2)))
    hands[:, 0], faces[:, 5], body[1, 4] = -1, -1, -1
    return PoseSequence(body, rng.random((3, 18)) < 0.8, hands, faces)


def test_a_row_without_borders_is_all_picture() -> None:
    row = {"width": 400, "height": 201, "crop_width_px": None}
    frames = np.zeros((2, 21, 41, 3), np.uint8)  # odd sides stay as they are
    assert content_size(row) == (201, 400) and content_shares(row) == WHOLE == (0.0, 0.0, 1.0, 1.0)
    assert crop_frames(frames, WHOLE).shape == frames.shape and np.shares_memory(crop_frames(frames, WHOLE), frames)
    assert crop_box(WHOLE, 21, 41) == (0, 0, 41, 21) and cropped_shares(WHOLE, 21, 41) == WHOLE
    assert content_size({"width": 400, "height": 201}) == (201, 400)


def test_a_picture_is_its_shares_of_the_frame_at_any_scale() -> None:
    shares = content_shares(ROW)
    assert shares == (0.25, 0.1, 0.6, 0.75) and content_size(ROW) == (150, 240)
    frames = np.arange(100 * 200 * 3).reshape(1, 100, 200, 3) % 251
    picture = crop_frames(frames.astype(np.uint8), shares)
    np.testing.assert_array_equal(picture, frames[:, 10:84, 50:170])  # 75 rows are cut to an even number
    assert cropped_shares(shares, 100, 200) == (0.25, 0.1, 0.6, 0.74)


@pytest.mark.parametrize(
    ("shares", "box"),
    [
        ((0.104, 0.26, 0.5, 0.5), (10, 13, 50, 24)),  # the corner is rounded, the sides are cut to even numbers
        ((0.106, 0.25, 0.519, 0.5), (11, 12, 50, 24)),
        ((0.1, 0.1, 1e-3, 1e-3), (10, 5, 2, 2)),  # never less than two
        ((0.1, 0.1, 0.3 - 1e-9, 0.4), (10, 5, 30, 20)),  # a share that is a whole number but for rounding
    ],
)
def test_a_box_has_even_sides(shares: tuple[float, float, float, float], box: tuple[int, ...]) -> None:
    assert crop_box(shares, 50, 100) == box


def test_what_is_drawn_in_the_picture_is_found_at_the_keypoints_of_the_picture() -> None:
    shares = content_shares(ROW)
    frames = np.zeros((1, 100, 200, 3), np.uint8)  # half the size
    marked = {(60, 13): 0, (165, 80): 1, (51, 70): 2, (160, 12): 3}  # near all four corners of the picture
    pose = random_pose()[:1]
    for (x, y), joint in marked.items():
        frames[0, y, x] = 100 + joint
        pose.body[0, joint] = (x + 0.5) / 200, (y + 0.5) / 100
    picture = crop_frames(frames, shares)
    inside = to_content(pose, cropped_shares(shares, 100, 200))
    for joint in marked.values():
        x, y = (inside.body[0, joint] * picture.shape[2:0:-1]).astype(int)
        assert picture[0, y, x].tolist() == [100 + joint] * 3


def test_keypoints_of_a_picture_are_told_by_hand() -> None:
    shares = (0.25, 0.1, 0.6, 0.75)
    pose = random_pose()
    pose.body[0, :3] = (0.25, 0.1), (0.85, 0.85), (0.55, 0.25)
    inside = to_content(pose, shares)
    np.testing.assert_allclose(inside.body[0, :3], [(0, 0), (1, 1), (0.5, 0.2)], atol=1e-6)
    np.testing.assert_allclose(inside.hands[:, 1], (pose.hands[:, 1] - [0.25, 0.1]) / [0.6, 0.75], atol=1e-6)
    outside = to_frame(pose, shares)
    assert outside.faces is not None and pose.faces is not None
    np.testing.assert_allclose(outside.faces[:, 6:], pose.faces[:, 6:] * [0.6, 0.75] + [0.25, 0.1], atol=1e-6)
    np.testing.assert_array_equal(inside.body_visible, pose.body_visible)
    assert inside.body.dtype == inside.hands.dtype == np.float32


def test_keypoints_come_back_and_missing_ones_stay_missing() -> None:
    shares, pose = content_shares(ROW), random_pose(3)
    there = to_content(pose, shares)
    back = to_frame(there, shares)
    assert there.faces is not None and back.faces is not None and pose.faces is not None
    for one in (there, back):
        assert (one.hands[:, 0] == -1).all() and (one.body[1, 4] == -1).all() and (one.faces[:, 5] == -1).all()
    for name in ("body", "hands", "faces"):
        np.testing.assert_allclose(getattr(back, name), getattr(pose, name), atol=1e-6)
        assert np.abs(getattr(there, name) - getattr(pose, name)).max() > 0.1
    # A point of which one coordinate alone is −1 was found, far outside.
    pose.body[0, 0] = (-1, 0.5)
    assert to_content(pose, shares).body[0, 0].tolist() == pytest.approx([-1.25 / 0.6, 0.4 / 0.75])
    # One that lies left of the frame and above it was found, too.
    pose.body[0, 0] = (-0.35, -0.2)
    assert to_content(pose, shares).body[0, 0].tolist() == pytest.approx([-1.0, -0.4])
    assert to_frame(pose, shares).body[0, 0].tolist() == pytest.approx([0.04, -0.05])
    without = PoseSequence(pose.body, pose.body_visible, pose.hands)
    assert to_content(without, shares).faces is None
