"""Turn the motion of a BVH file into a dance that any body can dance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .bvh import Motion
from .figure import Dance, joints_of
from .look import Body

# Names of the joints at shoulder, elbow, wrist, hip, knee and ankle, after LEFT or RIGHT, in three common conventions.
_CONVENTIONS = [
    ("Arm", "ForeArm", "Hand", "UpLeg", "Leg", "Foot"),
    ("Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"),
    ("UpArm", "LowArm", "Hand", "UpLeg", "LowLeg", "Foot"),
]
_FLAT_S = 0.4  # a dance starts flat, so that limbs have their true lengths in frame 0, and gets its depth in this time
_TO_PICTURE = np.array([1.0, -1.0, 1.0])  # y points down


def dance_from_bvh(motion: Motion, body: Body, num_frames: int, fps: float, start_s: float = 0.0) -> Dance:
    """Let a body copy the directions of a motion's limbs, with the feet as far above the floor as they are there.

    The dancer faces the camera in frame 0, and all limbs lie in the plane of the picture then.

    Args:
        motion: of the file.
        body: that dances.
        num_frames: F.
        fps: frames per second.
        start_s: where in the motion the dance begins.

    Raises:
        ValueError: the motion is too short or lacks a joint.
    """
    limbs, head_joint = find_joints(motion)
    at = (start_s + np.arange(num_frames) / fps) / motion.frame_s
    if num_frames < 1 or at[0] < 0 or at[-1] > len(motion.values) - 1:
        seconds = (len(motion.values) - 1) * motion.frame_s
        raise ValueError(
            f"the motion lasts {seconds:.2f} s, expected at least {start_s + (num_frames - 1) / fps:.2f} s"
        )
    used = motion.values[int(at[0]) : int(np.ceil(at[-1])) + 1]
    positions, rotations = replace(motion, values=used).solve()
    at = at - int(at[0])
    upright = _upright(positions[:, limbs])
    points = _sample(positions[:, limbs] @ upright.T, at) * _TO_PICTURE
    head = upright @ rotations[np.round(at).astype(int), head_joint] @ upright.T
    head = _TO_PICTURE[:, None] * head * _TO_PICTURE
    return _dance(points, head, body, fps)


def find_joints(motion: Motion) -> tuple[list[int], int]:
    """Find the twelve joints of arms and legs, left before right, and the head by their names."""
    names = {joint.name.split(":")[-1].lower(): k for k, joint in enumerate(motion.joints)}
    for parts in _CONVENTIONS:
        found = {side: [names.get(f"{side}{part}".lower(), -1) for part in parts] for side in ("left", "right")}
        limbs = found["left"] + found["right"]
        if min(limbs) >= 0 and "head" in names:
            return limbs, names["head"]
    wanted = ", ".join(f"Left{part}" for part in _CONVENTIONS[0])
    raise ValueError(f"the motion has joints {', '.join(names)}; expected Head, {wanted} and the same on the right")


def _upright(points: np.ndarray) -> np.ndarray:
    """Find the rotation [3, 3] that makes y point up, from hips to shoulders; some programs let z point up."""
    up = (points[:, [0, 6]].mean(axis=1) - points[:, [3, 9]].mean(axis=1)).mean(axis=0)
    axis = int(np.abs(up).argmax())
    cycle = np.roll(np.eye(3), 1 - axis, axis=0)  # row 1 takes the axis that points up
    return cycle if up[axis] > 0 else np.diag([-1.0, -1.0, 1.0]) @ cycle


def _sample(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Interpolate values [N, ...] at positions between 0 and N − 1."""
    before = np.floor(at).astype(int)
    after = np.minimum(before + 1, len(values) - 1)
    share = (at - before).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray((1 - share) * values[before] + share * values[after])


def _dance(points: np.ndarray, head: np.ndarray, body: Body, fps: float) -> Dance:
    """Build the dance of points [F, 12, 3], six of the left and six of the right, and of head rotations [F, 3, 3]."""
    across = (points[0, 0] - points[0, 6]) + (points[0, 3] - points[0, 9])
    turn = np.arctan2(across[2], across[0])
    matrix = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    points = points @ matrix.T
    head = matrix @ head @ matrix.T
    left, right = points[:, :6], points[:, 6:12]
    depth = np.minimum(np.arange(len(points)) / fps / _FLAT_S, 1.0)
    flat = np.stack([np.ones_like(depth), np.ones_like(depth), depth], axis=-1)

    def towards(start: np.ndarray, end: np.ndarray) -> np.ndarray:
        way = (end - start) * flat
        return np.asarray(way / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-9))

    def directions(start: int, end: int) -> np.ndarray:
        return np.stack([towards(side[:, start], side[:, end]) for side in (left, right)], axis=1)

    chest_middle, hip_middle = (left[:, 0] + right[:, 0]) / 2, (left[:, 3] + right[:, 3]) / 2
    spine = towards(chest_middle, hip_middle)
    chest = _frame(towards(right[:, 0], left[:, 0]), spine)
    hips = _frame(towards(right[:, 3], left[:, 3]), np.array([0.0, 1.0, 0.0]))
    skull = _head(head, depth)
    toes = 0.9 * hips[:, None, :, 2] + np.array([1.0, -1.0])[:, None] * 0.45 * hips[:, None, :, 0]
    arms = (directions(0, 1), directions(1, 2))
    legs = (directions(3, 4), directions(4, 5))
    dance = Dance(np.zeros((len(points), 2)), chest, hips, skull, spine, *arms, *legs, toes)
    leg = np.linalg.norm(np.diff(left[:, 3:], axis=1), axis=-1).sum(axis=1).mean()
    ankles = points[:, [5, 11], 1]
    above = (ankles.max() - ankles.max(axis=1)) * body.leg / leg
    x = hip_middle[:, 0] * body.leg / leg - body.torso * spine[:, 0]
    y = -joints_of(body, dance)[:, [10, 13], 1].max(axis=1) - above
    path = np.stack([x, y], axis=-1)
    return replace(dance, path=path - path[:1])


def _frame(left: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Build rotations [F, 3, 3] whose first column is `left` and whose second is as near to `down` as it can be."""
    down = np.broadcast_to(down, left.shape)
    down = down - (down * left).sum(-1, keepdims=True) * left
    down = down / np.maximum(np.linalg.norm(down, axis=-1, keepdims=True), 1e-9)
    return np.stack([left, down, np.cross(left, down)], axis=-1)


def _head(rotation: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Turn the head as it turns after frame 0, in which it is upright and faces the camera."""
    turned = rotation @ rotation[0].T
    share = depth[:, None, None]
    blended = share * turned + (1 - share) * np.eye(3)
    return _frame(_unit(blended[..., 0]), _unit(blended[..., 1]))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))
