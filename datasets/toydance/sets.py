"""Sets of procedural dancers: ordinary mp4s with keypoints and captions, some flawed on purpose.

Next to `NAME.mp4` (or .png) are `NAME.txt`, the caption, and `NAME.pose.safetensors`, the keypoints of the drawing.
Keypoints can be supplied for any clip in this way, see `supplied_poses`.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from ..skeleton import PoseSequence
from ..storage.atomic import atomic_write
from ..supplied_poses import load_supplied_pose, save_supplied_pose
from ..video import encode
from .drawing_flat import draw_dancer, draw_dancers
from .figure_flat import COLOURS, dance, dancer_look, toy_pose

__all__ = ["draw_dancer", "load_supplied_pose", "make_toy_clips", "make_toy_pairs", "save_supplied_pose", "toy_pose"]

FPS = 24
PAIR_FPS = 16  # the model's frame rate: frame k of render, driving video and truth show the same moment
_SIZES = [(256, 192), (256, 192), (256, 192), (192, 256), (256, 192), (224, 224), (256, 192)]  # height, width
_FLAW_SEEDS = 500_000  # disjoint from the seeds of the good clips


def make_toy_clips(directory: Path, seed: int = 0, num_good: int = 7) -> list[Path]:
    """Write `num_good` good clips of 3 s and six flawed ones, with keypoints and captions.

    The same seed gives the same bytes. The flawed clips: `static` (no motion), `cut_short` (two scenes, each shorter
    than 2.06 s = 33 frames at 16 fps), `cut_long` (the second scene is long enough for a clip), `dark`, `two_people`,
    `truncated` (half of a file).
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(num_good):
        height, width = _SIZES[k % len(_SIZES)]
        paths.append(_write_scenes(directory / f"dancer_{k}.mp4", [(seed * 1000 + k, 3.0)], height, width))

    flaw = _FLAW_SEEDS + seed * 1000
    paths.append(_write_static(directory / "static.mp4", flaw))
    paths.append(
        _write_scenes(directory / "cut_short.mp4", [(flaw + 1, 1.5), (_dancer_with_other_wall(flaw + 1), 1.5)])
    )
    paths.append(
        _write_scenes(directory / "cut_long.mp4", [(flaw + 20, 1.25), (_dancer_with_other_wall(flaw + 20), 2.75)])
    )
    paths.append(_write_scenes(directory / "dark.mp4", [(flaw + 40, 3.0)], brightness=0.06))
    paths.append(_write_two_people(directory / "two_people.mp4", flaw + 60))
    truncated = _write_scenes(directory / "truncated.mp4", [(flaw + 80, 3.0)])
    whole = truncated.read_bytes()
    _write_bytes(truncated, whole[: len(whole) // 2])
    return [*paths, truncated]


def make_toy_pairs(directory: Path, seed: int = 0, num_pairs: int = 3, num_frames: int = 49) -> Path:
    """Write an evaluation set with ground truth and return the path of its `pairs.jsonl`.

    `images/ID.png` shows a dancer in the first pose of a dance, `driving/ID.mp4` another dancer in that dance, and
    `truth/ID.mp4` the first dancer in that dance, which is the perfect render. Videos have 16 fps. `pairs.jsonl` has
    the columns id, image, driving and prompt; its paths are relative to it. None of the dancers appears in
    `make_toy_clips` with the same seed.
    """
    rows = []
    for folder in ("images", "driving", "truth"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for k in range(num_pairs):
        name = f"pair_{k}"
        dancer = seed * 1000 + 900 - 2 * k
        driver = dancer + 1
        height, width = (256, 192)
        pose = toy_pose(dancer, num_frames, PAIR_FPS, aspect=width / height, motion_seed=driver)
        truth = draw_dancer(pose, dancer, height, width)
        caption = _caption(dancer, driver)
        driving_height, driving_width = (256, 192) if k % 2 == 0 else (224, 224)
        driving_pose = toy_pose(driver, num_frames, PAIR_FPS, aspect=driving_width / driving_height)

        save_supplied_pose(directory / "images" / f"{name}.png", [pose[:1]], PAIR_FPS)
        _write_png(directory / "images" / f"{name}.png", truth[0])
        save_supplied_pose(directory / "driving" / f"{name}.mp4", [driving_pose], PAIR_FPS)
        driving = draw_dancer(driving_pose, driver, driving_height, driving_width)
        encode(driving, directory / "driving" / f"{name}.mp4", PAIR_FPS)
        encode(truth, directory / "truth" / f"{name}.mp4", PAIR_FPS)
        rows.append({"id": name, "image": f"images/{name}.png", "driving": f"driving/{name}.mp4", "prompt": caption})
    pairs = directory / "pairs.jsonl"
    _write_bytes(pairs, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return pairs


def _caption(seed: int, motion_seed: int | None = None) -> str:
    look, steps = dancer_look(seed), dance(seed if motion_seed is None else motion_seed, 1, FPS)
    arms = "raises both arms high and waves them" if steps.arms_go_high else "swings both arms"
    return (
        f"A dancer with {'long' if look.long_hair else 'short'} hair, in {look.trousers} trousers and a shirt that is "
        f"{look.shirt}, {arms} to the beat, stepping from side to side and bending the knees. The wall behind is "
        f"{look.wall}, with plain pictures on it, and the camera stands still."
    )


def _dancer_with_other_wall(seed: int) -> int:
    """Find the next dancer with a wall of a clearly different colour, so that a cut between the two is visible."""

    def wall(dancer: int) -> np.ndarray:
        return np.array(COLOURS[dancer_look(dancer).wall])

    return next(other for other in range(seed + 1, seed + 1000) if np.linalg.norm(wall(other) - wall(seed)) > 150)


def _write_scenes(
    path: Path, scenes: list[tuple[int, float]], height: int = 256, width: int = 192, brightness: float = 1.0
) -> Path:
    """Write a clip of consecutive scenes (seed, seconds) with one dancer each."""
    frames, poses = [], []
    for seed, seconds in scenes:
        pose = toy_pose(seed, round(seconds * FPS), FPS, aspect=width / height)
        poses.append(pose)
        frames.append(draw_dancer(pose, seed, height, width))
    main = PoseSequence(
        body=np.concatenate([pose.body for pose in poses]),
        body_visible=np.concatenate([pose.body_visible for pose in poses]),
        hands=np.concatenate([pose.hands for pose in poses]),
    )
    pixels = (np.concatenate(frames) * brightness).astype(np.uint8)
    return _write_clip(path, pixels, [main], " ".join(_caption(seed) for seed, _ in scenes))


def _write_static(path: Path, seed: int) -> Path:
    still = toy_pose(seed, 1, FPS)
    pose = still[np.zeros(3 * FPS, int)]
    return _write_clip(path, draw_dancer(still, seed, 256, 192)[np.zeros(3 * FPS, int)], [pose], _caption(seed))


def _write_two_people(path: Path, seed: int) -> Path:
    height, width = 192, 256
    seeds = [seed, seed + 1]
    poses = [
        toy_pose(one, 3 * FPS, FPS, aspect=width / height, centre_x=x)
        for one, x in zip(seeds, (0.3, 0.72), strict=True)
    ]
    return _write_clip(path, draw_dancers(poses, seeds, height, width), poses, " ".join(map(_caption, seeds)))


def _write_clip(path: Path, frames: np.ndarray, persons: list[PoseSequence], caption: str) -> Path:
    """Write keypoints and caption before the clip, so that an existing clip always has both."""
    save_supplied_pose(path, persons, FPS)
    _write_bytes(path.with_suffix(".txt"), caption.encode() + b"\n")
    encode(frames, path, FPS)
    return path


def _write_png(path: Path, image: np.ndarray) -> None:
    _write_bytes(path, cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())


def _write_bytes(path: Path, data: bytes) -> None:
    with atomic_write(path) as aside:
        aside.write_bytes(data)
