"""Four-legged dancers: a seeded animal seen from the side, its keypoints as a human skeleton, and its picture.

The joints are those of `models.pose.animal`: front legs are arms, hind legs are legs, and ears, which the network does
not find, are marked as unseen behind the eyes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..skeleton import PoseSequence
from .colours import Colour, shade
from .shapes import Layers

COATS: dict[str, Colour] = {
    "brown": (146, 96, 58),
    "black": (52, 48, 52),
    "white": (236, 232, 224),
    "grey": (140, 140, 148),
    "golden": (214, 164, 88),
}
SPECIES = ("dog", "cat", "horse")
ACTIONS = ("trots on the spot", "bows and stretches", "rears up", "jumps")
_HIPS = 0.06  # of the torso, between the near and the far hip
_FLOOR_Y = 0.9


@dataclass(frozen=True)
class Animal:
    """An animal; lengths are in picture heights."""

    species: str
    coat: str
    socks: str
    facing: int
    """1: to the right of the picture, −1: to the left"""
    neck: float
    torso: float
    shoulder: float
    arm: float
    thigh: float
    shin: float
    head: float

    @property
    def thick(self) -> float:
        """Unit of thickness."""
        return self.torso * {"dog": 1.0, "cat": 0.85, "horse": 0.95}[self.species]


def make_animal(seed: int) -> Animal:
    """Choose species, coat and proportions of animal `seed`."""
    rng = np.random.default_rng([seed, 11])
    species = str(rng.choice(SPECIES))
    coat, socks = (str(name) for name in rng.choice(list(COATS), 2, replace=False))
    leg = {"dog": 0.17, "cat": 0.13, "horse": 0.2}[species]

    def length(share: float) -> float:
        return float(share * rng.uniform(0.93, 1.07))

    return Animal(
        species=species,
        coat=coat,
        socks=socks,
        facing=int(rng.choice((-1, 1))),
        neck=length({"dog": 0.17, "cat": 0.14, "horse": 0.24}[species]),
        torso=length({"dog": 0.32, "cat": 0.31, "horse": 0.34}[species]),
        shoulder=length(0.018),
        arm=length(leg * 0.95),
        thigh=length(leg * 0.95),
        shin=length(leg),
        head=length({"dog": 0.13, "cat": 0.12, "horse": 0.14}[species]),
    )


def action_of(seed: int) -> str:
    """Name what animal dance `seed` is."""
    return ACTIONS[int(np.random.default_rng([seed, 12]).integers(len(ACTIONS)))]


@dataclass(frozen=True)
class _Gait:
    """Angles [F] in radians of an animal's dance, and shifts [F] in picture heights; near and far legs are [2, F]."""

    pitch: np.ndarray
    nod: np.ndarray
    sway: np.ndarray
    hop: np.ndarray
    front: np.ndarray
    hind: np.ndarray
    bend: np.ndarray


def _gait(seed: int, num_frames: int, fps: float) -> _Gait:
    """Compute dance `seed` of an animal, which begins on four straight legs."""
    rng = np.random.default_rng([seed, 13])
    beat = 2 * np.pi * float(rng.uniform(0.8, 1.0)) * np.arange(num_frames) / fps
    phase = rng.uniform(0, 2 * np.pi, 4)
    action = action_of(seed)
    grow = np.minimum(np.arange(num_frames) / fps / 0.4, 1.0)
    slow = 0.5 - 0.5 * np.cos(0.5 * beat)
    rears, bows = slow * (action == "rears up"), slow * (action == "bows and stretches")
    pitch = 0.85 * rears - 0.42 * bows
    if action in ("trots on the spot", "jumps"):
        pitch = 0.06 * np.sin(beat + phase[0]) * grow
    swing = {"trots on the spot": 0.5, "jumps": 0.35}.get(action, 0.18) * grow
    legs = np.array([[0.0], [np.pi]])  # of a pair, one swings forward when the other swings back
    return _Gait(
        pitch=pitch,
        nod=0.25 * np.sin(0.5 * beat + phase[1]) * grow,
        sway=0.07 * np.sin(0.5 * beat) * float(rng.choice((-1, 1))),
        hop=0.16 * np.abs(np.sin(0.5 * beat)) * (action == "jumps"),
        front=swing * np.sin(beat + legs) + rears + 0.35 * bows,
        hind=swing * np.sin(beat + np.pi - legs) + 0.3 * np.maximum(pitch, 0),
        bend=0.5 * np.maximum(0, np.cos(beat + legs)) * swing + 0.9 * rears,
    )


