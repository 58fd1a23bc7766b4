"""Cost of data loading per training step: batches prefetched from shards, compared with a batch that stays in memory.

On a busy machine the time of a whole step is too noisy, so the parts are measured: the time that the loop waits for its
batch, its own CPU time, the time to copy the batch, and the slow-down of the loop's work by the reading thread. Blocks
of steps of both kinds alternate, and the fastest tenth of each is compared, because other programs only add time.

`samples`: one worker's share at full size, samples of 15.5 MB (81 frames of 640², 150 tokens, bfloat16), read for the
first time, with checksums verified. A step is 12,000 small torch calls from Python, about as many as launch 40 blocks
three times, and a pause. `--step-seconds` is the length of a real step, used only for ratios. `ratio` is 1 + (wait +
copy + slow-down) / step. Then memory growth over `--reads` batches is measured by a line through the second half.

`tiny`: real DeepSpeed steps of tiny networks on the CPU, 33 frames at 64 × 64; `ratio` is 1 + wait / step.
"""

import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors.torch import save

from steadydancer.datasets.artifact import Artifact, plan_packets
from steadydancer.datasets.shards import Sample, null_path, sample_members, write_shard
from steadydancer.datasets.shards.encodings import ENCODINGS
from steadydancer.models.components import save_components, tiny_components
from steadydancer.models.objectives import action_supervision
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.data.batches import StepBatch, TrainingData
from steadydancer.pipelines.train.data.prefetch import Prefetch
from steadydancer.pipelines.train.engine import open_engine, process_group
from steadydancer.pipelines.train.loop import _step
from steadydancer.pipelines.train.metrics.meter import Meter
from steadydancer.pipelines.train.networks import load_student

BLOCK, CALLS, PAUSE_S = 6, 12_000, 0.25


