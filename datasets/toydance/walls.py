"""Draw what is behind the dancers: a wall, a floor, and what hangs or stands there, by difficulty."""

from __future__ import annotations

import cv2
import numpy as np

from .colours import COLOURS, Colour, shade
from .look import wall_colour

WALL_KINDS = ("plain", "panelled", "brick", "window", "stage", "park", "tiled")


def draw_wall(kind: str, colour_name: str, seed: int, height: int, width: int, floor: float) -> np.ndarray:
    """Draw a background, uint8 [height, width, 3] RGB; the floor begins at the share `floor` of the height."""
    rng = np.random.default_rng([seed, 3])
    wall = np.array(wall_colour(colour_name), np.float64)
    edge = round(floor * height)
    image = np.ascontiguousarray(
        np.linspace(1.07, 0.9, height)[:, None, None] * np.broadcast_to(wall, (height, width, 3))
    )
    _FURNISH[kind](image, wall, edge, rng)
    _draw_floor(image, wall, edge, rng, planks=kind in ("panelled", "brick", "window"))
    return np.clip(image, 0, 255).astype(np.uint8)


def _plain(image: np.ndarray, wall: np.ndarray, edge: int, rng: np.random.Generator) -> None:
    """Draw at most one picture on a plain wall."""
    if rng.random() < 0.6:
        _hang_picture(image, wall, edge, rng)


