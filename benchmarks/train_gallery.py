"""Stall of the training loop for writing the weights of a gallery: asynchronously or synchronously.

Prints one JSON line: seconds of both, and their ratio. The engine is real (DeepSpeed, ZeRO-2, one process on the CPU)
and trains one linear layer with a given number of weights. Another worker renders the gallery; the training loop only
gathers the trained weights.
"""

import json
import logging
import tempfile
import time
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from steadydancer.pipelines.train.config import GalleryConfig, TrainConfig
from steadydancer.pipelines.train.engine import open_engine, process_group
from steadydancer.pipelines.train.weights_writer import TrainedWriter

GALLERY = GalleryConfig(num_clips=1, every_steps=1)


@click.command()
@click.option("--million", type=int, default=40, help="Millions of trained weights; four bytes per weight are written.")
@click.option("--rounds", type=int, default=5)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write to. Default: a temporary one."
)
def main(million: int, rounds: int, out: Path | None) -> None:
    logging.disable(logging.WARNING)
    config = TrainConfig(stage=2, num_workers=0, use_gpu=False, zero_stage=2, dtype="float32", global_batch_size=1,
                         gallery=GALLERY)  # fmt: skip
    settings = {"config": config.model_dump(mode="json"), "attempt": "0"}
    with process_group(config) as group, tempfile.TemporaryDirectory(dir=out) as folder:
        engine = open_engine(nn.Linear(*[int((million * 1e6) ** 0.5)] * 2), config)
        with TrainedWriter(Path(folder), group, settings) as trained:
            print(json.dumps(measured(engine, trained, rounds)), flush=True)
        engine.destroy()


def measured(engine: Any, trained: TrainedWriter, rounds: int) -> dict[str, Any]:
    """Measure the stall for writing the weights, both ways; the minimum of all rounds."""
    beside, waited, steps = [], [], []
    for count in range(rounds):
        began = time.perf_counter()
        engine.backward(engine(torch.ones(64, engine.module.in_features)).square().mean())
        engine.step()
        steps.append(time.perf_counter() - began)
        began = time.perf_counter()
        trained.keep(engine, count + 1)
        beside.append(time.perf_counter() - began)
        wait([trained._writing])  # type: ignore[list-item]
        waited.append(time.perf_counter() - began)
    size = sum(weight.nbytes for weight in engine.module.parameters())
    figures = {"weights_gb": size / 1e9, "stall_beside_s": min(beside), "stall_waiting_s": min(waited),
            "ratio": min(beside) / min(waited), "step_s": min(steps)}  # fmt: skip
    return {"benchmark": "train_gallery", **{name: round(value, 3) for name, value in figures.items()}}


if __name__ == "__main__":
    main()
