"""Keypoints of a person over time, and the paper's operations on them: align, perturb, simulate, draw.

Body joints are OpenPose's 18: 0 nose, 1 neck, 2–4 right shoulder, elbow, wrist, 5–7 left, 8–10 right hip, knee, ankle,
11–13 left, 14 right eye, 15 left eye, 16 right ear, 17 left ear. hands[:, 0] is the left hand.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from safetensors.numpy import load, save

from .skeleton_drawing import draw_people

# Parts that the alignment measures: body part → the joints along each of its sides. `body_length` is neck to mid-hip.
PARTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "neck": ((0, 1),),
    "face_left": ((16, 14, 0),),
    "face_right": ((17, 15, 0),),
    "shoulder": ((2, 5),),
    "arm_upper": ((2, 3), (5, 6)),
    "arm_lower": ((3, 4), (6, 7)),
    "body_length": ((1, 8, 11),),
    "leg_upper": ((8, 9), (11, 12)),
    "leg_lower": ((9, 10), (12, 13)),
}


@dataclass(frozen=True)
class PoseSequence:
    """Keypoints of one person over F frames, x and y as shares of the picture's width and height.

    An unseen hand or face point is (−1, −1); an unseen body point keeps its coordinates and is marked in
    `body_visible`.
    """

    body: np.ndarray
    """[F, 18, 2] float"""
    body_visible: np.ndarray
    """[F, 18] bool"""
    hands: np.ndarray
    """[F, 2, 21, 2] float, left hand first"""
    faces: np.ndarray | None = None
    """[F, 68, 2] float, or None"""

    def __post_init__(self) -> None:
        num_frames = len(self.body)
        shapes = {"body": (18, 2), "body_visible": (18,), "hands": (2, 21, 2), "faces": (68, 2)}
        for name, array in self._arrays().items():
            if array.shape != (num_frames, *shapes[name]):
                raise ValueError(f"{name} must have shape {[num_frames, *shapes[name]]}, not {list(array.shape)}")
        if self.body_visible.dtype != bool:
            raise ValueError(f"body_visible must be bool, not {self.body_visible.dtype}")

    def __len__(self) -> int:
        return len(self.body)

    def __getitem__(self, frames: slice | np.ndarray) -> Self:
        """Select frames by a slice or an index array."""
        return type(self)(**{name: array[frames] for name, array in self._arrays().items()})

    def to_bytes(self) -> bytes:
        """Serialise to a safetensors file in float32."""
        arrays = self._arrays()
        seen = np.ascontiguousarray(arrays.pop("body_visible"))
        # `save` writes the memory of an array as it lies, whatever its strides.
        points = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
        return save({"body_visible": seen} | points)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the output of `to_bytes`."""
        return cls(**load(data))

    def _arrays(self) -> dict[str, np.ndarray]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in named.items() if array is not None}


def align_to_reference(
    driving: PoseSequence, reference: PoseSequence, driving_aspect: float, reference_aspect: float
) -> PoseSequence:
    """Give the driving motion the limb lengths and position of the reference person, as in the release.

    Scales (reference length / driving length) and the shift of the neck are measured in frame 0 of both and apply to
    the whole clip. Aspects are width / height of the two pictures. Returns float64 in the reference picture's
    coordinates. As released, points that were −1 are shifted too, and a limb of zero length in driving frame 0 loses
    its points (−1).
    """
    return align_people_to_reference([driving], reference, driving_aspect, reference_aspect)[0]


def align_people_to_reference(
    driving: list[PoseSequence], reference: PoseSequence, driving_aspect: float, reference_aspect: float
) -> list[PoseSequence]:
    """Apply `align_to_reference` to several people: the first is the main person, the others get its alignment.

    All limbs get the main person's scales, each relative to that person's own neck, and all points the main person's
    shift. Frame 0 is measured even if its points are not visible; `driving_poses` selects a suitable frame.
    """
    main, _, _ = in_heights(driving[0][:1], driving_aspect)
    body_reference, _, _ = in_heights(reference[:1], reference_aspect)
    scale = _limb_scales(body_reference[0], main[0])
    return place_people(driving, scale, body_reference[0, 1] - main[0, 1], driving_aspect, reference_aspect)


