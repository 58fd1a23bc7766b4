"""Procedural dancers: ordinary mp4s with keypoints and captions, some of them flawed on purpose."""

from ..supplied_poses import load_supplied_pose, save_supplied_pose
from .clip import ToyClip, toy_clip
from .clips import make_toy_clips
from .files import load_masks
from .flat import toy_pose
from .flat_drawing import draw_dancer
from .pairs import make_toy_pairs

__all__ = [
    "ToyClip",
    "draw_dancer",
    "load_masks",
    "load_supplied_pose",
    "make_toy_clips",
    "make_toy_pairs",
    "save_supplied_pose",
    "toy_clip",
    "toy_pose",
]
