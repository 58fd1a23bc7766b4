"""Draw what a dancer holds."""

from __future__ import annotations

import numpy as np

from .colours import COLOURS, shade
from .figure import Figure
from .look import Look
from .shapes import Layers


def add_prop(layers: Layers, figure: Figure, look: Look, joints: np.ndarray, height: int) -> None:
    """Add the held thing in front of the hand that holds it."""
    elbow, wrist = ((6, 7), (3, 4))[look.prop_hand]
    unit = look.body.arm * height
    colour = COLOURS[look.prop_colour]
    reach = joints[:, wrist] - joints[:, elbow]
    along = reach / np.maximum(np.linalg.norm(reach, axis=-1, keepdims=True), 1e-6)
    across = np.stack([-along[:, 1], along[:, 0]], axis=-1)
    palm = joints[:, wrist] + 0.28 * unit * along
    up = np.array([0.0, -1.0])
    layers.layer(figure.depth[:, [elbow, wrist]].mean(axis=1) + 0.02)
    if look.prop == "ball":
        layers.disc(palm + 0.3 * unit * along, 0.34 * unit, colour)
        layers.disc(palm + 0.2 * unit * along + 0.12 * unit * up, 0.12 * unit, shade(colour, 1.35))
    elif look.prop == "fan":
        tips = [
            palm + 0.95 * unit * (np.cos(turn) * along + np.sin(turn) * across) for turn in (-0.75, -0.25, 0.25, 0.75)
        ]
        layers.hull([(palm, 0.06 * unit), *((tip, 0.04 * unit) for tip in tips)], colour)
        layers.capsule(palm, _middle(tips), 0.04 * unit, 0.1 * unit, shade(colour, 0.7))
    elif look.prop == "stick":
        layers.capsule(palm - 0.9 * unit * across, palm + 0.9 * unit * across, 0.06 * unit, 0.06 * unit, colour)
    elif look.prop == "flag":
        top = palm + 1.5 * unit * along
        layers.capsule(palm - 0.3 * unit * along, top, 0.045 * unit, 0.045 * unit, (120, 90, 60))
        low = palm + 0.8 * unit * along
        layers.hull(
            [(point, 0.03 * unit) for point in (top, low, top + 0.85 * unit * across, low + 0.85 * unit * across)],
            colour,
        )
    elif look.prop == "balloon":
        # Air holds it back: it follows where the hand was three frames ago.
        late = np.concatenate([palm[:1].repeat(3, 0), palm])[: len(palm)]
        centre = 0.5 * palm + 0.5 * late + 1.5 * unit * up
        layers.capsule(palm, centre, 0.025 * unit, 0.025 * unit, (90, 88, 92))
        layers.capsule(centre, centre + 0.12 * unit * up, 0.38 * unit, 0.42 * unit, colour)
        layers.disc(centre + 0.2 * unit * up + np.array([-0.12, 0.0]) * unit, 0.1 * unit, shade(colour, 1.35))


def _middle(points: list[np.ndarray]) -> np.ndarray:
    return np.asarray(np.mean(points, axis=0))
