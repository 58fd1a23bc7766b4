"""Draw a flat dancer: filled, anti-aliased limbs in seeded clothes in front of a seeded, detailed wall."""

from __future__ import annotations

import cv2
import numpy as np

from ..skeleton import PoseSequence
from .colours import Colour, shade
from .flat import COLOURS, Look, dancer_look

_SUPERSAMPLING = 2
_SUBPIXEL_BITS = 4


def draw_dancer(pose: PoseSequence, seed: int, height: int, width: int) -> np.ndarray:
    """Draw dancer `seed` in `pose` in front of that dancer's wall: uint8 [F, height, width, 3] RGB."""
    large = (width * _SUPERSAMPLING, height * _SUPERSAMPLING)
    wall, look = _background(seed, large[1], large[0]), dancer_look(seed)
    frames = []
    for joints in pose.body:
        canvas = wall.copy()
        _paint_figure(canvas, joints * large, look)
        frames.append(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA))
    return np.stack(frames)


def _background(seed: int, height: int, width: int) -> np.ndarray:
    """Draw a panelled wall with pictures, lit from above, a plank floor, and a little grain."""
    rng = np.random.default_rng([seed, 3])
    wall = np.array(COLOURS[dancer_look(seed).wall], np.float64) * 0.6 + 55
    image = np.linspace(1.1, 0.8, height)[:, None, None] * np.broadcast_to(wall, (height, width, 3))
    image = np.ascontiguousarray(image)
    panel = height * rng.uniform(0.1, 0.16)
    for x in np.arange(panel / 2, width, panel):
        cv2.line(image, (round(x), 0), (round(x), height), (wall * 0.7).tolist(), 3)
    for _ in range(4):
        centre = rng.uniform((0, 0.05), (1, 0.7)) * (width, height)
        half = rng.uniform(0.04, 0.12, 2) * height
        corners = (centre - half).astype(int).tolist(), (centre + half).astype(int).tolist()
        cv2.rectangle(image, *corners, (wall * rng.uniform(0.65, 1.3)).tolist(), thickness=-1)
        cv2.rectangle(image, *corners, (wall * 0.35).tolist(), thickness=5)
    floor = int(0.82 * height)
    image[floor:] = wall * 0.45 + 25
    for x in np.linspace(-0.5, 1.5, 13):
        ends = (round(x * width), height), (round((0.5 + (x - 0.5) * 0.6) * width), floor)
        cv2.line(image, *ends, (wall * 0.25).tolist(), 3)
    grain = cv2.GaussianBlur(rng.normal(0, 24, (height, width)), (0, 0), 2)
    return np.clip(image + grain[..., None], 0, 255).astype(np.uint8)


def _paint_figure(canvas: np.ndarray, joints: np.ndarray, look: Look) -> None:
    """Paint the body of `joints` [18, 2] in pixels, from back to front."""
    size = look.torso * canvas.shape[0]
    head, shirt, trousers = look.head * canvas.shape[0], COLOURS[look.shirt], COLOURS[look.trousers]
    nose, neck = joints[0], joints[1]
    crown = nose - 0.3 * (neck - nose)
    hair_end = neck + 0.2 * (neck - nose) if look.long_hair else nose
    _capsule(canvas, crown, hair_end, 0.6 * head, 0.5 * head, look.hair)
    for hip, knee, ankle in ((8, 9, 10), (11, 12, 13)):
        _capsule(canvas, joints[hip], joints[knee], 0.22 * size, 0.16 * size, trousers)
        _capsule(canvas, joints[knee], joints[ankle], 0.16 * size, 0.1 * size, shade(trousers, 0.88))
        toe = joints[ankle] + np.array([0.16 * np.sign(joints[ankle, 0] - joints[hip, 0]), 0.06]) * size
        _capsule(canvas, joints[ankle], toe, 0.11 * size, 0.09 * size, (45, 42, 48))
    _capsule(canvas, neck, nose, 0.28 * head, 0.28 * head, shade(look.skin, 0.85))
    middle = (joints[8] + joints[11]) / 2
    _capsule(canvas, joints[8], joints[11], 0.2 * size, 0.2 * size, trousers)
    _polygon(
        canvas, np.stack([joints[2], joints[5], 0.7 * joints[11] + 0.3 * neck, 0.7 * joints[8] + 0.3 * neck]), shirt
    )
    _capsule(canvas, joints[2], joints[5], 0.13 * size, 0.13 * size, shirt)
    _capsule(canvas, 0.75 * neck + 0.25 * middle, 0.3 * neck + 0.7 * middle, 0.36 * size, 0.3 * size, shirt)
    for shoulder, elbow, wrist in ((2, 3, 4), (5, 6, 7)):
        _capsule(canvas, joints[shoulder], joints[elbow], 0.13 * size, 0.105 * size, shade(shirt, 0.88))
        _capsule(canvas, joints[elbow], joints[wrist], 0.085 * size, 0.065 * size, look.skin)
        palm = joints[wrist] + 0.18 * (joints[wrist] - joints[elbow])
        _capsule(canvas, joints[wrist], palm, 0.075 * size, 0.09 * size, look.skin)
    _capsule(canvas, nose - 0.1 * (neck - nose), nose + 0.2 * (neck - nose), 0.52 * head, 0.42 * head, look.skin)
    fringe = 1.1 * (crown - nose)
    _capsule(canvas, joints[14] + fringe, joints[15] + fringe, 0.22 * head, 0.22 * head, look.hair)
    for eye in (14, 15):
        _capsule(canvas, joints[eye], joints[eye], 0.07 * head, 0.07 * head, (30, 25, 25))


def _fixed_point(points: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(points) * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def _polygon(canvas: np.ndarray, points: np.ndarray, colour: Colour) -> None:
    cv2.fillConvexPoly(canvas, cv2.convexHull(_fixed_point(points)), colour, cv2.LINE_AA, _SUBPIXEL_BITS)


def _capsule(
    canvas: np.ndarray, start: np.ndarray, end: np.ndarray, start_radius: float, end_radius: float, colour: Colour
) -> None:
    """Fill the convex hull of two discs."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    _polygon(canvas, np.concatenate([start + start_radius * circle, end + end_radius * circle]), colour)
