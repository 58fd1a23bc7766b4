"""A flat dancer: a seeded body whose bones keep their lengths in the picture, and its keypoints in a seeded dance.

Without depth and turns, each frame can serve as a reference picture, and aligning one dancer's pose to another's
picture gives exactly the pose in which the other dances the same dance. Tests of scores and keypoints use this dancer;
the clips and pairs show richer ones (`scenes`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..skeleton import PoseSequence
from .colours import Colour

COLOURS: dict[str, Colour] = {
    "red": (205, 45, 50),
    "orange": (232, 135, 40),
    "yellow": (235, 205, 75),
    "green": (60, 150, 80),
    "turquoise": (60, 175, 175),
    "blue": (55, 95, 190),
    "violet": (125, 75, 165),
    "pink": (225, 130, 165),
    "white": (235, 233, 228),
    "grey": (125, 128, 135),
}
_SKINS: list[Colour] = [(244, 205, 175), (224, 172, 130), (176, 122, 84), (110, 74, 52)]
_HAIRS: list[Colour] = [(35, 28, 25), (95, 60, 35), (165, 110, 60), (200, 165, 95)]
_FLOOR_Y = 0.92


@dataclass(frozen=True)
class Look:
    """Body, clothes and background of a dancer. Lengths are relative to the height of the picture."""

    shirt: str
    trousers: str
    wall: str
    skin: Colour
    hair: Colour
    long_hair: bool
    head: float
    shoulder: float
    torso: float
    arm: float
    thigh: float
    shin: float


@dataclass(frozen=True)
class Dance:
    """Joint angles [F] in radians, and the shift of the body [F] in picture heights."""

    lean: np.ndarray
    tilt: np.ndarray
    head: np.ndarray
    arms: np.ndarray
    """[2, F] upper arms, left first: 0 hangs down, π/2 is level"""
    elbows: np.ndarray
    legs: np.ndarray
    knees: np.ndarray
    sway: np.ndarray
    arms_go_high: bool


def dancer_look(seed: int) -> Look:
    """Choose clothes, colours and proportions of dancer `seed`."""
    rng = np.random.default_rng([seed, 1])
    wall = str(rng.choice(list(COLOURS)))
    # Clothes differ from the wall in brightness too, so that the dancer is visible.
    clothes = sorted(COLOURS, key=lambda name: abs(sum(COLOURS[name]) - sum(COLOURS[wall])))[-6:]
    shirt, trousers = rng.choice(clothes, 2, replace=False)
    stature = rng.uniform(0.63, 0.72)

    def length(share: float) -> float:
        return float(stature * share * rng.uniform(0.92, 1.08))

    return Look(
        shirt=str(shirt),
        trousers=str(trousers),
        wall=wall,
        skin=_SKINS[rng.integers(len(_SKINS))],
        hair=_HAIRS[rng.integers(len(_HAIRS))],
        long_hair=bool(rng.random() < 0.5),
        head=length(0.12),
        shoulder=length(0.115),
        torso=length(0.3),
        arm=length(0.17),
        thigh=length(0.26),
        shin=length(0.26),
    )


def dance(seed: int, num_frames: int, fps: float) -> Dance:
    """Build the dance `seed`: every angle is a seeded sum of sinusoids on one beat."""
    rng = np.random.default_rng([seed, 2])
    beat_hz = rng.uniform(0.55, 0.8)
    times_s = np.arange(num_frames) / fps

    def wave(amplitude: float) -> np.ndarray:
        total = np.zeros(num_frames)
        for harmonic, share in ((0.5, 0.4), (1, 0.7), (2, 0.15)):
            phase = rng.uniform(0, 2 * np.pi)
            total += share * np.sin(2 * np.pi * harmonic * beat_hz * times_s + phase)
        return amplitude * total

    def pair(middle: float, amplitude: float) -> np.ndarray:
        return np.stack([middle + wave(amplitude), middle + wave(amplitude)])

    arms_go_high = bool(rng.random() < 0.5)
    return Dance(
        lean=wave(0.1),
        tilt=wave(0.12),
        head=wave(0.15),
        arms=pair(1.5 if arms_go_high else 0.9, 0.8),
        elbows=pair(0.6, 0.7),
        legs=pair(0.16, 0.14),
        knees=pair(0.16, 0.2),
        sway=wave(0.035),
        arms_go_high=arms_go_high,
    )


def toy_pose(
    seed: int,
    num_frames: int,
    fps: float = 24,
    *,
    aspect: float = 0.75,
    motion_seed: int | None = None,
    centre_x: float = 0.5,
) -> PoseSequence:
    """Compute the keypoints of dancer `seed` in the dance `motion_seed`: F frames, all visible, float64.

    The vertical motion keeps the feet of dancer `motion_seed` on the floor, for any dancer, because alignment scales
    limbs and not the path of the neck.

    Args:
        seed: of the dancer.
        num_frames: F.
        fps: frames per second.
        aspect: width / height of the picture; use at least 0.7 to keep the arms inside.
        motion_seed: of the dance; None: the dancer's own.
        centre_x: horizontal position of the dancer in [0, 1].
    """
    motion_seed = seed if motion_seed is None else motion_seed
    steps = dance(motion_seed, num_frames, fps)
    body, hands = _joints(dancer_look(seed), steps)
    own_body, _ = _joints(dancer_look(motion_seed), steps)
    to_feet = own_body[:, [10, 13], 1].max(axis=1)
    neck = np.stack(
        [centre_x * aspect + steps.sway, _FLOOR_Y - body[0, [10, 13], 1].max() + to_feet[0] - to_feet], axis=-1
    )
    unit = np.array([aspect, 1.0])
    return PoseSequence(
        body=(body + neck[:, None]) / unit,
        body_visible=np.ones((num_frames, 18), bool),
        hands=(hands + neck[:, None, None]) / unit,
    )


def _joints(look: Look, steps: Dance) -> tuple[np.ndarray, np.ndarray]:
    """Compute body [F, 18, 2] and hands [F, 2, 21, 2] in picture heights, with the neck at (0, 0)."""

    def down(angle: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(angle), np.cos(angle)], axis=-1)

    def turned(x: float, y: float, angle: np.ndarray) -> np.ndarray:
        return np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=-1)

    body = np.zeros((len(steps.lean), 18, 2))
    hands = np.zeros((len(steps.lean), 2, 21, 2))
    body[:, 0] = look.head * turned(0, -1, steps.head)
    for eye, ear, side in ((14, 16, -1), (15, 17, 1)):
        body[:, eye] = body[:, 0] + look.head * turned(0.24 * side, -0.2, steps.head)
        body[:, ear] = body[:, 0] + look.head * turned(0.5 * side, -0.1, steps.head)
    # side: the dancer faces the camera, so the left arm is on the right of the picture
    for k, (side, shoulder, hip) in enumerate(((1, 5, 11), (-1, 2, 8))):
        mirror = np.array([side, 1.0])
        forearm = down(steps.arms[k] + steps.elbows[k]) * mirror
        body[:, shoulder] = look.shoulder * turned(side, 0.15, steps.tilt)
        body[:, shoulder + 1] = body[:, shoulder] + look.arm * down(steps.arms[k]) * mirror
        body[:, shoulder + 2] = body[:, shoulder + 1] + 0.9 * look.arm * forearm
        # Hips scale with the torso and fingers with the arm, as alignment scales them.
        body[:, hip] = look.torso * (down(steps.lean) + turned(0.28 * side, 0, steps.lean))
        body[:, hip + 1] = body[:, hip] + look.thigh * down(steps.legs[k]) * mirror
        body[:, hip + 2] = body[:, hip + 1] + look.shin * down(steps.legs[k] - steps.knees[k]) * mirror
        for finger, spread in enumerate((-0.7, -0.3, 0.0, 0.25, 0.5)):
            pointing = down(steps.arms[k] + steps.elbows[k] + spread) * mirror
            reach = np.array([0.14, 0.22, 0.28, 0.32])[:, None] * (0.8 if finger == 0 else 1.0)
            points = body[:, [shoulder + 2]] + look.arm * reach * pointing[:, None]
            hands[:, k, 1 + 4 * finger : 5 + 4 * finger] = points
        hands[:, k, 0] = body[:, shoulder + 2]
    return body, hands
