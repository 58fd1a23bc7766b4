"""Read BVH files: a skeleton, and its rotations in each frame."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_CHANNELS = {f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation")}
_MAX_VALUES = 50_000_000


@dataclass(frozen=True)
class Joint:
    """A joint of the hierarchy."""

    name: str
    parent: int
    """index of the parent, −1 for the root"""
    offset: tuple[float, float, float]
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Motion:
    """The content of a BVH file: y points up; angles are in degrees."""

    joints: tuple[Joint, ...]
    """parents come before their children; the end of a chain is named `PARENT end`"""
    values: np.ndarray
    """[F, channels]"""
    frame_s: float

    def solve(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute positions [F, J, 3] and rotations [F, J, 3, 3] of all joints in the world."""
        num_frames = len(self.values)
        positions = np.zeros((num_frames, len(self.joints), 3))
        rotations = np.zeros((num_frames, len(self.joints), 3, 3))
        column = 0
        for index, joint in enumerate(self.joints):
            local = np.broadcast_to(np.eye(3), (num_frames, 3, 3))
            place = np.tile(np.array(joint.offset), (num_frames, 1))
            for channel in joint.channels:
                axis, value = "XYZ".index(channel[0]), self.values[:, column]
                column += 1
                if channel.endswith("position"):
                    place[:, axis] = value
                else:
                    local = local @ _turn(axis, np.deg2rad(value))
            if joint.parent < 0:
                positions[:, index], rotations[:, index] = place, local
            else:
                frame = rotations[:, joint.parent]
                positions[:, index] = positions[:, joint.parent] + (frame @ place[..., None])[..., 0]
                rotations[:, index] = frame @ local
        return positions, rotations


def read_bvh(path: Path) -> Motion:
    """Read a BVH file; raises `ValueError` that names the file and what is wrong if it does not have the format."""
    try:
        return _parse(deque(Path(path).read_text(encoding="utf-8", errors="strict").split()))
    except (ValueError, IndexError) as error:
        reason = "it ends too early" if isinstance(error, IndexError) else error
        raise ValueError(f"{Path(path).name} is not a valid BVH file: {reason}") from error


def _parse(words: deque[str]) -> Motion:
    _expect(words, "HIERARCHY")
    joints = _parse_joints(words)
    _expect(words, "MOTION")
    _expect(words, "Frames:")
    num_frames = int(words.popleft())
    _expect(words, "Frame")
    _expect(words, "Time:")
    frame_s = float(words.popleft())
    num_channels = sum(len(joint.channels) for joint in joints)
    if num_frames < 1 or not 0 < frame_s < 10 or num_frames * num_channels > _MAX_VALUES:
        raise ValueError(f"it has {num_frames} frames of {frame_s} s, expected at least one and a positive time")
    if len(words) != num_frames * num_channels:
        raise ValueError(f"it has {len(words)} values, expected {num_frames} frames × {num_channels} channels")
    values = np.array(words, dtype=np.float64).reshape(num_frames, num_channels)
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite")
    return Motion(tuple(joints), values, frame_s)


def _parse_joints(words: deque[str]) -> list[Joint]:
    """Parse the hierarchy; `open_joints` are those whose brace is not closed yet."""
    joints: list[Joint] = []
    open_joints: list[int] = []
    while not joints or open_joints:
        word = words.popleft()
        if word == "}":
            open_joints.pop()
            continue
        if word not in ("ROOT", "JOINT", "End") or (word == "ROOT") != (not joints):
            raise ValueError(f"{word!r} in the hierarchy, expected ROOT, JOINT, End Site or a closing brace")
        name = words.popleft()
        while words[0] != "{":
            name += f" {words.popleft()}"  # some programs write names with spaces
        words.popleft()
        parent = open_joints[-1] if open_joints else -1
        _expect(words, "OFFSET")
        x, y, z = (float(words.popleft()) for _ in range(3))
        channels = () if word == "End" else _parse_channels(words)
        if not np.isfinite((x, y, z)).all():
            raise ValueError(f"the offset of {name} is not finite")
        joints.append(Joint(f"{joints[parent].name} end" if word == "End" else name, parent, (x, y, z), channels))
        open_joints.append(len(joints) - 1)
    return joints


def _parse_channels(words: deque[str]) -> tuple[str, ...]:
    _expect(words, "CHANNELS")
    channels = tuple(words.popleft() for _ in range(int(words.popleft())))
    unknown = [channel for channel in channels if channel not in _CHANNELS]
    if unknown or len(set(channels)) != len(channels):
        raise ValueError(f"channels are {' '.join(channels)}, expected different ones out of Xposition .. Zrotation")
    return channels


def _expect(words: deque[str], expected: str) -> None:
    word = words.popleft()
    if word != expected:
        raise ValueError(f"{word!r} where {expected} is expected")


def _turn(axis: int, angle: np.ndarray) -> np.ndarray:
    """Build rotations [F, 3, 3] about an axis."""
    matrix = np.zeros((len(angle), 3, 3))
    matrix[:, axis, axis] = 1
    one, other = (axis + 1) % 3, (axis + 2) % 3
    matrix[:, one, one] = matrix[:, other, other] = np.cos(angle)
    matrix[:, other, one], matrix[:, one, other] = np.sin(angle), -np.sin(angle)
    return matrix
