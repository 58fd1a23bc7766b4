"""Boxes, dilated masks and crops of drawn people."""

import cv2
import numpy as np
import pytest

from steadydancer.models.metrics.person_regions import crops, dilate, joint_boxes, mask_boxes


def test_a_mask_grows_by_a_share_of_the_longer_side_in_all_directions() -> None:
    masks = np.zeros((2, 100, 200), bool)
    masks[0, 50, 90] = True
    grown = dilate(masks, 0.05)
    y, x = np.mgrid[:100, :200]
    distance = np.hypot(y - 50, x - 90)
    assert grown[0][distance <= 9].all() and not grown[0][distance > 10.9].any() and grown[0][50, 80]
    assert not grown[1].any() and grown.dtype == bool
    assert dilate(masks)[0].sum() == pytest.approx(np.pi * 4**2, rel=0.25)
    assert dilate(masks[:0]).shape == (0, 100, 200)


def test_the_box_of_a_mask_has_all_large_pieces_and_no_speck() -> None:
    masks = np.zeros((4, 100, 80), bool)
    masks[0, 20:60, 10:30] = True  # 800 pixels
    masks[0, 70:80, 40:50] = True  # an eighth of it
    masks[0, 95:98, 70:75] = True  # a speck
    masks[1, 0:3, 0:5] = True  # 15 pixels of 8000 are nobody
    masks[2, 0:4, 0:4] = True  # 16 are the smallest person
    boxes = mask_boxes(masks)
    assert boxes[0].tolist() == [10, 20, 50, 80]
    assert np.isnan(boxes[[1, 3]]).all() and boxes[2].tolist() == [0, 0, 4, 4]


def test_the_box_of_joints_has_a_margin_and_needs_four_of_them() -> None:
    points = np.full((2, 18, 2), -1.0)
    points[:, :4] = (10, 20), (30, 20), (20, 60), (20, 40)
    visible = np.zeros((2, 18), bool)
    visible[0, :4], visible[1, :3] = True, True
    boxes = joint_boxes(points, visible)
    assert boxes[0].tolist() == [10 - 6, 20 - 6, 30 + 6, 60 + 6]
    assert np.isnan(boxes[1]).all()


def test_a_crop_is_the_square_around_the_box_grey_outside_of_the_picture() -> None:
    frame = np.zeros((60, 100, 3), np.uint8)
    frame[10:50, 20:40] = (200, 0, 0)
    cut = crops(frame[None], np.array([[20, 10, 40, 50]]), 80)[0]
    assert cut.shape == (80, 80, 3)
    red = cut[..., 0] > 150
    assert np.flatnonzero(red.any(axis=0))[[0, -1]].tolist() == pytest.approx([20, 59], abs=1)
    assert np.flatnonzero(red.any(axis=1))[[0, -1]].tolist() == pytest.approx([0, 79], abs=1)
    left = crops(frame[None], np.array([[0, 0, 20, 60]]), 60)[0]
    np.testing.assert_array_equal(left[:, :18], 127)  # the square begins 20 pixels left of the picture
    assert not left[:, 22:38].any() and left[30, 50, 0] == 200


def test_outside_of_a_mask_a_crop_is_grey_and_large_squares_are_averaged() -> None:
    frame = np.zeros((400, 400, 3), np.uint8)
    frame[:, ::2] = 200
    mask = np.zeros((1, 400, 400), bool)
    mask[0, 200:] = True
    cut = crops(frame[None], np.array([[0, 0, 400, 400]]), 50, mask)[0]
    np.testing.assert_array_equal(cut[:24], 127)
    np.testing.assert_array_equal(cut[26:], 100)
    # A square that does not shrink by a whole number lies where it lies.
    frame[:] = 0
    cv2.circle(frame, (250, 130), 12, (255, 255, 255), -1)
    cut = crops(frame[None], np.array([[100, 50, 390, 340]]), 100)[0]
    bright = np.argwhere(cut[..., 0] > 128).mean(axis=0)[::-1]
    np.testing.assert_allclose(bright, [150 / 2.9, 80 / 2.9], atol=1)
