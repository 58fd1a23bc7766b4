"""Time of SSIM against torchmetrics frame by frame, and of the pose metrics against plain loops over joints.

Both sides are given the same clip, alternate, and must agree. The loops are those of the definitions, which the tests
compare with (tests/models/metrics/test_pose_loops.py). Prints one JSON line per comparison: `ratio` is the median CPU
time of this process for the other side over that for ours, on one core, so that other programs hardly matter.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from steadydancer.models import metrics

LOOPS = Path(__file__).parents[1] / "tests" / "models" / "metrics" / "test_pose_loops.py"


def compare(what: str, ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int, **notes: object) -> float:
    """Measure two calls in alternating order, print one line, and return the ratio of their medians."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for side in (0, 1) if turn % 2 else (1, 0):
            start = time.process_time()
            (ours, theirs)[side]()
            if turn:  # the first round loads libraries
                seconds[side].append(time.process_time() - start)
    medians = [statistics.median(side) for side in seconds]
    ratio = medians[1] / medians[0]
    line = {"compared": what, "cpu_s": [round(median, 5) for median in medians], "ratio": round(ratio, 2)}
    print(json.dumps({**line, "rounds": rounds, **notes}), flush=True)
    return ratio


def clip(num_frames: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a moving pattern and a noisy copy of it, uint8 [F, H, W, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    frames = [
        np.stack([127 + 90 * np.sin(x / (9 + c) + 0.3 * t) * np.cos(y / (13 - c) + 0.2 * t) for c in range(3)], axis=-1)
        for t in range(num_frames)
    ]
    truth = np.array(frames).astype(np.uint8)
    render = np.clip(truth + rng.normal(0, 8, truth.shape), 0, 255).astype(np.uint8)
    return render, truth


def torchmetrics_ssim(render: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Compute SSIM of each frame [F] by torchmetrics in float32, one frame at a time."""
    values = []
    for pair in zip(render, truth, strict=True):
        one, other = (torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255 for frame in pair)
        values.append(structural_similarity_index_measure(one, other, data_range=1.0).item())
    return np.array(values)


def loops() -> Any:
    """Load the module of the definitions as plain loops."""
    spec = importlib.util.spec_from_file_location("test_pose_loops", LOOPS)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def poses(num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a driven and a rendered track [F, 18, 2] in pixels and where they are visible [F, 18]."""
    rng = np.random.default_rng(1)
    t = np.arange(num_frames)[:, None, None]
    body = rng.uniform(100, 400, (18, 2))
    driven = body + 25 * np.sin(t * rng.uniform(0.1, 0.5, (1, 18, 2)) + rng.uniform(0, 6, (1, 18, 2)))
    render = driven + rng.normal(0, 2, driven.shape)
    return driven, rng.random((num_frames, 18)) < 0.95, render, rng.random((num_frames, 18)) < 0.9


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(448, 256), metavar=("HEIGHT", "WIDTH"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    render, truth = clip(2, *arguments.size)
    difference = float(np.abs(metrics.ssim_per_frame(render, truth) - torchmetrics_ssim(render, truth)).max())
    assert difference < 1e-5, difference
    compare("SSIM: torchmetrics frame by frame / ours",
            lambda: metrics.ssim_per_frame(render, truth), lambda: torchmetrics_ssim(render, truth), arguments.rounds,
            clip=f"{len(truth)} frames, {arguments.size[0]} × {arguments.size[1]}",
            largest_difference=difference)  # fmt: skip

    tracks, slow = poses(81), loops().slow_pose_metrics
    ours, theirs = metrics.pose_metrics(*tracks, 512, 896), slow(*tracks, 512)
    worst = max(float(np.nanmax(np.abs(np.subtract(ours[key], value)))) for key, value in theirs.items())
    assert set(ours) == set(theirs) and worst < 1e-9, worst
    compare("pose metrics: plain loops / ours",
            lambda: metrics.pose_metrics(*tracks, 512, 896), lambda: slow(*tracks, 512), arguments.rounds,
            clip="81 frames, 18 joints", largest_difference=worst)  # fmt: skip


if __name__ == "__main__":
    main()