def place_people(
    driving: list[PoseSequence],
    scale: dict[str, float],
    shift: np.ndarray,
    driving_aspect: float,
    reference_aspect: float,
) -> list[PoseSequence]:
    """Scale the limbs of all people, each relative to their own neck, and shift all points (picture heights, [2])."""

    def placed(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        points = np.where(np.isnan(new) | (old == -1), -1.0, new) + shift
        points[..., 0] /= reference_aspect
        return points

    aligned = []
    for person in driving:
        body, hands, faces = in_heights(person, driving_aspect)
        new_body, new_hands = _rescale(body, hands, scale)
        aligned.append(
            PoseSequence(
                body=placed(person.body, new_body),
                body_visible=person.body_visible,
                hands=placed(person.hands, new_hands),
                faces=None if person.faces is None or faces is None else placed(person.faces, faces),
            )
        )
    return aligned


def perturb(pose: PoseSequence, scale: np.ndarray, aspect: np.ndarray, shift: np.ndarray | None = None) -> PoseSequence:
    """Compute the negative pose of pose guidance: per frame, x · aspect · scale and y · scale, with the neck fixed.

    `scale` and `aspect` are [F] (the release draws them from U(0.7, 1.3) and U(0.6, 1.4)). As released, face points are
    only shifted, by the offset that keeps the neck fixed. `shift` [F, 2], in picture widths and heights, moves all
    points including the neck: the paper shifts the negative pose; the release draws a shift but does not use it (None).
    """
    factor = np.stack([np.asarray(aspect) * np.asarray(scale), np.asarray(scale)], axis=-1)  # [F, 2]
    offset = pose.body[:, 1] * (1 - factor)
    if shift is not None:
        offset = offset + shift
    return PoseSequence(
        body=pose.body * factor[:, None] + offset[:, None],
        body_visible=pose.body_visible,
        hands=pose.hands * factor[:, None, None] + offset[:, None, None],
        faces=None if pose.faces is None else pose.faces + offset[:, None],
    )


def simulate_first_motion(pose: PoseSequence, target_frame: int) -> PoseSequence:
    """Simulate the first motion in pixel frames: p̃₁ = p₀ + (p_T − p₀) / T with T = `target_frame`.

    Only points visible in both frames 0 and T move. Other points of frame 1, and all other frames, are unchanged.
    Raises `ValueError` unless 1 ≤ T < F.
    """
    if not 1 <= target_frame < len(pose):
        raise ValueError(f"target_frame must be in 1..{len(pose) - 1}, not {target_frame}")

    def simulated(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
        both = (seen[0] & seen[target_frame])[..., None]
        result = points.copy()
        result[1] = np.where(both, points[0] + (points[target_frame] - points[0]) / target_frame, points[1])
        return result

    body_visible = pose.body_visible.copy()
    body_visible[1] |= body_visible[0] & body_visible[target_frame]
    return PoseSequence(
        body=simulated(pose.body, pose.body_visible),
        body_visible=body_visible,
        hands=simulated(pose.hands, _on_canvas(pose.hands)),
        faces=None if pose.faces is None else simulated(pose.faces, _on_canvas(pose.faces)),
    )


def draw(pose: PoseSequence | list[PoseSequence], height: int, width: int) -> np.ndarray:
    """Draw skeletons on black, uint8 [F, height, width, 3] RGB, identical to the input of the released model.

    For several people, pass a list of sequences of equal length, the main person first. As released, faces and feet are
    not drawn.
    """
    people = [pose] if isinstance(pose, PoseSequence) else pose
    bodies = np.stack([person.body for person in people], axis=1)  # [F, N, 18, 2]
    visible = np.stack([person.body_visible for person in people], axis=1)
    hands = np.stack([person.hands for person in people], axis=1)
    frames = np.zeros((len(bodies), height, width, 3), np.uint8)
    for canvas, frame_bodies, frame_visible, frame_hands in zip(frames, bodies, visible, hands, strict=True):
        draw_people(canvas, frame_bodies, frame_visible, frame_hands)
    return frames


def _on_canvas(points: np.ndarray) -> np.ndarray:
    """Return which hand or face points [..., 2] are visible; alignment moves others, but leaves them negative."""
    return np.asarray((points > 0).all(axis=-1))


def in_heights(pose: PoseSequence, aspect: float) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Convert body, hands and faces to float64 picture heights on both axes, so that lengths are comparable."""
    unit = np.array([aspect, 1.0])
    return pose.body * unit, pose.hands * unit, None if pose.faces is None else pose.faces * unit


def lengths(body: np.ndarray, part: str) -> np.ndarray:
    """Compute the lengths [..., n] of a part's n sides, of bodies [..., 18, 2] in picture heights."""
    if part == "body_length":
        return np.linalg.norm(body[..., 1, :] - (body[..., 8, :] + body[..., 11, :]) / 2, axis=-1)[..., None]
    sides = [np.linalg.norm(np.diff(body[..., list(side), :], axis=-2), axis=-1).sum(axis=-1) for side in PARTS[part]]
    return np.stack(sides, axis=-1)


def with_hands(scale: dict[str, float]) -> dict[str, float]:
    """Add the scale of the hands, the mean of the arm scales, as hands are not measured."""
    return {**scale, "hand": (scale["arm_upper"] + scale["arm_lower"]) / 2}


def _limb_scales(reference: np.ndarray, driving: np.ndarray) -> dict[str, float]:
    """Compute reference length / driving length of ten body parts, from bodies [18, 2]; NaN if it is undefined."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = with_hands({part: float((lengths(reference, part) / lengths(driving, part)).mean()) for part in PARTS})
    # 0 / 0: the part has no length in either picture, so any scale is correct. x / 0: no scale is correct.
    return {part: 1.0 if np.isnan(s) else np.nan if np.isinf(s) else float(s) for part, s in scale.items()}


def _rescale(body: np.ndarray, hands: np.ndarray, scale: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Scale limbs outwards from the neck: each joint keeps its direction from its parent and gets the new length."""
    new, new_hands = body.copy(), hands.copy()
    # child joints, parent joint, part whose scale applies; parents come before their children
    joint_tree = [
        ([0], 1, "neck"),
        ([14, 16], 0, "face_left"),
        ([15, 17], 0, "face_right"),
        ([2, 5], 1, "shoulder"),
        *[([3], 2, "arm_upper"), ([4], 3, "arm_lower"), ([6], 5, "arm_upper"), ([7], 6, "arm_lower")],
        ([8, 11], 1, "body_length"),
        *[([9], 8, "leg_upper"), ([10], 9, "leg_lower"), ([12], 11, "leg_upper"), ([13], 12, "leg_lower")],
    ]

    def stretched(points: np.ndarray, parent: int, factor: float) -> np.ndarray:
        # The release uses an OpenCV matrix, whose centre is float32. If the scale is large, as for a missing point of
        # the reference, this rounding affects the sixth digit.
        centre = new[:, [parent]].astype(np.float32).astype(np.float64)
        return factor * (new[:, [parent]] + points - body[:, [parent]]) + (1 - factor) * centre

    for joints, parent, part in joint_tree:
        new[:, joints] = stretched(body[:, joints], parent, scale[part])
    for hand, wrist in ((0, 7), (1, 4)):
        new_hands[:, hand] = stretched(hands[:, hand], wrist, scale["hand"])
    return new, new_hands
