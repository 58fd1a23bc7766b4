"""A miniature X-Dance: pairs of a reference picture and another dancer's driving video, with the true render."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..skeleton import align_to_reference
from ..supplied_poses import save_supplied_pose
from ..video import encode
from .captions import caption_of
from .figure import Dance, Figure, realigned
from .files import save_masks, write_bytes, write_png
from .render import Rendered, render
from .scenes import FPS, Scene, make_scene

PAIR_FPS = int(FPS)  # the model's frame rate: frame k of render, driving video and truth show the same moment
_SIZES = [(256, 192), (224, 224)]  # of driving videos, in turn
PAIR_SEEDS = 40_000_000  # disjoint from the seeds of `make_toy_clips`
_MARGIN = 0.02
_GAP = 0.6  # of the direction of a forearm, between the reference picture and the first frame of the dance


@dataclass(frozen=True)
class Pair:
    """A reference dancer, a driving dancer, and what a perfect render shows."""

    reference: Scene
    """one frame: the reference picture"""
    driving: Scene
    truth: Scene
    wrong: Scene
    """the reference dancer in the dance of a third one"""
    wrong_driving: Scene
    """the third dancer"""
    start_gap: bool
    """whether the reference picture shows another pose than the first frame of the dance"""


def make_pair(
    seed: int,
    difficulty: str = "easy",
    num_frames: int = 33,
    *,
    start_gap: bool = True,
    aspect: float = 1.0,
    driving_aspect: float = 1.0,
) -> Pair:
    """Make pair `seed` of the scenes `3 · seed` (reference), `3 · seed + 1` (driving) and `3 · seed + 2` (wrong).

    They differ in body, clothes, place, size and often in style. Cameras stand still and nothing is in front of the
    dancers, so that the truth is exact; walls, light and props follow the difficulty.

    Args:
        seed: of the pair.
        difficulty: `easy`, `standard` or `hard`.
        num_frames: F.
        start_gap: whether the reference picture shows another pose than the driving video begins with.
        aspect: width / height of the reference picture and of the truth.
        driving_aspect: the same of the driving video.
    """
    driving, other = (
        make_scene(3 * seed + k, difficulty, num_frames, aspect=driving_aspect, still=True, whole_body=True)
        for k in (1, 2)
    )
    host = _host(3 * seed, difficulty, aspect, driving.main.figure.dance, start_gap)
    host = _with_room(host, [driving.main.figure, other.main.figure])
    truth, wrong = (
        replace(
            host.with_main(figure=transferred(scene.main.figure, host.main.figure), steps=scene.main.steps),
            seconds=scene.seconds,
        )
        for scene in (driving, other)
    )
    return Pair(host, driving, truth, wrong, other, start_gap)


def _host(seed: int, difficulty: str, aspect: float, dance: Dance, start_gap: bool) -> Scene:
    """Show the reference dancer in the first pose of the dance, or in one that is clearly different."""
    if not start_gap:
        return make_scene(seed, difficulty, 1, aspect=aspect, still=True, dance=dance[:1])

    def gap(scene: Scene) -> float:
        own = scene.main.figure.dance
        return float(np.abs(own.forearms[0] - dance.forearms[0]).max())

    scenes = (make_scene(seed, difficulty, 1, aspect=aspect, still=True, dance_seed=seed + 7919 * k) for k in range(30))
    return next(scene for scene in scenes if gap(scene) > _GAP)


def transferred(figure: Figure, reference: Figure) -> Figure:
    """Give a figure the limbs and the place of the person of a reference picture."""
    pose = align_to_reference(figure.pose, reference.pose[:1], figure.aspect, reference.aspect)
    return realigned(figure, pose, reference.aspect)


def _with_room(host: Scene, dances: list[Figure]) -> Scene:
    """Move the reference dancer sideways to where the dances of the others fit into the picture."""
    figure = host.main.figure
    across = [transferred(dance, figure).pose.body[..., 0] for dance in dances]
    left = _MARGIN - min(float(x.min()) for x in across)
    right = 1 - _MARGIN - max(float(x.max()) for x in across)
    shift = min(max(0.0, left), right) if left < right else (left + right) / 2
    pose, way = figure.pose, np.array([shift, 0.0])
    faces = None if pose.faces is None else pose.faces + way
    pose = replace(pose, body=pose.body + way, hands=pose.hands + way, faces=faces)
    return host.with_main(figure=replace(figure, pose=pose))


def make_toy_pairs(
    directory: Path,
    seed: int = 0,
    num_pairs: int = 3,
    num_frames: int = 49,
    difficulty: str = "easy",
    *,
    start_gap: bool = False,
    wrong: bool = False,
    size: tuple[int, int] = (256, 192),
    driving_sizes: Sequence[tuple[int, int]] = _SIZES,
) -> Path:
    """Write an evaluation set with ground truth and return the path of its `pairs.jsonl`.

    `images/ID.png` shows a dancer, `driving/ID.mp4` another one, and `truth/ID.mp4` the first dancer in the dance of
    the other, which is the perfect render; `wrong/ID.mp4` shows the first dancer in the dance of a third one, who is in
    `wrong_driving/ID.mp4`. Beside truth and wrong are silhouettes (`load_masks`) and keypoints. Videos have 16 fps.
    `pairs.jsonl` has the columns id, image, driving and prompt; its paths are relative to it. None of the dancers
    appears in `make_toy_clips`.

    Args:
        directory: of the set.
        seed: of the set.
        num_pairs: number of pairs.
        num_frames: of each video.
        difficulty: `easy`, `standard` or `hard`.
        start_gap: whether a picture shows another pose than its driving video begins with.
        wrong: whether to write the folders `wrong` and `wrong_driving`.
        size: height and width of pictures and truths.
        driving_sizes: height and width of driving videos, in turn.
    """
    rows = []
    for folder in ("images", "driving", "truth", *(["wrong", "wrong_driving"] if wrong else [])):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for k in range(num_pairs):
        name, driving_size = f"pair_{k}", driving_sizes[k % len(driving_sizes)]
        pair = make_pair(
            PAIR_SEEDS + 1000 * seed + k,
            difficulty,
            num_frames,
            start_gap=start_gap,
            aspect=size[1] / size[0],
            driving_aspect=driving_size[1] / driving_size[0],
        )
        image = render(pair.reference, *size)
        save_supplied_pose(directory / "images" / f"{name}.png", image.poses, PAIR_FPS)
        write_png(directory / "images" / f"{name}.png", image.frames[0])
        _write_video(directory / "driving" / f"{name}.mp4", render(pair.driving, *driving_size), masks=False)
        if wrong:
            shown = render(pair.wrong_driving, *driving_size)
            _write_video(directory / "wrong_driving" / f"{name}.mp4", shown, masks=False)
        for folder, scene in (("truth", pair.truth), *([("wrong", pair.wrong)] if wrong else [])):
            _write_video(directory / folder / f"{name}.mp4", render(scene, *size), masks=True)
        prompt = caption_of(pair.truth)
        rows.append({"id": name, "image": f"images/{name}.png", "driving": f"driving/{name}.mp4", "prompt": prompt})
    pairs = directory / "pairs.jsonl"
    write_bytes(pairs, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return pairs


def _write_video(path: Path, rendered: Rendered, *, masks: bool) -> None:
    save_supplied_pose(path, rendered.poses, PAIR_FPS)
    if masks:
        save_masks(path, rendered.masks)
    encode(rendered.frames, path, PAIR_FPS)
