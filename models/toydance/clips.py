"""Pools of drawn clips, kept on disk as one array so that a fit reads crops without drawing them again."""

from __future__ import annotations

import hashlib
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from ...datasets.skeleton import PoseSequence
from ...datasets.storage.atomic import atomic_write
from ...datasets.toydance.clip import toy_clip
from ...datasets.video import decode, encode, frame_times_s
from ..pose_condition import draw_pose_condition

SIDE_PX = 96
NUM_FRAMES = 33
FPS = 16
DRAWING_AREA_PX = 72 * 72  # of the preset `toydance` too: strokes are 4 of 96 pixels wide
MIXTURE = {"easy": 0.85, "standard": 0.1, "hard": 0.05}
"""Share of each difficulty in the data of the autoencoder and the other encoders."""
TRAINING_SEED, UNSEEN_SEED = 1_000_000_000, 1_990_000_000
"""First seeds of the training data, and of the data that fits are measured on. `make_toy_pairs` uses neither."""
FILE_SIDES_PX = (144, 160, 192)  # of the files that clips are read from


def difficulty_of(index: int) -> str:
    """Choose the difficulty of clip `index` of a pool, in the shares of `MIXTURE`."""
    share = np.random.default_rng([index, 77]).random()
    for name, size in MIXTURE.items():
        share -= size
        if share < 0:
            return name
    return "easy"


def drawn_skeleton(pose: PoseSequence) -> np.ndarray:
    """Draw a pose as the jobs do with the preset `toydance`: uint8 [F, 96, 96, 3]."""
    return draw_pose_condition(pose, SIDE_PX, SIDE_PX, DRAWING_AREA_PX)


def read_clip(frames: np.ndarray) -> np.ndarray:
    """Write frames as an mp4 and read them at 96², as the jobs do: compression and scaling soften the picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        encode(frames, path, FPS)
        return decode(path, frame_times_s(path), SIDE_PX, SIDE_PX)


def _pool_clip(arguments: tuple[int, int, bool]) -> np.ndarray:
    first_seed, index, skeleton = arguments
    side = FILE_SIDES_PX[index % len(FILE_SIDES_PX)]
    clip = toy_clip(first_seed + index, difficulty_of(index), NUM_FRAMES, side, FPS)
    return drawn_skeleton(clip.pose) if skeleton else read_clip(clip.frames)


def clip_pool(path: Path, first_seed: int, num_clips: int, *, skeletons: bool = False) -> np.ndarray:
    """Open the pool at `path`, drawing it first if it is missing: uint8 [num_clips, 33, 96, 96, 3], memory-mapped."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (num_clips, NUM_FRAMES, SIDE_PX, SIDE_PX, 3)
        with atomic_write(path) as aside, ProcessPoolExecutor() as workers:
            array = np.lib.format.open_memmap(aside, mode="w+", dtype=np.uint8, shape=shape)
            tasks = ((first_seed, index, skeletons) for index in range(num_clips))
            for index, frames in enumerate(workers.map(_pool_clip, tasks, chunksize=16)):
                array[index] = frames
            array.flush()
    return np.load(path, mmap_mode="r")


def pool_digest(pool: np.ndarray) -> str:
    """Return the SHA-256 of a pool's pixels."""
    digest = hashlib.sha256()
    for clip in pool:
        digest.update(np.ascontiguousarray(clip).data)
    return digest.hexdigest()