def animal_pose(
    animal: Animal, num_frames: int, fps: float = 16, *, dance_seed: int = 0, aspect: float = 1.0, centre_x: float = 0.5
) -> PoseSequence:
    """Compute the keypoints of an animal in dance `dance_seed`: F frames, float64."""
    gait, side = _gait(dance_seed, num_frames, fps), animal.facing

    def towards(angle: np.ndarray) -> np.ndarray:
        """Return the direction at an angle: down for 0, forward for π/2."""
        return np.stack([side * np.sin(angle), np.cos(angle)], axis=-1)

    body = np.zeros((num_frames, 18, 2))
    back = towards(gait.pitch - np.pi / 2)
    body[:, 0] = animal.neck * towards(2.05 + gait.nod + 0.5 * gait.pitch)
    for k, (shoulder, hip, eye, ear) in enumerate(((5, 11, 15, 17), (2, 8, 14, 16))):
        offset, front, hind = 1 - 2 * k, gait.front[k], gait.hind[k]
        body[:, shoulder] = offset * np.array([animal.shoulder, 0.25 * animal.shoulder])
        body[:, shoulder + 1] = body[:, shoulder] + animal.arm * towards(front - 0.18)
        body[:, shoulder + 2] = body[:, shoulder + 1] + animal.arm * towards(front + 0.05 - 1.3 * gait.bend[k])
        body[:, hip] = animal.torso * (back + offset * np.array([_HIPS, 0.25 * _HIPS]))
        body[:, hip + 1] = body[:, hip] + animal.thigh * towards(hind + 0.22)
        body[:, hip + 2] = body[:, hip + 1] + animal.shin * towards(hind - 0.2)
        body[:, eye] = body[:, 0] + animal.head * np.array([-0.5 * side - 0.06 * offset, -0.32])
        body[:, ear] = 2 * body[:, eye] - body[:, 0]
    lowest = body[:, [4, 7, 10, 13], 1].max(axis=1)
    neck = np.stack([centre_x * aspect + 0.5 * side * animal.torso + gait.sway, _FLOOR_Y - lowest - gait.hop], axis=-1)
    visible = np.ones((num_frames, 18), bool)
    visible[:, 16:] = False
    hands = np.full((num_frames, 2, 21, 2), -1.0)
    return PoseSequence((body + neck[:, None]) / np.array([aspect, 1.0]), visible, hands)


def add_animal(layers: Layers, pose: PoseSequence, animal: Animal, height: int, width: int) -> None:
    """Add an animal to a picture: far legs, tail, trunk, neck, head, near legs."""
    joints = pose.body * [width, height]
    unit, side = animal.thick * height, animal.facing
    coat, sock = COATS[animal.coat], COATS[animal.socks]
    near, far = ((5, 11), (2, 8)) if side < 0 else ((2, 8), (5, 11))
    hips = joints[:, [8, 11]].mean(axis=1)
    layers.layer(0)
    for start in far:
        _add_leg(layers, joints, start, unit, shade(coat, 0.78), shade(sock, 0.78))
    layers.layer(1)
    wag = np.sin(np.arange(len(pose)) * 0.9)[:, None] * np.array([0.05, 0.03]) * unit
    tip = hips + unit * np.array([-0.42 * side, 0.25 if animal.species == "horse" else -0.42]) + wag
    layers.capsule(hips + np.array([-0.1 * side, -0.05]) * unit, tip, 0.07 * unit, 0.045 * unit, shade(coat, 0.85))
    neck, nose = joints[:, 1], joints[:, 0]
    layers.capsule(neck, hips, 0.235 * unit, 0.2 * unit, coat)
    skull = nose + animal.head * height * np.array([-0.55 * side, -0.2])
    layers.capsule(neck + np.array([0.02 * side, -0.02]) * unit, skull, 0.18 * unit, 0.12 * unit, coat)
    if animal.species == "horse":
        layers.capsule(
            neck + np.array([-0.12 * side, -0.12]) * unit,
            skull + np.array([-0.1 * side, -0.1]) * unit,
            0.06 * unit,
            0.06 * unit,
            sock,
        )
    layers.layer(2)
    size = animal.head * height
    for shift in (-0.25, 0.12):
        root = skull + size * np.array([shift * side - 0.1 * side, -0.3])
        tall = 0.42 if animal.species != "dog" else 0.1
        layers.capsule(root, root + size * np.array([-0.12 * side, -tall]), 0.16 * size, 0.07 * size, shade(coat, 0.8))
    layers.disc(skull, 0.48 * size, coat)
    layers.capsule(
        skull + size * np.array([0.2 * side, 0.1]),
        nose + size * np.array([-0.08 * side, 0.04]),
        0.3 * size,
        0.2 * size,
        shade(coat, 1.08),
    )
    layers.disc(nose, 0.1 * size, (40, 32, 34))
    eye = joints[:, 15 if side < 0 else 14]
    layers.disc(eye + size * np.array([0.05 * side, 0.05]), 0.12 * size, (248, 246, 240))
    layers.disc(eye + size * np.array([0.08 * side, 0.05]), 0.075 * size, (30, 26, 30))
    layers.layer(3)
    for start in near:
        _add_leg(layers, joints, start, unit, coat, sock)


def _add_leg(layers: Layers, joints: np.ndarray, start: int, unit: float, coat: Colour, sock: Colour) -> None:
    top, middle, paw = joints[:, start], joints[:, start + 1], joints[:, start + 2]
    layers.capsule(middle, paw, 0.075 * unit, 0.05 * unit, coat)
    layers.capsule(0.45 * middle + 0.55 * paw, paw, 0.062 * unit, 0.065 * unit, sock)
    layers.capsule(top, middle, 0.13 * unit, 0.08 * unit, coat)
