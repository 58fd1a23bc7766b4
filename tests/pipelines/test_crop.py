"""Frames and keypoints are cut to the same picture, and come back."""

import numpy as np

from steadydancer.datasets.toydance import draw_dancer, toy_pose
from steadydancer.pipelines.crop import content_shares, content_size, crop_frames, to_content, to_frame

ROW = {"width": 400, "height": 200, "crop_left_px": 100, "crop_top_px": 20, "crop_width_px": 200, "crop_height_px": 160}


def test_a_row_without_borders_is_all_picture() -> None:
    row = {"width": 400, "height": 200, "crop_width_px": None}
    frames = np.zeros((2, 20, 40, 3), np.uint8)
    assert content_size(row) == (200, 400) and crop_frames(frames, content_shares(row)) is frames


def test_what_is_drawn_in_the_picture_is_found_at_the_keypoints_of_the_picture() -> None:
    shares = content_shares(ROW)
    frames = np.zeros((1, 100, 200, 3), np.uint8)  # half the size
    frames[0, 50, 100] = 255
    pose = toy_pose(0, 1, 16)
    pose.body[0, 0] = (100.5 / 200, 50.5 / 100)
    picture, inside = crop_frames(frames, shares), to_content(pose, shares)
    assert picture.shape == (1, 80, 100, 3) and content_size(ROW) == (160, 200)
    x, y = (inside.body[0, 0] * (100, 80)).astype(int)
    assert picture[0, y, x].tolist() == [255, 255, 255]


def test_keypoints_come_back_and_missing_ones_stay_missing() -> None:
    shares = content_shares(ROW)
    pose = toy_pose(3, 4, 16)
    pose.hands[:, 0] = -1
    back = to_frame(to_content(pose, shares), shares)
    np.testing.assert_allclose(back.body, pose.body, atol=1e-6)
    assert (back.hands[:, 0] == -1).all()
    np.testing.assert_allclose(back.hands[:, 1], pose.hands[:, 1], atol=1e-6)
    assert draw_dancer(back, 3, 64, 48).shape == (4, 64, 48, 3)
