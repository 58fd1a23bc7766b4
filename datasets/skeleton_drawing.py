"""Draw people as the coloured skeletons that the released model was trained on: the pixels are its input format."""

from __future__ import annotations

import colorsys
import math
from itertools import pairwise

import cv2
import numpy as np

# OpenPose's colour wheel. The release swaps red and blue after drawing; these colours are already swapped.
_WHEEL = [
    *[(0, 0, 255), (0, 85, 255), (0, 170, 255), (0, 255, 255), (0, 255, 170), (0, 255, 85)],
    *[(0, 255, 0), (85, 255, 0), (170, 255, 0), (255, 255, 0), (255, 170, 0), (255, 85, 0)],
    *[(255, 0, 0), (255, 0, 85), (255, 0, 170), (255, 0, 255), (170, 0, 255), (85, 0, 255)],
]
_LIMBS = [
    *[(1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)],
    *[(1, 0), (0, 14), (14, 16), (0, 15), (15, 17)],
]
_FINGERS = [(0, 1, 2, 3, 4), (0, 5, 6, 7, 8), (0, 9, 10, 11, 12), (0, 13, 14, 15, 16), (0, 17, 18, 19, 20)]
_HAND_EDGES = [edge for finger in _FINGERS for edge in pairwise(finger)]
_HAND_COLOURS = [tuple(255 * c for c in reversed(colorsys.hsv_to_rgb(i / 20, 1, 1))) for i in range(20)]
_HAND_JOINT_COLOUR = (255, 0, 0)
_FAR = 1e9  # px; the length of a limb between two such points must fit into 32 bits
_DIMMED = (np.arange(256) * 0.6).astype(np.uint8)  # limbs are darker than joints


def draw_people(canvas: np.ndarray, bodies: np.ndarray, visible: np.ndarray, hands: np.ndarray) -> None:
    """Paint N people onto a black uint8 [H, W, 3] canvas.

    bodies [N, 18, 2] and hands [N, 2, 21, 2] are normalised by width and height, visible is [N, 18] bool. The order is
    part of the format: all limbs, dimming, all body joints, then the hands, edges before joints.
    """
    size = np.array([canvas.shape[1], canvas.shape[0]], np.float64)
    # Aligning to a limb of almost zero length moves points far away, but OpenCV accepts only 32-bit coordinates.
    bodies = np.clip(bodies * size, -_FAR, _FAR)
    hands = np.clip(hands * size, -_FAR, _FAR).astype(int)
    for (start, end), colour in zip(_LIMBS, _WHEEL, strict=False):
        for body in bodies[visible[:, start] & visible[:, end]]:
            cv2.fillConvexPoly(canvas, _limb(body[start], body[end]), colour)
    canvas[:] = cv2.LUT(canvas, _DIMMED)
    for joint, colour in enumerate(_WHEEL):
        for body in bodies[visible[:, joint]]:
            cv2.circle(canvas, (int(body[joint, 0]), int(body[joint, 1])), 4, colour, thickness=-1)
    for hand in hands.reshape(-1, 21, 2):
        _draw_hand(canvas, hand)


def _limb(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return a limb's polygon: an ellipse of half-width 4, whose centre, half-length and angle are truncated to int."""
    centre = (start + end) / 2
    dx, dy = start - end
    angle_deg = int(math.degrees(math.atan2(dy, dx)))
    half_length = int((dx**2 + dy**2) ** 0.5 / 2)
    middle = (int(centre[0]), int(centre[1]))
    return np.asarray(cv2.ellipse2Poly(middle, (half_length, 4), angle_deg, 0, 360, 1))


def _draw_hand(canvas: np.ndarray, hand: np.ndarray) -> None:
    on_canvas = np.asarray((hand > 0).all(axis=1))  # invisible points are negative
    points = [(int(x), int(y)) for x, y in hand]
    for (start, end), colour in zip(_HAND_EDGES, _HAND_COLOURS, strict=True):
        if on_canvas[start] and on_canvas[end]:
            cv2.line(canvas, points[start], points[end], colour, thickness=2)
    for joint in np.flatnonzero(on_canvas):
        cv2.circle(canvas, points[joint], 4, _HAND_JOINT_COLOUR, thickness=-1)
