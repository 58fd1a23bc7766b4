"""Memory over an evaluation of 500 short videos in one process: of the process, and of its decoder.

Ten small moving patterns of different sizes and lengths, and noisy copies of them, are scored again and again under new
names by all metrics that need no network. Memory is read after every packet, and once more after table and page are
written. Prints one JSON line: resident memory after 50, 250 and 500 videos and at the end, and the slope of a line
through the second half in MB per hundred videos, which fails above --most.
"""

import argparse
import json
import mmap
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from steadydancer.datasets.video import client, encode
from steadydancer.pipelines.evaluate import job
from steadydancer.pipelines.evaluate.config import EvaluateConfig
from steadydancer.pipelines.evaluate.measured import Measured
from steadydancer.pipelines.runtime.runner import Engine

PATTERNS = 10
READ_AFTER = (50, 250, 500)
CONFIG = EvaluateConfig(metrics=("truth", "pixels"))


def write_patterns(folder: Path) -> None:
    """Write ten renders and their truths, 5 to 14 frames of 32 × 48 to 68 × 84."""
    for name in ("renders", "truth"):
        (folder / name).mkdir(parents=True)
    for k in range(PATTERNS):
        rng = np.random.default_rng(k)
        height, width, num_frames = 32 + 4 * k, 48 + 4 * k, 5 + k
        y, x = np.mgrid[:height, :width]
        waves = [[127 + 90 * np.sin(x / (5 + c) + 0.4 * t) * np.cos(y / (9 - c)) for c in range(3)]
                 for t in range(num_frames)]  # fmt: skip
        truth = np.moveaxis(np.array(waves), 1, -1)
        encode(truth.astype(np.uint8), folder / "truth" / f"{k}.mp4")
        render = np.clip(truth + rng.normal(0, 6, truth.shape), 0, 255).astype(np.uint8)
        encode(render, folder / "renders" / f"{k}.mp4")


def make_videos(folder: Path, count: int) -> None:
    """Write `count` renders and truths, copies of the patterns."""
    write_patterns(folder / "patterns")
    for name in ("renders", "truth"):
        (folder / name).mkdir()
        for k in range(count):
            shutil.copyfile(folder / "patterns" / name / f"{k % PATTERNS}.mp4", folder / name / f"v{k:05d}.mp4")


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE / 1e6


class Memory:
    """Resident memory after each packet: number of videos → MB, of this process and of its decoder."""

    def __init__(self) -> None:
        self.videos, self.ours, self.decoder = 0, dict[int, float](), dict[int, float]()

    def watch(self) -> None:
        """Read memory whenever a packet has been written."""
        write = Measured.write_packet

        def write_and_read(measured: Measured, packet: Any, *arguments: Any) -> None:
            write(measured, packet, *arguments)
            self.videos += len(packet.ids)
            self.ours[self.videos] = resident_mb(os.getpid())
            if pid := client.worker_pid():
                self.decoder[self.videos] = resident_mb(pid)

        Measured.write_packet = write_and_read


def slope(values: dict[int, float], count: int) -> float | None:
    """Return the growth in MB per hundred videos over the second half; None for fewer than three packets."""
    half = {videos: value for videos, value in values.items() if videos >= count / 2}
    if len(half) < 3:
        return None
    return round(float(np.polyfit([*half], [*half.values()], 1)[0]) * 100, 3)


def after(values: dict[int, float]) -> dict[int, int]:
    """Return the memory after the packet in which each of the numbers of videos was reached."""
    reached = {n: min((videos for videos in values if videos >= n), default=None) for n in READ_AFTER}
    return {n: round(values[videos]) for n, videos in reached.items() if videos is not None}


def main() -> None:
    """Evaluate and read memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=500)
    parser.add_argument("--most", type=float, default=1.0, help="MB per hundred videos")
    options = parser.parse_args()
    memory, start = Memory(), time.process_time()
    memory.watch()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_videos(folder, options.videos)
        out = folder / "out"
        record = job.run(CONFIG, renders=folder / "renders", truth=folder / "truth", out=out,
                         engine=Engine(out / ".engine", in_process=True))  # fmt: skip
    growth = slope(memory.ours, options.videos)
    line = {"measured": "resident memory of an evaluation", "videos": record["means"]["psnr"]["videos"],
            "metrics": len(record["metrics"]), "mb_after_videos": after(memory.ours),
            "mb_at_the_end": round(resident_mb(os.getpid())), "mb_a_hundred_videos": growth,
            "decoder_mb_after_videos": after(memory.decoder),
            "decoder_mb_a_hundred_videos": slope(memory.decoder, options.videos),
            "cpu_s": round(time.process_time() - start, 1)}  # fmt: skip
    print(json.dumps(line), flush=True)
    if growth is not None and growth > options.most:
        sys.exit(f"memory grows by {growth} MB per hundred videos, and {options.most:g} are allowed")


if __name__ == "__main__":
    main()
