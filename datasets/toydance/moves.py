"""The moves of procedural dances: key poses on the beat for legs and body, and for arms.

A key pose is one value per channel. Lengths are in legs, angles in radians. Pairs are left, right. Sideways is from the
dancer's right to left, which is towards the right of the picture.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CHANNELS = (
    *("x", "crouch", "hop", "yaw", "lean", "bend", "twist", "hip_x", "head_turn", "head_tilt", "nod"),
    *("raise_left", "raise_right", "elbow_left", "elbow_right", "front_left", "front_right"),
    *("foot_left", "foot_right", "lift_left", "lift_right", "ahead_left", "ahead_right", "knee_left", "knee_right"),
)
CHANNEL = {name: index for index, name in enumerate(CHANNELS)}
STANCE = 0.2  # legs, from the middle to a foot

Key = dict[str, float]
Move = Callable[[np.random.Generator, int], list[Key]]


def _sides(sign: int) -> tuple[str, str]:
    """Return the side that leads when the dancer goes towards `sign`, and the other."""
    return ("left", "right") if sign > 0 else ("right", "left")


def side_step(rng: np.random.Generator, sign: int) -> list[Key]:
    """Return a step to the side that closes."""
    near, far = _sides(sign)
    reach = float(rng.uniform(0.42, 0.56)) * sign
    step = {"x": reach * 0.6, f"foot_{near}": reach, f"lift_{near}": 0.0, "crouch": 0.1, "lean": 0.12 * sign}
    return [step, {"x": reach, f"foot_{near}": reach, f"foot_{far}": reach, "crouch": 0.02}]


def lunge(rng: np.random.Generator, sign: int) -> list[Key]:
    """Return a lunge: sink over a wide foot, then draw the other foot in."""
    near, far = _sides(sign)
    reach = float(rng.uniform(0.6, 0.75)) * sign
    low = {"x": reach * 0.75, f"foot_{near}": reach, "crouch": 0.26, "lean": -0.2 * sign, "head_tilt": 0.15 * sign}
    return [low, {"x": reach * 0.95, f"foot_{near}": reach, f"foot_{far}": reach, "crouch": 0.03}]


def squat(rng: np.random.Generator, sign: int) -> list[Key]:
    """Return a squat with the knees outwards."""
    depth = float(rng.uniform(0.25, 0.38))
    spread = {"foot_left": 0.16, "foot_right": -0.16, "knee_left": 0.2, "knee_right": 0.2}
    return [{"crouch": depth, "bend": 0.2, **spread}, {"crouch": 0.0, "x": 0.1 * sign, **spread}]


def knee_lift(rng: np.random.Generator, sign: int) -> list[Key]:
    """Return a lift of one knee, and a step with it."""
    near, far = _sides(sign)
    up = {
        f"lift_{near}": float(rng.uniform(0.4, 0.52)),
        f"knee_{near}": float(rng.uniform(0, 0.9)),
        "lean": -0.1 * sign,
    }
    return [{**up, "x": -0.03 * sign}, {"x": 0.22 * sign, f"foot_{near}": 0.25 * sign, f"foot_{far}": 0.12 * sign}]


def kick(rng: np.random.Generator, sign: int) -> list[Key]:
    """Return a kick to the side with a straight leg, and a step."""
    near, _ = _sides(sign)
    out, high = float(rng.uniform(0.5, 0.62)), float(rng.uniform(0.25, 0.42))
    up = {f"foot_{near}": out * sign, f"lift_{near}": high, "lean": -0.28 * sign, "x": -0.05 * sign}
    return [up, {"x": 0.18 * sign, f"foot_{near}": 0.2 * sign, "crouch": 0.08}]


def turn(rng: np.random.Generator, sign: int) -> list[Key]:
    """Return a turn around that travels."""
    step = 0.12 * sign
    sixths = [
        {"yaw": sign * part * np.pi / 3, "x": step * part, "foot_left": step * part, "foot_right": step * part}
        for part in range(1, 7)
    ]
    return [key | {f"lift_{side}": 0.08} for key, side in zip(sixths, ("left", "right") * 3, strict=True)]


def look_back(rng: np.random.Generator, sign: int) -> list[Key]:
    """Return a turn to the side and back, with a look into the camera."""
    angle = sign * float(rng.uniform(0.7, 1.5))
    step = 0.15 * sign
    there = {"yaw": angle, "x": step, "foot_left": step, "foot_right": step, "crouch": 0.12, "head_turn": -0.6 * angle}
    return [there, {"yaw": 0.0, "x": step, "foot_left": step, "foot_right": step}]


def jump(rng: np.random.Generator, sign: int) -> list[Key]:
    """Return a crouch and a jump with spread legs."""
    step = float(rng.uniform(0.1, 0.3)) * sign
    wide = {"foot_left": step + 0.16, "foot_right": step - 0.16}
    return [{"crouch": 0.24, "bend": 0.15}, {"hop": float(rng.uniform(0.2, 0.3)), "x": step, "crouch": 0.1, **wide}]


def hip_circle(rng: np.random.Generator, sign: int) -> list[Key]:
    """Return a circle of the hips over standing feet."""
    swing = 0.19 * sign
    return [
        {"hip_x": swing, "crouch": 0.1, "lean": -0.16 * sign},
        {"hip_x": 0.0, "crouch": 0.17, "bend": 0.15},
        {"hip_x": -swing, "crouch": 0.1, "lean": 0.16 * sign},
        {"hip_x": 0.0, "crouch": 0.02},
    ]


def lean(rng: np.random.Generator, sign: int) -> list[Key]:
    """Return a lean far to the side."""
    far = float(rng.uniform(0.35, 0.5)) * sign
    return [{"lean": far, "hip_x": -0.12 * sign, "crouch": 0.06}, {"lean": -0.3 * far, "hip_x": 0.05 * sign}]


MOVES: dict[str, Move] = {
    "steps from side to side": side_step,
    "lunges": lunge,
    "squats": squat,
    "lifts the knees": knee_lift,
    "kicks": kick,
    "turns around": turn,
    "looks over the shoulder": look_back,
    "jumps": jump,
    "circles the hips": hip_circle,
    "leans to the side": lean,
}

SEEN_FROM_THE_WAIST = ("turns around", "looks over the shoulder", "circles the hips", "leans to the side")

# Left and right arm of key poses: raise (0 hangs, π/2 level, π up), elbow (outwards), front (0 sideways, π/2 forward).
_UP, _HIGH, _LEVEL, _LOW, _HANG = 2.75, 2.2, 1.5, 0.8, 0.25
Arm = tuple[float, float, float]
ARMS: dict[str, list[tuple[Arm, Arm]]] = {
    "waves both arms": [((_UP, 0.2, 0), (_HIGH, 0.5, 0)), ((_HIGH, 0.5, 0), (_UP, 0.2, 0))],
    "raises one arm after the other": [((_UP, 0.1, 0), (_LOW, 0.3, 0)), ((_LOW, 0.3, 0), (_UP, 0.1, 0))],
    "swings the arms": [((_LOW, 0.3, 0.4), (_LEVEL, 0.5, 0)), ((_LEVEL, 0.5, 0), (_LOW, 0.3, 0.4))],
    "bends the elbows up and down": [((_LEVEL, 1.4, 0), (_LEVEL, -1.2, 0)), ((_LEVEL, -1.2, 0), (_LEVEL, 1.4, 0))],
    "opens and closes the arms": [((_LEVEL, 0.1, 0), (_LEVEL, 0.1, 0)), ((1.1, -1.4, 0.9), (1.1, -1.4, 0.9))],
    "points to the sky and to the floor": [((2.4, 0.0, 0), (0.7, 0.0, 0)), ((0.5, -0.9, 0.5), (2.2, -0.5, 0))],
    "puts the hands on the hips": [((0.8, -1.75, 0), (0.8, -1.75, 0)), ((0.95, -1.6, 0.2), (0.95, -1.6, 0.2))],
    "circles the arms": [
        *[((_LEVEL, 0.1, 0), (_LEVEL, 0.1, 0)), ((_UP, 0.3, 0), (_UP, 0.3, 0))],
        *[((_LEVEL, 0.1, 0.5), (_LEVEL, 0.1, 0.5)), ((_HANG, 0.2, 0.3), (_HANG, 0.2, 0.3))],
    ],
}
START_ARMS: list[tuple[Arm, Arm]] = [
    ((0.3, 0.12, 0), (0.3, 0.12, 0)),
    ((_LEVEL, 0.15, 0), (_LEVEL, 0.15, 0)),
    ((2.3, 0.3, 0), (2.3, 0.3, 0)),
    ((0.8, -1.75, 0), (0.8, -1.75, 0)),
    ((2.4, 0.2, 0), (0.4, 0.1, 0)),
    ((0.4, 0.1, 0), (2.4, 0.2, 0)),
    ((1.3, 1.2, 0), (1.3, 1.2, 0)),
]
