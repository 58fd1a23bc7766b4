"""Sets beyond one human dancer: two people, and four-legged animals; in the layout of `make_toy_pairs`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from ..skeleton import PoseSequence, align_people_to_reference, align_to_reference
from ..supplied_poses import save_supplied_pose
from ..video import encode
from .captions import caption_of
from .figure import realigned
from .files import save_masks, write_bytes, write_png
from .pairs import PAIR_FPS
from .quadruped import Animal, action_of, add_animal, animal_pose, make_animal
from .render import Rendered, render
from .scenes import make_duo
from .shapes import Layers
from .walls import draw_wall

ZERO_SHOT_SEEDS = 50_000_000
KINDS = ("two people", "quadruped")
_WALLS = ("pink", "turquoise", "yellow", "blue", "green", "orange")


def make_toy_zero_shot(
    directory: Path,
    kind: str,
    seed: int = 0,
    num_pairs: int = 3,
    num_frames: int = 33,
    *,
    size: tuple[int, int] = (128, 128),
) -> Path:
    """Write pairs of two people or of animals, and return the path of their `pairs.jsonl`.

    `truth` shows the two people (or the animal) of the picture in the dance of those of the driving video, as
    `align_people_to_reference` aligns them; beside it are silhouettes and keypoints.

    Args:
        directory: of the set.
        kind: `two people` or `quadruped`.
        seed: of the set.
        num_pairs: number of pairs.
        num_frames: of each video.
        size: height and width of pictures and videos.
    """
    _check(kind)
    for folder in ("images", "driving", "truth"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for k in range(num_pairs):
        name = f"pair_{k}"
        image, driving, truth, prompt = make_zero_shot(kind, ZERO_SHOT_SEEDS + 1000 * seed + 2 * k, num_frames, size)
        save_supplied_pose(directory / "images" / f"{name}.png", image.poses, PAIR_FPS)
        write_png(directory / "images" / f"{name}.png", image.frames[0])
        for folder, rendered in (("driving", driving), ("truth", truth)):
            path = directory / folder / f"{name}.mp4"
            save_supplied_pose(path, rendered.poses, PAIR_FPS)
            save_masks(path, rendered.masks)
            encode(rendered.frames, path, PAIR_FPS)
        rows.append({"id": name, "image": f"images/{name}.png", "driving": f"driving/{name}.mp4", "prompt": prompt})
    pairs = directory / "pairs.jsonl"
    write_bytes(pairs, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return pairs


_Made = tuple[Rendered, Rendered, Rendered, str]


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")


def make_zero_shot(kind: str, seed: int, num_frames: int, size: tuple[int, int]) -> _Made:
    """Draw reference picture, driving video and truth of one pair, and describe the truth."""
    _check(kind)
    return (_two_people if kind == "two people" else _animals)(seed, num_frames, size)


def _two_people(seed: int, num_frames: int, size: tuple[int, int]) -> _Made:
    """Let a couple dance what another couple dances."""
    aspect = size[1] / size[0]
    host, driving = (make_duo(seed + k, "easy", num_frames, aspect=aspect) for k in (0, 1))
    aligned = align_people_to_reference(
        [dancer.figure.pose for dancer in driving.dancers], host.main.figure.pose[:1], aspect, aspect
    )
    dancers = tuple(
        replace(own, figure=realigned(other.figure, pose, aspect), steps=other.steps)
        for own, other, pose in zip(host.dancers, driving.dancers, aligned, strict=True)
    )
    truth = replace(host, dancers=dancers)
    first = replace(host, dancers=tuple(replace(dancer, figure=dancer.figure[:1]) for dancer in host.dancers))
    return render(first, *size), render(driving, *size), render(truth, *size), caption_of(truth)


def _animals(seed: int, num_frames: int, size: tuple[int, int]) -> _Made:
    """Let an animal do what another one does; both look to the same side."""
    height, width = size
    aspect = width / height
    host, other = make_animal(seed), replace(make_animal(seed + 1), facing=make_animal(seed).facing)
    still = animal_pose(host, 1, PAIR_FPS, dance_seed=seed, aspect=aspect)
    driving = animal_pose(other, num_frames, PAIR_FPS, dance_seed=seed + 1, aspect=aspect)
    truth = align_to_reference(driving, still, aspect, aspect)
    wall = _WALLS[seed // 2 % len(_WALLS)]
    action = action_of(seed + 1)
    prompt = f"A {host.coat} {host.species} with {host.socks} paws {action}. The wall behind is {wall}."
    image, moving = (draw_animal(pose, host, wall, seed, *size) for pose in (still, truth))
    return image, draw_animal(driving, other, _WALLS[(seed // 2 + 1) % len(_WALLS)], seed + 1, *size), moving, prompt


def draw_animal(pose: PoseSequence, animal: Animal, wall: str, seed: int, height: int, width: int) -> Rendered:
    """Draw an animal in front of a wall."""
    large = (2 * height, 2 * width)
    layers = Layers(len(pose))
    add_animal(layers, pose, animal, *large)
    painter = layers.finish()
    background = np.dstack([draw_wall("plain", wall, seed, *large, 0.8), np.zeros(large, np.uint8)])
    frames = np.empty((len(pose), height, width, 4), np.uint8)
    for k in range(len(pose)):
        canvas = background.copy()
        painter.paint(canvas, k)
        cv2.resize(canvas, (width, height), dst=frames[k], interpolation=cv2.INTER_AREA)
    inside = ((pose.body > 0) & (pose.body < 1)).all(-1)
    seen = replace(pose, body_visible=pose.body_visible & inside)
    return Rendered(np.ascontiguousarray(frames[..., :3]), frames[..., 3] > 127, [seen])