def write_latents(
    folder: Path, bucket: tuple[int, int, int], image: tuple[int, int], text: tuple[int, int], clips: int
) -> None:
    """Write a cache of random tensors."""
    clip = (16, (bucket[0] - 1) // 4 + 1, bucket[1] // 8, bucket[2] // 8)
    shapes = {"latents": clip, "image_latents": clip, "pose_latents": clip, "image_embeds": image,
              "pose_image_embeds": image, "prompt_embeds": text}  # fmt: skip

    def tensors() -> bytes:
        return save({name: torch.randn(shape).bfloat16() for name, shape in shapes.items()})

    size = dict(zip(("num_frames", "height", "width"), bucket, strict=True))
    for packet in plan_packets([f"clip{i:03d}" for i in range(clips)], 8):
        members = [sample_members({}, tensors(), os.urandom(84_000)) for _ in packet.ids]
        rows = [{"clip_id": key, "verdict": "ok", **size} for key in packet.ids]
        write_shard(folder, packet, [Sample(row, one) for row, one in zip(rows, members, strict=True)])
    null = null_path(folder, bucket)
    null.parent.mkdir()
    null.write_bytes(tensors())
    counts = {"inputs": clips, "ok": clips, "rejected": 0, "quarantined": 0}
    Artifact(folder).commit({"counts": counts, "encodings": ENCODINGS})


def settings(num_frames: int, batch: int) -> TrainConfig:
    values = {"stage": 1, "num_frames": num_frames, "num_workers": 0, "use_gpu": False, "dtype": "float32",
              "global_batch_size": batch, "lora_rank": 16, "lora_alpha": 16, "gradient_checkpointing": False,
              "validation_share": 0}  # fmt: skip
    return TrainConfig(**values)


class Times:
    """Seconds by name, one value per step."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block: wall seconds `NAME_s`, and CPU seconds of this thread `NAME_cpu_s`."""
        wall, cpu = time.perf_counter(), time.thread_time()
        yield
        self.taken.setdefault(f"{name}_cpu_s", []).append(time.thread_time() - cpu)
        self.taken.setdefault(f"{name}_s", []).append(time.perf_counter() - wall)

    def median(self, name: str) -> float:
        """Return the median over all steps."""
        return statistics.median(self.taken[name])

    def quick(self, name: str) -> float:
        """Return the first decile over all steps, which other programs disturb least."""
        return statistics.quantiles(self.taken[name], n=10)[0]


def take_turns(
    times: Times, share: Callable[[int], StepBatch], step: Callable[[StepBatch, int], None], rounds: int
) -> None:
    """Run blocks of steps alternately, with and without reading.

    The first step of a block does not count, because no batch is prefetched before it.
    """

    def read(number: int) -> StepBatch:
        with times("reading"):
            return share(number)

    resident, warming = share(0), Times()
    for turn in range(rounds):
        for reads in (True, False) if turn % 2 else (False, True):
            numbers = range(turn * BLOCK, (turn + 1) * BLOCK)
            with Prefetch(read, numbers) if reads else Prefetch(share, range(0)) as batches:
                for number in numbers:
                    counted = warming if number == numbers[0] else times
                    batch = resident
                    if reads:
                        with counted("wait"):
                            batch = batches(number)
                    with counted("step" if reads else "resident_step"):
                        step(batch, number)


def full_size(folder: Path, step_seconds: float, rounds: int, reads: int) -> dict[str, Any]:
    """Measure full-size samples with a step that only launches torch calls."""
    write_latents(folder, (81, 640, 640), (257, 1280), (150, 4096), BLOCK * 4)
    data, times, value = [], Times(), torch.ones(4)

    def share(number: int) -> StepBatch:
        if number % BLOCK == 0:  # a new reader verifies checksums
            data[:] = [TrainingData(folder, settings(81, 1))]
        return data[0].share(number, 0, 1)

    def step(batch: StepBatch, number: int) -> None:
        for _ in range(CALLS):
            value.mul_(1.0)

    def paused(batch: StepBatch, number: int) -> None:
        step(batch, number)
        time.sleep(PAUSE_S)

    def copied(batch: StepBatch) -> None:
        for part in (batch.micro_batches[0][1].conditions, batch.micro_batches[0][1].null):
            for tensor in vars(part).values():
                if tensor is not None:
                    tensor.clone()
        batch.micro_batches[0][1].latents.clone(), batch.micro_batches[0][1].noise.clone()

    take_turns(times, share, paused, rounds)
    batch = share(0)
    for _ in range(20):
        with times("copy"):
            copied(batch)
    slower = times.quick("step_s") - times.quick("resident_step_s")
    wait = statistics.fmean(times.taken["wait_s"])
    grown = [memory_mb() for number in range(reads) if share(1 + number % (BLOCK - 1))]
    half = grown[reads // 2 :]
    names = ("reading_s", "reading_cpu_s", "wait_cpu_s", "copy_s", "step_cpu_s", "resident_step_cpu_s")
    return {
        "steps": len(times.taken["wait_s"]),
        "step_seconds": step_seconds,
        "wait_mean_s": wait,
        "wait_longest_s": max(times.taken["wait_s"]),
        **{name: times.median(name) for name in names},
        "slower_s": slower,
        "slower_median_s": times.median("step_s") - times.median("resident_step_s"),
        "ratio": 1 + (wait + times.median("copy_s") + slower) / step_seconds,
        "wanted": 1.02,
        "memory_mb": max(grown),
        "memory_mb_more_in_100_reads": float(np.polyfit(np.arange(len(half)), half, 1)[0]) * 100,
    }


def memory_mb() -> float:
    """Return the resident memory of this process without mapped files."""
    pages = Path("/proc/self/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


def tiny(folder: Path, rounds: int) -> dict[str, Any]:
    """Measure real steps of tiny networks."""
    config, times = settings(33, 4), Times()
    with process_group(config) as group:
        parts = tiny_components()
        save_components({"transformer": parts["transformer"]}, folder / "base")
        sizes = parts["transformer"].config
        write_latents(folder / "latents", (33, 64, 64), (257, sizes.image_dim), (40, sizes.text_dim), 32)
        data = TrainingData(folder / "latents", config)
        engine = open_engine(load_student(config, str(folder / "base"), None, group.device), config)
        meter = Meter(config, group.device, sizes)

        def step(batch: StepBatch, number: int) -> None:
            _step(engine, action_supervision(), config, batch, group, meter, number)

        take_turns(times, lambda number: data.share(number, 0, 1), step, rounds)
        engine.destroy()
    wait = statistics.fmean(times.taken["wait_s"])
    names = ("reading_cpu_s", "wait_cpu_s", "step_s", "resident_step_s", "step_cpu_s", "resident_step_cpu_s")
    return {
        "steps": len(times.taken["wait_s"]),
        "wait_mean_s": wait,
        "wait_longest_s": max(times.taken["wait_s"]),
        **{name: times.median(name) for name in names},
        "ratio": 1 + wait / times.median("resident_step_s"),
        "wanted": 1.02,
    }


@click.command()
@click.option("--rounds", type=int, default=20, help="Number of blocks of six steps of each kind.")
@click.option("--step-seconds", type=float, default=9.8, help="Length of a real step at full size.")
@click.option("--reads", type=int, default=600, help="Number of reads for memory growth.")
def main(rounds: int, step_seconds: float, reads: int) -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, measured in (
            ("samples", full_size(Path(folder) / "full", step_seconds, rounds, reads)),
            ("tiny", tiny(Path(folder), max(rounds // 2, 2))),
        ):
            figures = {key: round(value, 5) for key, value in measured.items()}
            print(json.dumps({"benchmark": f"train_loader {name}", **figures}), flush=True)


if __name__ == "__main__":
    main()
