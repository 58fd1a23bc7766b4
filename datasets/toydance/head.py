"""Draw a head: hair in its style, face with eyes, brows and mouth, hat, glasses and beard, as seen from any side."""

from __future__ import annotations

import numpy as np

from .colours import COLOURS, HAIRS, shade
from .face_points import CENTRE, FACE_POINTS
from .figure import Figure
from .look import Look
from .shapes import Layers

_DARK = (38, 30, 34)
_RIGHT_EYE, _LEFT_EYE = FACE_POINTS[36:42].mean(axis=0), FACE_POINTS[42:48].mean(axis=0)
_RIGHT_BROW, _LEFT_BROW = FACE_POINTS[[17, 21]], FACE_POINTS[[22, 26]]


class Head:
    """Places on the head of a figure in pixels."""

    def __init__(self, figure: Figure, look: Look, height: int) -> None:
        self.size = look.body.face * height
        self._rotation = figure.dance.head
        self._nose = figure.pose.body[:, 0] * [figure.aspect * height, height]
        self.front = self._rotation[:, 2, 2]
        self.left = self._rotation[:, 2, 0]

    def at(self, x: float, y: float, z: float) -> np.ndarray:
        """Return the place [F, 2] at x, y, z from the centre of the head, in heights of the head."""
        return self.from_nose(np.array([x, y, z]) + CENTRE)

    def from_nose(self, offset: np.ndarray) -> np.ndarray:
        """Return the place [F, 2] at an offset [3] from the nose."""
        return np.asarray(self._nose + self.size * (self._rotation @ offset)[:, :2])


def add_head(layers: Layers, figure: Figure, look: Look, height: int) -> None:
    """Add the layers of a head: what hangs behind it, the head itself, and what hangs before it when it turns away."""
    head = Head(figure, look, height)
    depth = figure.depth[:, 0]
    _add_hanging_hair(layers, head, look, depth - 0.35 * look.body.face * head.front)
    # In front of the trunk and of arms beside the head, also from behind.
    layers.layer(np.maximum(depth, 0.006) + 0.012)
    hair, skin = HAIRS[look.hair_colour], look.skin
    size = head.size
    base = skin if look.hair == "bald" else hair
    volume = {"curly": 1.3, "bald": 0.98, "mohawk": 0.98}.get(look.hair, 1.07)
    if look.hair == "mohawk":
        base = shade(skin, 0.92)
        layers.capsule(head.at(0, -0.5, 0.2), head.at(0, -0.45, -0.3), 0.15 * size, 0.15 * size, hair)
    if look.hair == "bun":
        layers.disc(head.at(0, -0.58, -0.12), 0.19 * size, hair)
    # Ears are seen unless they are on the far side.
    for sign in (1, -1):
        layers.disc(head.at(sign * 0.37, 0.04, 0.0), 0.085 * size, shade(skin, 0.9), sign * head.left > -0.3)
    layers.capsule(head.at(0, -0.12, -0.04), head.at(0, 0.05, -0.04), 0.41 * volume * size, 0.36 * size, base)
    facing = head.front > -0.35
    layers.capsule(head.at(0, -0.03, 0.13), head.at(0, 0.2, 0.12), 0.345 * size, 0.27 * size, skin, facing)
    _add_fringe(layers, head, look)
    _add_face(layers, head, look)
    _add_hat(layers, head, look)


def _add_hanging_hair(layers: Layers, head: Head, look: Look, depth: np.ndarray) -> None:
    layers.layer(depth)
    hair, size = HAIRS[look.hair_colour], head.size
    if look.hair in ("long", "bob"):
        end, width = (0.85, 0.3) if look.hair == "long" else (0.32, 0.3)
        layers.hull(
            [
                (head.at(0, -0.1, -0.06), 0.44 * size),
                (head.at(0.2, end, -0.22), (width - 0.12) * size),
                (head.at(-0.2, end, -0.22), (width - 0.12) * size),
            ],
            shade(hair, 0.88),
        )
    elif look.hair == "ponytail":
        tail = head.at(0, -0.28, -0.5)
        # The tail swings: it follows where the head was two frames ago.
        late = np.concatenate([tail[:1].repeat(2, 0), tail])[: len(tail)]
        lag = np.clip(late - tail, -0.5 * size, 0.5 * size)
        end = head.at(0, 0.55, -0.62) + 0.8 * lag
        layers.capsule(tail, 0.5 * tail + 0.5 * end, 0.15 * size, 0.17 * size, shade(hair, 0.88))
        layers.capsule(0.5 * tail + 0.5 * end, end, 0.17 * size, 0.07 * size, shade(hair, 0.88))


