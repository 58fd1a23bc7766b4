"""Procedural dancers: ordinary mp4s with keypoints and captions, some of them flawed on purpose."""

from .clip import ToyClip, toy_clip
from .sets import draw_dancer, load_supplied_pose, make_toy_clips, make_toy_pairs, save_supplied_pose, toy_pose

__all__ = [
    "ToyClip",
    "draw_dancer",
    "load_supplied_pose",
    "make_toy_clips",
    "make_toy_pairs",
    "save_supplied_pose",
    "toy_clip",
    "toy_pose",
]
