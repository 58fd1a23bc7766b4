"""Draw a dancer's body and clothes: limbs, trunk, sleeves, skirts, patterns, shoes and hands."""

from __future__ import annotations

import numpy as np

from .colours import COLOURS, Colour, shade
from .figure import Figure
from .head import add_head
from .look import Look
from .props import add_prop
from .shapes import Layers

_SOLE = (45, 42, 48)


def add_dancer(layers: Layers, figure: Figure, look: Look, height: int) -> None:
    """Add all layers of a dancer to a picture `height` pixels high."""
    joints = figure.pose.body * [figure.aspect * height, height]
    unit = look.body.girth * look.body.torso * height
    for k in (0, 1):
        _add_leg(layers, figure, look, joints, unit, k)
    _add_trunk(layers, figure, look, joints, unit)
    add_head(layers, figure, look, height)
    for k in (0, 1):
        _add_arm(layers, figure, look, joints, unit, k)
    if look.prop != "none":
        add_prop(layers, figure, look, joints, height)


def _between(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    return (1 - share) * start + share * end


def _add_leg(layers: Layers, figure: Figure, look: Look, joints: np.ndarray, unit: float, k: int) -> None:
    hip, knee, ankle = ((11, 12, 13), (8, 9, 10))[k]
    depth = figure.depth[:, [hip, knee, ankle]].mean(axis=1) - 0.06
    # A skirt covers the legs from all sides.
    layers.layer(np.minimum(depth, -0.01) if look.bottom in ("skirt", "dress") else depth)
    dark = 0.9 if k == 0 else 0.97
    skin = shade(look.skin, dark)
    cloth = shade(COLOURS[look.bottom_colour], dark)
    hips, knees, ankles = joints[:, hip], joints[:, knee], joints[:, ankle]
    bare = look.bottom in ("shorts", "skirt", "dress")
    toes = ankles + figure.dance.feet[:, k, :2] * 0.42 * unit + np.array([0, 0.2]) * unit
    heels = ankles + np.array([0, 0.16]) * unit
    shin_radii = (0.17 * unit, 0.115 * unit) if bare else (0.19 * unit, 0.15 * unit)
    layers.capsule(knees, ankles, *shin_radii, skin if bare else cloth)
    shoe = COLOURS[look.shoes]
    layers.capsule(heels, toes, 0.15 * unit, 0.13 * unit, shoe)
    layers.capsule(_between(knees, ankles, 0.93), heels, 0.13 * unit, 0.14 * unit, shoe)
    layers.capsule(hips, knees, 0.25 * unit, shin_radii[0], skin if bare else cloth)
    if look.bottom == "shorts":
        layers.capsule(hips, _between(hips, knees, 0.6), 0.27 * unit, 0.235 * unit, cloth)


def _add_trunk(layers: Layers, figure: Figure, look: Look, joints: np.ndarray, unit: float) -> None:
    layers.layer(np.zeros(len(figure)))
    neck, hips = joints[:, 1], joints[:, [8, 11]]
    shoulders = joints[:, [2, 5]]
    middle = hips.mean(axis=1)
    top, bottom = COLOURS[look.top_colour], COLOURS[look.bottom_colour]
    across = (hips - middle[:, None]) * 0.8
    waist = _between(neck, middle, 0.62)[:, None] + across
    hem = _between(neck, middle, 0.92)[:, None] + across * 1.05
    layers.hull(
        [(hips[:, 0], 0.24 * unit), (hips[:, 1], 0.24 * unit), (waist[:, 0], 0.14 * unit), (waist[:, 1], 0.14 * unit)],
        bottom,
    )
    if look.bottom in ("skirt", "dress"):
        _add_skirt(layers, joints, unit, waist, bottom)
    throat = _between(joints[:, 0], neck, 0.45)
    layers.capsule(neck, throat, 0.14 * unit, 0.13 * unit, shade(look.skin, 0.84))
    chest = [(shoulders[:, k], 0.15 * unit) for k in (0, 1)]
    layers.hull([*chest, *((waist[:, k], 0.15 * unit) for k in (0, 1))], top)
    if look.bottom != "dress":
        layers.hull([(points[:, k], 0.17 * unit) for points in (waist, hem) for k in (0, 1)], top)
        layers.capsule(hem[:, 0], hem[:, 1], 0.17 * unit, 0.17 * unit, top)
    _add_pattern(layers, look, shoulders, waist, hem, unit)
    if look.top == "hoodie":
        layers.capsule(
            _between(neck, shoulders[:, 0], 0.5),
            _between(neck, shoulders[:, 1], 0.5),
            0.14 * unit,
            0.14 * unit,
            shade(top, 0.8),
        )
    elif look.top != "tank top":
        facing = figure.dance.chest[:, 2, 2] > 0.2
        layers.disc(_between(neck, throat, 0.12), 0.145 * unit, shade(look.skin, 0.93), facing)
    else:
        layers.capsule(neck, _between(neck, middle, 0.12), 0.17 * unit, 0.15 * unit, shade(look.skin, 0.96))


def _add_pattern(
    layers: Layers, look: Look, shoulders: np.ndarray, waist: np.ndarray, hem: np.ndarray, unit: float
) -> None:
    colour = COLOURS[look.pattern_colour]
    rows = {"band": [0.62], "stripes": [0.3, 0.62, 0.94], "dots": [0.35, 0.62, 0.89]}.get(look.pattern, [])
    for k, row in enumerate(rows):
        ends = [_between(shoulders[:, side], waist[:, side], row) for side in (0, 1)]
        if look.pattern == "dots":
            for share in (0.2, 0.5, 0.8) if k % 2 else (0.35, 0.65):
                layers.disc(_between(ends[0], ends[1], share), 0.055 * unit, colour)
        else:
            width = (0.085 if look.pattern == "band" else 0.05) * unit
            layers.capsule(ends[0], ends[1], width, width, colour)
    if look.pattern == "stripes" and look.bottom != "dress":
        layers.capsule(hem[:, 0], hem[:, 1], 0.05 * unit, 0.05 * unit, colour)


def _add_skirt(layers: Layers, joints: np.ndarray, unit: float, waist: np.ndarray, colour: Colour) -> None:
    hips, knees = joints[:, [8, 11]], joints[:, [9, 12]]
    ends = _between(hips, knees, 0.62)
    middle = ends.mean(axis=1, keepdims=True)
    out = ends - middle
    length = np.linalg.norm(out, axis=-1, keepdims=True)
    # A skirt flares: its hem is never narrower than the hips are.
    ends = middle + out / np.maximum(length, 1e-6) * np.maximum(length, 0.42 * unit)
    layers.hull(
        [
            *((ends[:, k], 0.13 * unit) for k in (0, 1)),
            *((waist[:, k], 0.14 * unit) for k in (0, 1)),
            *((hips[:, k], 0.25 * unit) for k in (0, 1)),
        ],
        shade(colour, 0.95),
    )


def _add_arm(layers: Layers, figure: Figure, look: Look, joints: np.ndarray, unit: float, k: int) -> None:
    shoulder, elbow, wrist = ((5, 6, 7), (2, 3, 4))[k]
    depth = figure.depth
    shoulders, elbows, wrists = joints[:, shoulder], joints[:, elbow], joints[:, wrist]
    cloth, skin = shade(COLOURS[look.top_colour], 0.87), shade(look.skin, 0.97)
    sleeve = {"t-shirt": 0.65, "tank top": 0.0}.get(look.top, 1.0)
    long_sleeve = look.top in ("long-sleeved shirt", "hoodie")
    layers.layer((depth[:, shoulder] + depth[:, elbow]) / 2 + 0.012)
    layers.capsule(shoulders, elbows, 0.155 * unit, 0.125 * unit, cloth if long_sleeve else skin)
    if 0 < sleeve < 1:
        layers.capsule(shoulders, _between(shoulders, elbows, sleeve), 0.165 * unit, 0.155 * unit, cloth)
    layers.layer((depth[:, elbow] + depth[:, wrist]) / 2 + 0.016)
    layers.capsule(elbows, wrists, 0.12 * unit, (0.11 if long_sleeve else 0.09) * unit, cloth if long_sleeve else skin)
    hands = figure.pose.hands[:, k] * (joints[:1, 1] / figure.pose.body[:1, 1])
    _add_hand(layers, hands, skin, unit)


def _add_hand(layers: Layers, hand: np.ndarray, skin: Colour, unit: float) -> None:
    """Draw a palm with a thumb and two groups of fingers."""
    layers.capsule(hand[:, 0], hand[:, 10], 0.085 * unit, 0.105 * unit, skin)
    layers.capsule(hand[:, 1], hand[:, 3], 0.04 * unit, 0.035 * unit, skin)
    layers.capsule(hand[:, 6], hand[:, 8], 0.05 * unit, 0.04 * unit, skin)
    layers.capsule(hand[:, 14], hand[:, 16], 0.05 * unit, 0.04 * unit, skin)
