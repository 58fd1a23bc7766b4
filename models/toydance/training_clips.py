"""Write the clips that base and stages are trained on: ordinary mp4s with prompts and keypoints, for `curate`."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from ...datasets.toydance import make_toy_clips
from .clips import FILE_SIDES_PX, FPS, TRAINING_SEED

CLIPS_PER_SET = 50
NUM_FRAMES = 37  # curation cuts clips of 33
SETS = ("easy",) * 41 + ("standard",) * 5 + ("hard",) * 2
"""Difficulty of each set: about the shares of `clips.MIXTURE`."""


def write_training_clips(folder: Path, sets: tuple[str, ...] = SETS, clips_per_set: int = CLIPS_PER_SET) -> None:
    """Write one folder for each set below `folder`; finished sets stay as they are."""
    with ProcessPoolExecutor() as workers:
        count = len(sets)
        for name in workers.map(_write_set, [folder] * count, range(count), sets, [clips_per_set] * count):
            print(name, flush=True)


def _write_set(folder: Path, index: int, difficulty: str, clips_per_set: int) -> str:
    directory = folder / f"{index:02d}-{difficulty}"
    if not (directory / f"dancer_{clips_per_set - 1}.mp4").is_file():
        sizes = [(side, side) for side in FILE_SIDES_PX]
        seed = TRAINING_SEED // 1000 + 100 + index  # a set has a thousand scenes
        make_toy_clips(
            directory, seed, clips_per_set, difficulty, flaws=(), num_frames=NUM_FRAMES, fps=FPS, sizes=sizes
        )
    return directory.name
