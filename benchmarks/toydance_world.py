"""Measure the procedural world: how far apart dances are, and how fast clips are drawn and written.

Prints one JSON line per measurement: `python benchmarks/toydance_world.py [--pairs 24] [--clips 50]`. Of a wrong pose,
the score and the PSNR say how much a metric gives for nothing: the reference dancer in the dance of a third dancer,
against the truth.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from steadydancer.datasets.toydance import make_toy_clips, toy_clip
from steadydancer.datasets.toydance.difficulties import DIFFICULTIES
from steadydancer.datasets.toydance.pairs import Pair, make_pair
from steadydancer.datasets.toydance.render import render

LIMBS = [3, 4, 6, 7]  # elbows and wrists
PAIR_SEEDS = 60_000_000


def pck(points: np.ndarray, truth: np.ndarray, joints: list[int]) -> float:
    """Compute the share of joints within 0.1 of the longer side of the box around the frame's first 14 joints."""
    box = np.ptp(truth[:, :14], axis=1).max(axis=-1)
    near = np.linalg.norm(points - truth, axis=-1)[:, joints] < 0.1 * box[:, None]
    return float(near.mean())


def scores(pair: Pair) -> dict[str, float]:
    """Score the wrong pose and a frozen first frame of a pair against its truth, on frames from the second on."""
    truth, wrong = (scene.main.figure.pose.body for scene in (pair.truth, pair.wrong))
    right, other = (render(scene, 64, 64) for scene in (pair.truth, pair.wrong))
    union = (right.masks | other.masks)[1:]
    error = (right.frames[1:].astype(np.float64) - other.frames[1:])[union]
    speed = np.linalg.norm(np.diff(pair.driving.main.figure.pose.body[:, :14], axis=0), axis=-1).max()
    return {
        "wrong_pose_pck_limbs": pck(wrong[1:], truth[1:], LIMBS),
        "wrong_pose_pck": pck(wrong[1:], truth[1:], list(range(14))),
        "frozen_pck_limbs": pck(np.broadcast_to(truth[:1], truth[1:].shape), truth[1:], LIMBS),
        "wrong_pose_psnr_db": float(10 * np.log10(255**2 / (error**2).mean())),
        "inside": float(((truth > 0) & (truth < 1)).all(-1).mean()),
        "fastest_joint": float(speed),
    }


def measure_pairs(num_pairs: int) -> None:
    """Print the scores of the wrong pose, per difficulty."""
    for difficulty in DIFFICULTIES:
        rows = [scores(make_pair(PAIR_SEEDS + k, difficulty)) for k in range(num_pairs)]
        means = {name: round(float(np.mean([row[name] for row in rows])), 3) for name in rows[0]}
        means["fastest_joint"] = round(max(row["fastest_joint"] for row in rows), 3)
        print(json.dumps({"measurement": "wrong pose", "difficulty": difficulty, "pairs": num_pairs, **means}))


def measure_drawing(num_clips: int) -> None:
    """Print the processor time of a clip of 33 frames at 64²."""
    for difficulty in DIFFICULTIES:
        toy_clip(0, difficulty)
        times = []
        for seed in range(num_clips):
            start = time.process_time()
            toy_clip(70_000_000 + seed, difficulty)
            times.append(time.process_time() - start)
        median = round(1000 * float(np.median(times)), 1)
        print(json.dumps({"measurement": "drawing 33 frames of 64²", "difficulty": difficulty, "cpu_ms": median}))


def _write(folder: str, seed: int, num_clips: int) -> float:
    cv2.setNumThreads(1)
    start = time.process_time()
    make_toy_clips(Path(folder) / str(seed), seed, num_clips, flaws=(), num_frames=81, fps=16, sizes=[(128, 128)])
    return time.process_time() - start


def measure_writing(num_clips: int) -> None:
    """Print the time of writing clips of 81 frames at 128² with H.264 in two processes."""
    # Forked processes would inherit OpenCV's threads in a state in which they wait for ever.
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, context) as pool:
        start = time.perf_counter()
        half = num_clips // 2
        cpu = sum(pool.map(_write, [folder] * 2, (900, 901), (half, num_clips - half)))
        wall = time.perf_counter() - start
    row = {"measurement": "writing", "clips": num_clips, "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}
    print(json.dumps(row))


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=24, help="pairs per difficulty")
    parser.add_argument("--clips", type=int, default=50, help="clips to draw and to write")
    arguments = parser.parse_args()
    measure_pairs(arguments.pairs)
    measure_drawing(arguments.clips)
    measure_writing(arguments.clips)


if __name__ == "__main__":
    main()
