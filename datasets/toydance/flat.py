"""A flat dance: keypoints of a seeded body whose bones keep their lengths in the picture, for any number of frames.

Without depth and turns, each frame can serve as a reference picture. The clips and pairs show richer dances
(`choreography`); this one stays for keypoints alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from ..skeleton import PoseSequence
from .bodies import add_dancer
from .difficulties import difficulty_of
from .figure import Dance as SpatialDance
from .figure import Figure
from .look import Body, Look, make_look
from .shapes import Layers
from .walls import draw_wall

_FLOOR_Y = 0.92


@dataclass(frozen=True)
class FlatBody:
    """Lengths of limbs in picture heights."""

    head: float
    shoulder: float
    torso: float
    arm: float
    thigh: float
    shin: float


@dataclass(frozen=True)
class FlatDance:
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


def flat_body(seed: int) -> FlatBody:
    """Choose the proportions of dancer `seed`."""
    rng = np.random.default_rng([seed, 1])
    rng.choice(10)  # these three draws were colours; seeds keep their bodies
    rng.choice(6, 2, replace=False)
    stature = rng.uniform(0.63, 0.72)

    def length(share: float) -> float:
        return float(stature * share * rng.uniform(0.92, 1.08))

    rng.integers(4), rng.integers(4), rng.random()
    return FlatBody(
        head=length(0.12),
        shoulder=length(0.115),
        torso=length(0.3),
        arm=length(0.17),
        thigh=length(0.26),
        shin=length(0.26),
    )


def dance(seed: int, num_frames: int, fps: float) -> FlatDance:
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
    return FlatDance(
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
    body, hands = _joints(flat_body(seed), steps)
    own_body, _ = _joints(flat_body(motion_seed), steps)
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


def _joints(look: FlatBody, steps: FlatDance) -> tuple[np.ndarray, np.ndarray]:
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


def draw_dancer(pose: PoseSequence, seed: int, height: int, width: int) -> np.ndarray:
    """Draw dancer `seed` in any pose in front of that dancer's wall: uint8 [F, height, width, 3] RGB.

    The limbs are as long as the keypoints say; clothes, hair and wall are those of an easy scene of that seed.
    """
    look = _fitted(make_look(seed, difficulty_of("easy").look), pose, width / height)
    factor = 2 if height < 400 else 1
    large = (height * factor, width * factor)
    layers = Layers(len(pose), outline=0.011 * large[0] if look.cartoon else 0.0)
    add_dancer(layers, _as_figure(pose, width / height), look, large[0])
    painter = layers.finish()
    wall = np.dstack([draw_wall("plain", look.wall, seed, *large, 0.82), np.zeros(large, np.uint8)])
    frames = np.empty((len(pose), height, width, 3), np.uint8)
    for k in range(len(pose)):
        canvas = wall.copy()
        painter.paint(canvas, k)
        frames[k] = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)[..., :3]
    return frames


def _fitted(look: Look, pose: PoseSequence, aspect: float) -> Look:
    """Give a look the proportions of a pose, measured in its first frame."""
    body = pose.body[0] * [aspect, 1.0]

    def length(start: int, end: int) -> float:
        return float(np.linalg.norm(body[start] - body[end]))

    torso = float(np.linalg.norm(body[1] - (body[8] + body[11]) / 2))
    return replace(
        look,
        body=Body(
            neck=length(0, 1),
            face=max(length(16, 17) / 0.76, 0.4 * torso),
            shoulder=length(2, 5) / 2,
            torso=torso,
            arm=length(2, 3),
            thigh=length(8, 9),
            shin=length(9, 10),
            girth=look.body.girth,
        ),
    )


def _as_figure(pose: PoseSequence, aspect: float) -> Figure:
    """Add what a flat pose lacks: a dancer who faces the camera, with the head upright between the eyes."""
    num_frames = len(pose)
    eyes = (pose.body[:, 15] - pose.body[:, 14]) * [aspect, 1.0]
    roll = np.arctan2(eyes[:, 1], eyes[:, 0])
    head = np.tile(np.eye(3), (num_frames, 1, 1))
    head[:, :2, :2] = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]).transpose(2, 0, 1)
    facing = np.tile(np.eye(3), (num_frames, 1, 1))
    down, pairs = facing[:, 1], np.zeros((num_frames, 2, 3))
    toes = np.tile([[0.5, 0.0, 0.9], [-0.5, 0.0, 0.9]], (num_frames, 1, 1))
    dance = SpatialDance(np.zeros((num_frames, 2)), facing, facing, head, down, pairs, pairs, pairs, pairs, toes)
    return Figure(pose, aspect, np.zeros((num_frames, 18)), dance)
