"""The body in a dance: joints in space, and their projection to keypoints of the picture.

A dance is the same for every body: unit directions of limbs, and the path of the neck. A body multiplies the directions
by its own bone lengths and drops the depth. Alignment scales limbs in the same way, so that aligning one dancer's pose
to the picture of another gives exactly the pose in which the other dances the same dance: a ground truth for pose
transfer. x goes to the right of the picture, y down, z towards the camera; the unit is the height of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from ..skeleton import PoseSequence
from .face_points import FACE_NORMALS, FACE_POINTS
from .look import Body

HIP_WIDTH = 0.27  # of the torso
FOREARM = 0.92  # of the upper arm
_SHOULDER = np.array([[1, 0.12, 0], [-1, 0.12, 0]])  # left, right
# In heights of the head, from the nose: right eye, left eye, right ear, left ear.
_EYES_AND_EARS = np.array([[-0.17, -0.1, -0.03], [0.17, -0.1, -0.03], [-0.38, -0.04, -0.4], [0.38, -0.04, -0.4]])
_NECK_TO_NOSE = np.array([0, -0.95, 0.31])
_FINGER_SPREAD = np.array([-0.75, -0.3, 0.0, 0.25, 0.5])
_FINGER_REACH = np.array([0.16, 0.26, 0.34, 0.4])


@dataclass(frozen=True)
class Dance:
    """Directions [F, ..., 3] of limbs, left before right, and the path of the neck [F, 2] from (0, 0) at frame 0."""

    path: np.ndarray
    chest: np.ndarray
    """rotation [F, 3, 3]: columns are the directions of the left side, down and front"""
    hips: np.ndarray
    head: np.ndarray
    spine: np.ndarray
    """[F, 3] from the neck to the middle of the hips"""
    upper_arms: np.ndarray
    """[F, 2, 3]"""
    forearms: np.ndarray
    thighs: np.ndarray
    shins: np.ndarray
    feet: np.ndarray

    def __len__(self) -> int:
        return len(self.path)

    def __getitem__(self, frames: slice | np.ndarray) -> Self:
        """Select frames by a slice or an index array."""
        return replace(self, **{name: array[frames] for name, array in vars(self).items()})


@dataclass(frozen=True)
class Figure:
    """A body in a dance as it is drawn: keypoints, and what a picture needs besides them."""

    pose: PoseSequence
    aspect: float
    depth: np.ndarray
    """[F, 18] of the joints; larger is nearer to the camera"""
    dance: Dance

    def __len__(self) -> int:
        return len(self.pose)

    def __getitem__(self, frames: slice | np.ndarray) -> Self:
        """Select frames by a slice or an index array."""
        return replace(self, pose=self.pose[frames], depth=self.depth[frames], dance=self.dance[frames])


def joints_of(body: Body, dance: Dance) -> np.ndarray:
    """Compute joints [F, 18, 3] of a body, with the neck at (0, 0, 0)."""
    joints = np.zeros((len(dance), 18, 3))
    joints[:, 0] = body.neck * dance.head @ _NECK_TO_NOSE
    joints[:, 14:] = joints[:, :1] + body.face * _EYES_AND_EARS @ dance.head.transpose(0, 2, 1)
    shoulders = body.shoulder * _SHOULDER @ dance.chest.transpose(0, 2, 1)
    for k, (shoulder, hip, side) in enumerate(((5, 11, 1), (2, 8, -1))):
        joints[:, shoulder] = shoulders[:, k]
        joints[:, shoulder + 1] = joints[:, shoulder] + body.arm * dance.upper_arms[:, k]
        joints[:, shoulder + 2] = joints[:, shoulder + 1] + FOREARM * body.arm * dance.forearms[:, k]
        joints[:, hip] = body.torso * (dance.spine + side * HIP_WIDTH * dance.hips[..., 0])
        joints[:, hip + 1] = joints[:, hip] + body.thigh * dance.thighs[:, k]
        joints[:, hip + 2] = joints[:, hip + 1] + body.shin * dance.shins[:, k]
    return joints


def hands_of(body: Body, dance: Dance) -> np.ndarray:
    """Compute hands [F, 2, 21, 2], each with its wrist at (0, 0)."""
    palms = np.cross(dance.forearms, dance.chest[:, None, :, 2])
    palms /= np.linalg.norm(palms, axis=-1, keepdims=True) + 1e-9
    palms[:, 1] *= -1  # thumbs point up when arms are level
    fingers = (
        np.cos(_FINGER_SPREAD)[:, None] * dance.forearms[:, :, None, :2]
        - np.sin(_FINGER_SPREAD)[:, None] * palms[:, :, None, :2]
    )
    reach = np.where(np.arange(5)[:, None] == 0, 0.8, 1.0) * _FINGER_REACH
    hands = np.zeros((len(dance), 2, 21, 2))
    hands[:, :, 1:] = (body.arm * reach[..., None] * fingers[..., None, :]).reshape(len(dance), 2, 20, 2)
    return hands


def make_figure(body: Body, dance: Dance, start: tuple[float, float], aspect: float) -> Figure:
    """Put a body into a dance, with its neck at `start` (x, y in picture heights) at frame 0."""
    joints = joints_of(body, dance)
    neck = np.asarray(start) + dance.path
    unit = np.array([aspect, 1.0])
    positions = joints[..., :2] + neck[:, None]
    hands = hands_of(body, dance) + positions[:, [7, 4], None]
    faces = positions[:, :1] + body.face * (FACE_POINTS @ dance.head.transpose(0, 2, 1))[..., :2]
    pose = PoseSequence(
        body=positions / unit,
        body_visible=np.ones((len(dance), 18), bool),
        hands=hands / unit,
        faces=faces / unit,
    )
    return Figure(pose, aspect, joints[..., 2], dance)


def realigned(figure: Figure, pose: PoseSequence, aspect: float) -> Figure:
    """Draw the same dance with other keypoints, as `align_to_reference` gives them."""
    return replace(figure, pose=pose, aspect=aspect)


def with_visibility(figure: Figure, hidden: np.ndarray | None = None) -> PoseSequence:
    """Mark points as unseen that are outside the picture, on the far side of the head, or hidden.

    Args:
        figure: with all points.
        hidden: bool [F, H, W], pixels at which something else is in front of the dancer.
    """
    pose, head = figure.pose, figure.dance.head
    front = head[:, 2, 2]
    side = head[:, 2, 0]  # depth of the direction to the left side of the head
    visible = _seen(pose.body, hidden)
    visible[:, 0] &= front > -0.15
    for eye, ear, sign in ((14, 16, -1), (15, 17, 1)):
        visible[:, eye] &= front + 0.45 * sign * side > 0
        visible[:, ear] &= sign * side > -0.35
    hands = np.where(_seen(pose.hands, hidden)[..., None], pose.hands, -1.0)
    faces = pose.faces
    if faces is not None:
        towards = (FACE_NORMALS @ head.transpose(0, 2, 1))[..., 2]
        faces = np.where((_seen(faces, hidden) & (towards > -0.1))[..., None], faces, -1.0)
    return replace(pose, body_visible=visible, hands=hands, faces=faces)


def _seen(points: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
    inside = np.asarray(((points > 0) & (points < 1)).all(axis=-1))
    if hidden is not None:
        height, width = hidden.shape[1:]
        x, y = (np.clip(points * [width, height], 0, [width - 1, height - 1]).astype(int)).reshape(len(points), -1, 2).T
        inside &= ~hidden[np.arange(len(points)), y, x].T.reshape(inside.shape)
    return inside
