"""One clip in memory: what training draws instead of reading files."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..skeleton import PoseSequence
from .captions import attributes_of, caption_of
from .render import render
from .scenes import FPS, make_scene


class ToyClip(NamedTuple):
    """A clip and all that is known about it."""

    frames: np.ndarray
    """uint8 [F, H, W, 3] RGB"""
    pose: PoseSequence
    masks: np.ndarray
    """bool [F, H, W]: pixels of which the dancer covers at least half"""
    caption: str
    attributes: dict[str, str]


def toy_clip(
    seed: int,
    difficulty: str = "easy",
    num_frames: int = 33,
    size: int | tuple[int, int] = 64,
    fps: float = FPS,
) -> ToyClip:
    """Draw clip `seed`: the same arguments give the same bytes.

    Args:
        seed: of the dancer, the dance, the wall and the camera.
        difficulty: `easy`, `standard` or `hard`.
        num_frames: F.
        size: height and width, or the side of a square.
        fps: frames per second.
    """
    height, width = (size, size) if isinstance(size, int) else size
    scene = make_scene(seed, difficulty, num_frames, aspect=width / height, fps=fps)
    rendered = render(scene, height, width)
    return ToyClip(rendered.frames, rendered.poses[0], rendered.masks, caption_of(scene), attributes_of(scene))
