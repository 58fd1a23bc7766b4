"""Things that stand between the camera and the dancers and hide part of them."""

from __future__ import annotations

import cv2
import numpy as np

from .colours import COLOURS, shade

OCCLUDERS = ("plant", "box", "chair", "lamp")


def draw_occluder(kind: str, seed: int, height: int, width: int, centre_x: float, floor: float) -> np.ndarray:
    """Draw a thing, uint8 [height, width, 4]: RGB, and 255 where it is.

    Args:
        kind: one of `OCCLUDERS`.
        seed: of its colour and size.
        height: of the picture in pixels.
        width: of the picture in pixels.
        centre_x: where it stands, in picture heights.
        floor: share of the picture's height at which the dancers' feet are; it stands a little nearer.
    """
    rng = np.random.default_rng([seed, 8])
    image = np.zeros((height, width, 4), np.uint8)
    colour = list(COLOURS.values())[rng.integers(len(COLOURS))]
    size = height * float(rng.uniform(0.85, 1.15))
    x, y = centre_x * height, min(floor + 0.06, 1.02) * height
    _DRAW[kind](image, x, y, size, colour)
    return image


def _fill(
    image: np.ndarray, x: float, y: float, corners: list[tuple[float, float]], size: float, colour: tuple[int, int, int]
) -> None:
    points = np.array([(x + size * dx, y - size * dy) for dx, dy in corners]).round().astype(np.int32)
    cv2.fillPoly(image, [points], (*colour, 255))


def _box_corners(half: float, low: float, high: float) -> list[tuple[float, float]]:
    return [(-half, low), (half, low), (half, high), (-half, high)]


def _plant(image: np.ndarray, x: float, y: float, size: float, colour: tuple[int, int, int]) -> None:
    for turn in np.linspace(-1.2, 1.2, 7):
        tip = (0.26 * np.sin(turn), 0.12 + 0.28 * np.cos(turn))
        side = (0.035 * np.cos(turn), -0.035 * np.sin(turn))
        middle = (0.5 * tip[0], 0.5 * (0.12 + tip[1]))
        leaf = [(0.0, 0.1), (middle[0] + side[0], middle[1] + side[1]), tip, (middle[0] - side[0], middle[1] - side[1])]
        _fill(image, x, y, leaf, size, shade((70, 135, 70), 0.85 + 0.1 * (round(turn * 10) % 3)))
    _fill(image, x, y, [(-0.06, 0), (0.06, 0), (0.085, 0.13), (-0.085, 0.13)], size, colour)


def _box(image: np.ndarray, x: float, y: float, size: float, colour: tuple[int, int, int]) -> None:
    _fill(image, x, y, _box_corners(0.12, 0.0, 0.22), size, colour)
    _fill(image, x, y, _box_corners(0.12, 0.19, 0.22), size, shade(colour, 1.2))
    _fill(image, x, y, _box_corners(0.03, 0.0, 0.19), size, shade(colour, 0.85))


def _chair(image: np.ndarray, x: float, y: float, size: float, colour: tuple[int, int, int]) -> None:
    for half, low, high in ((-0.1, 0.0, 0.36), (0.08, 0.0, 0.36)):
        _fill(image, x + half * size, y, _box_corners(0.012, low, high), size, shade(colour, 0.75))
    _fill(image, x - 0.01 * size, y, _box_corners(0.115, 0.15, 0.19), size, colour)
    _fill(image, x - 0.01 * size, y, _box_corners(0.1, 0.26, 0.36), size, shade(colour, 0.9))


def _lamp(image: np.ndarray, x: float, y: float, size: float, colour: tuple[int, int, int]) -> None:
    _fill(image, x, y, _box_corners(0.012, 0.0, 0.62), size, (70, 66, 68))
    _fill(image, x, y, [(-0.07, 0), (0.07, 0), (0.05, 0.025), (-0.05, 0.025)], size, (70, 66, 68))
    _fill(image, x, y, [(-0.1, 0.58), (0.1, 0.58), (0.055, 0.72), (-0.055, 0.72)], size, shade(colour, 1.15))


_DRAW = {"plant": _plant, "box": _box, "chair": _chair, "lamp": _lamp}