def _hang_picture(image: np.ndarray, wall: np.ndarray, edge: int, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    half = rng.uniform(0.07, 0.12, 2) * min(height, width)
    x = rng.uniform(0.12, 0.88) * width
    y = rng.uniform(0.16, 0.4) * height
    corners = [(round(x + s * half[0]), round(y + s * half[1])) for s in (-1, 1)]
    frame = max(2, round(0.018 * height))
    cv2.rectangle(image, corners[0], corners[1], (wall * 0.55).tolist(), thickness=-1)
    inner = [(corners[0][0] + frame, corners[0][1] + frame), (corners[1][0] - frame, corners[1][1] - frame)]
    cv2.rectangle(image, inner[0], inner[1], (0.6 * wall + 0.4 * np.array(_any_colour(rng))).tolist(), thickness=-1)


def _any_colour(rng: np.random.Generator) -> Colour:
    return list(COLOURS.values())[rng.integers(len(COLOURS))]


def _panelled(image: np.ndarray, wall: np.ndarray, edge: int, rng: np.random.Generator) -> None:
    """Draw vertical panels and several pictures."""
    height, width = image.shape[:2]
    panel = height * rng.uniform(0.12, 0.2)
    for x in np.arange(panel / 2, width, panel):
        cv2.line(image, (round(x), 0), (round(x), edge), (wall * 0.82).tolist(), max(1, height // 100))
    for _ in range(3):
        _hang_picture(image, wall, edge, rng)


def _brick(image: np.ndarray, wall: np.ndarray, edge: int, rng: np.random.Generator) -> None:
    """Draw bricks of slightly different brightness."""
    height, width = image.shape[:2]
    tall = max(4, round(height * rng.uniform(0.055, 0.08)))
    for row, y in enumerate(range(0, edge, tall)):
        for x in range(-tall * (row % 2), width, 2 * tall):
            light = wall * rng.uniform(0.88, 1.04)
            cv2.rectangle(image, (x + 1, y + 1), (x + 2 * tall - 1, y + tall - 1), light.tolist(), thickness=-1)


def _window(image: np.ndarray, wall: np.ndarray, edge: int, rng: np.random.Generator) -> None:
    """Open a window with sky, hill and curtains."""
    height, width = image.shape[:2]
    x, y = round(rng.uniform(0.05, 0.5) * width), round(rng.uniform(0.08, 0.18) * height)
    wide, tall = round(0.4 * width), round(0.42 * height)
    sky = np.linspace((150, 190, 230), (215, 228, 238), tall)[:, None]
    right, bottom = min(x + wide, width), y + tall
    image[y:bottom, x:right] = sky
    hill = np.array(
        [[x, bottom], [x + wide // 3, y + round(0.6 * tall)], [right, y + round(0.75 * tall)], [right, bottom]]
    )
    cv2.fillPoly(image, [hill.astype(np.int32)], (110, 150, 95))
    frame = max(2, height // 50)
    cv2.rectangle(image, (x, y), (right, bottom), (wall * 0.6).tolist(), frame)
    cv2.line(image, (x + wide // 2, y), (x + wide // 2, bottom), (wall * 0.6).tolist(), frame)
    curtain = np.array(_any_colour(rng)) * 0.5 + wall * 0.4
    for left in (x - wide // 8, right - wide // 12):
        cv2.rectangle(image, (left, y - frame), (left + wide // 5, bottom + frame * 3), curtain.tolist(), thickness=-1)


def _stage(image: np.ndarray, wall: np.ndarray, edge: int, rng: np.random.Generator) -> None:
    """Draw a stage with coloured spots and a curtain's folds."""
    height, width = image.shape[:2]
    folds = 1 + 0.1 * np.sin(np.arange(width) / width * 2 * np.pi * rng.integers(5, 9))
    image *= folds[None, :, None] * 0.9
    y, x = np.mgrid[:height, :width] / height
    for _ in range(2):
        centre = rng.uniform((0.1, 0.1), (width / height - 0.1, 0.6))
        spot = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / rng.uniform(0.03, 0.08))
        image += 0.3 * spot[..., None] * (np.array(_any_colour(rng)) - image)


def _park(image: np.ndarray, wall: np.ndarray, edge: int, rng: np.random.Generator) -> None:
    """Draw trees in front of a sky of the wall's colour."""
    height, width = image.shape[:2]
    hedge = 0.55 * wall + 0.45 * np.array((95, 140, 85))
    top = round(edge - 0.1 * height)
    image[top:edge] = hedge * 0.85
    for _ in range(int(rng.integers(2, 4))):
        x, size = round(rng.uniform(0.05, 0.95) * width), height * rng.uniform(0.08, 0.14)
        y = edge - height * rng.uniform(0.3, 0.45)
        cv2.line(image, (x, round(y)), (x, edge), (wall * 0.4 + (30, 20, 10)).tolist(), max(2, round(0.3 * size)))
        for dx, dy in ((-0.6, 0.2), (0.6, 0.2), (0, -0.4)):
            centre = (round(x + dx * size), round(y + dy * size))
            cv2.circle(image, centre, round(size * 0.8), hedge.tolist(), thickness=-1)


def _tiled(image: np.ndarray, wall: np.ndarray, edge: int, rng: np.random.Generator) -> None:
    """Draw tiles in two shades, with tiles that are wider than they are high."""
    height, width = image.shape[:2]
    tall = max(6, round(height * rng.uniform(0.1, 0.14)))
    wide = round(1.6 * tall)
    for row, y in enumerate(range(0, edge, tall)):
        for x in range(wide * (row % 2), width, 2 * wide):
            cv2.rectangle(image, (x, y), (x + wide - 1, y + tall - 1), (wall * 0.93).tolist(), thickness=-1)


_FURNISH = {
    "plain": _plain,
    "panelled": _panelled,
    "brick": _brick,
    "window": _window,
    "stage": _stage,
    "park": _park,
    "tiled": _tiled,
}


def _draw_floor(image: np.ndarray, wall: np.ndarray, edge: int, rng: np.random.Generator, planks: bool) -> None:
    height, width = image.shape[:2]
    if edge >= height:
        return
    tone = np.array([(196, 164, 128), (150, 118, 88), (170, 168, 166), (120, 124, 132)][rng.integers(4)], np.float64)
    ground = 0.5 * tone + 0.5 * wall * 0.8
    image[edge:] = np.linspace(0.86, 1.04, height - edge)[:, None, None] * ground
    if planks:
        for x in np.linspace(-0.6, 1.6, 12):
            ends = (round(x * width), height), (round((0.5 + (x - 0.5) * 0.6) * width), edge)
            cv2.line(image, *ends, (ground * 0.8).tolist(), max(1, height // 90))
    skirting = max(1, round(0.018 * height))
    image[edge - skirting : edge] = np.array(shade(tuple(wall.astype(int).tolist()), 0.72))
