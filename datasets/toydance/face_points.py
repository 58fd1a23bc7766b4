"""Places of the 68 face points on a head, from the nose, in heights of the head: x left, y down, z front."""

from __future__ import annotations

import numpy as np

_WIDE, _TALL, _DEEP = 0.385, 0.5, 0.42  # half axes of the head
CENTRE = np.array([0, -0.06, -0.43])  # of the head, from the tip of the nose


def _flat_points() -> np.ndarray:
    """Compute the 68 points [68, 2] as seen from the front, from the centre of the head."""
    turn = np.linspace(0.02 * np.pi, 0.98 * np.pi, 17)
    jaw = np.stack([-0.37 * np.cos(turn), 0.02 + 0.45 * np.sin(turn)], axis=-1)
    brow = np.stack([np.linspace(-0.27, -0.07, 5), np.array([-0.12, -0.155, -0.165, -0.155, -0.135])], axis=-1)
    bridge = np.stack([np.zeros(4), np.linspace(-0.05, 0.07, 4)], axis=-1)
    nostrils = np.stack([np.linspace(-0.055, 0.055, 5), np.array([0.1, 0.11, 0.115, 0.11, 0.1])], axis=-1)
    around = np.array([np.pi, 1.33 * np.pi, 1.67 * np.pi, 0, 0.33 * np.pi, 0.67 * np.pi])
    eye = np.stack([-0.17 + 0.06 * np.cos(around), -0.04 + 0.035 * np.sin(around)], axis=-1)
    mirror = np.array([-1.0, 1.0])
    outer = np.pi + np.arange(12) * np.pi / 6
    inner = np.pi + np.arange(8) * np.pi / 4
    lips = [
        np.stack([w * np.cos(t), 0.235 + h * np.sin(t)], -1) for w, h, t in ((0.12, 0.05, outer), (0.09, 0.02, inner))
    ]
    other_eye = (eye * mirror)[[3, 2, 1, 0, 5, 4]]
    return np.concatenate([jaw, brow, (brow * mirror)[::-1], bridge, nostrils, eye, other_eye, *lips])


_FLAT = _flat_points()
_FRONT = np.sqrt(np.clip(1 - (_FLAT[:, 0] / _WIDE) ** 2 - (_FLAT[:, 1] / _TALL) ** 2, 0.0, None))
_ON_HEAD = np.concatenate([_FLAT, _DEEP * _FRONT[:, None]], axis=-1)
FACE_POINTS = _ON_HEAD + CENTRE
FACE_NORMALS = _ON_HEAD / np.array([_WIDE, _TALL, _DEEP]) ** 2
FACE_NORMALS /= np.linalg.norm(FACE_NORMALS, axis=-1, keepdims=True)