def _add_fringe(layers: Layers, head: Head, look: Look) -> None:
    hair, size, facing = HAIRS[look.hair_colour], head.size, head.front > 0.1
    if look.hair in ("short", "ponytail"):
        layers.capsule(head.at(-0.3, -0.3, 0.16), head.at(0.16, -0.37, 0.24), 0.12 * size, 0.1 * size, hair, facing)
    elif look.hair in ("long", "bob"):
        for sign in (1, -1):
            layers.capsule(
                head.at(sign * 0.07, -0.4, 0.2), head.at(sign * 0.36, 0.0, 0.12), 0.09 * size, 0.08 * size, hair, facing
            )
    elif look.hair in ("bun", "curly"):
        layers.capsule(head.at(-0.24, -0.34, 0.18), head.at(0.24, -0.34, 0.18), 0.1 * size, 0.1 * size, hair, facing)


def _add_face(layers: Layers, head: Head, look: Look) -> None:
    size, brow = head.size, shade(HAIRS[look.hair_colour], 0.75)
    large = 1.35 if look.cartoon else 1.0
    for eye, ends, sign in ((_RIGHT_EYE, _RIGHT_BROW, -1), (_LEFT_EYE, _LEFT_BROW, 1)):
        seen = head.front + 0.45 * sign * head.left > 0.25
        centre = head.from_nose(eye + np.array([0, 0.02, 0]))
        layers.disc(centre, 0.085 * large * size, (250, 248, 244), seen)
        layers.disc(centre, 0.052 * large * size, _DARK, seen)
        outer, inner = (head.from_nose(end + np.array([0, -0.02, 0])) for end in ends)
        layers.capsule(outer, inner, 0.026 * size, 0.026 * size, brow, seen)
        if look.glasses:
            layers.capsule(
                head.from_nose(eye + np.array([-0.05, 0.02, 0])),
                head.from_nose(eye + np.array([0.05, 0.02, 0])),
                *(0.09 * size, 0.09 * size),
                *((25, 25, 32), seen),
            )
    facing = head.front > 0.2
    if look.beard:
        layers.capsule(
            head.at(-0.16, 0.33, 0.2),
            head.at(0.16, 0.33, 0.2),
            0.15 * size,
            0.15 * size,
            HAIRS[look.hair_colour],
            facing,
        )
    layers.capsule(
        head.at(0, 0.02, 0.4), head.at(0, 0.075, 0.43), 0.03 * size, 0.045 * size, shade(look.skin, 0.84), facing
    )
    mouth, half = (186, 62, 66), 0.06 + 0.05 * look.smile
    up = 0.035 * look.smile
    for sign in (1, -1):
        layers.capsule(
            head.at(0, 0.245, 0.36), head.at(sign * half, 0.245 - up, 0.33), 0.034 * size, 0.026 * size, mouth, facing
        )


def _add_hat(layers: Layers, head: Head, look: Look) -> None:
    size, colour = head.size, COLOURS[look.hat_colour]
    if look.hat == "none":
        return
    top = -0.3 if look.hat != "top hat" else -0.42
    if look.hat == "top hat":
        layers.hull([(head.at(sign * 0.24, y, 0.0), 0.05 * size) for sign in (1, -1) for y in (-0.95, -0.42)], colour)
        layers.capsule(head.at(-0.42, top, 0.0), head.at(0.42, top, 0.0), 0.06 * size, 0.06 * size, shade(colour, 0.8))
        return
    layers.hull(
        [
            (head.at(0, -0.3, -0.02), 0.38 * size),
            (head.at(0.36, -0.24, 0.0), 0.07 * size),
            (head.at(-0.36, -0.24, 0.0), 0.07 * size),
        ],
        colour,
    )
    if look.hat == "cap":
        brim = head.front > -0.3
        layers.capsule(
            head.at(-0.2, -0.24, 0.42), head.at(0.2, -0.24, 0.42), 0.09 * size, 0.09 * size, shade(colour, 0.75), brim
        )
    else:
        layers.capsule(
            head.at(-0.34, -0.22, 0.05), head.at(0.34, -0.22, 0.05), 0.09 * size, 0.09 * size, shade(colour, 0.8)
        )
        layers.disc(head.at(0, -0.72, -0.05), 0.12 * size, shade(colour, 1.25))
