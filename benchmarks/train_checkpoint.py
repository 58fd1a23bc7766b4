"""Stall of the training loop for saving a training state: asynchronously or synchronously.

Prints one JSON line per size: median seconds of both, and their ratio. The engine is real (DeepSpeed, ZeRO-2, one
process on the CPU) and trains one linear layer with a given number of weights, so training states are copied and
written as in training. A stall is the time of `save` plus the time that the next optimizer step waits for the copy;
forward and backward of a batch run between them, as in training.
"""

import json
import logging
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.engine import ProcessGroup, open_engine, process_group
from steadydancer.pipelines.train.resume.states import StateWriter

SETTINGS = {"stage": 2, "num_workers": 0, "use_gpu": False, "zero_stage": 2, "dtype": "float32",
            "global_batch_size": 1, "keep_checkpoints": 1}  # fmt: skip


@click.command()
@click.option(
    "--million",
    type=int,
    multiple=True,
    default=(20, 60),
    help="Millions of trained weights; a training state has 16 bytes per weight.",
)
@click.option("--batch", type=int, default=64, help="Batch size of the pass between a save and the next step.")
@click.option("--rounds", type=int, default=5)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write to. Default: a temporary one."
)
def main(million: tuple[int, ...], batch: int, rounds: int, out: Path | None) -> None:
    logging.disable(logging.WARNING)
    config = TrainConfig(**SETTINGS)
    with process_group(config) as group:
        for size in million:
            with tempfile.TemporaryDirectory(dir=out) as folder:
                print(json.dumps(measured(config, group, size, batch, rounds, Path(folder))), flush=True)


def measured(
    config: TrainConfig, group: ProcessGroup, million: int, batch: int, rounds: int, folder: Path
) -> dict[str, Any]:
    """Measure the stall for a training state, both ways."""
    side = int((million * 1e6) ** 0.5)
    engine = open_engine(nn.Linear(side, side), config)

    def step() -> float:
        """Run one step; return the seconds of forward and backward."""
        began = time.perf_counter()
        engine.backward(engine(torch.ones(batch, side)).square().mean())
        seconds = time.perf_counter() - began
        engine.step()
        return seconds

    def mark() -> list[float]:
        """Register a hook before optimizer steps; return the growing list of its call times."""
        times: list[float] = []
        engine.optimizer.optimizer.register_step_pre_hook(lambda *_: times.append(time.perf_counter()))
        return times

    before = mark()
    passes = [step()]  # creates the optimizer's moments
    with ExitStack() as stack:
        writers = {}
        for asynchronous in (True, False):
            place = folder / str(asynchronous)
            (place / "state").mkdir(parents=True)
            changed = config.model_copy(update={"asynchronous_checkpoints": asynchronous})
            writers[asynchronous] = stack.enter_context(StateWriter(place, changed, group))
            writers[asynchronous].save(engine, 1)  # warm-up; also registers the wait before a step
        after = mark()
        stalls: dict[bool, list[float]] = {True: [], False: []}
        for asynchronous in (True, False) * rounds:  # alternate, so that both see the same disk load
            began = time.perf_counter()
            writers[asynchronous].save(engine, 2 + len(stalls[asynchronous]))
            saving = time.perf_counter() - began
            passes.append(step())
            stalls[asynchronous].append(saving + after[-1] - before[-1])
            writers[asynchronous].wait()  # in training, the time between saves is longer than writing
    state = next((folder / "False" / "state").glob("step-*"))
    size = sum(file.stat().st_size for file in state.rglob("*.pt"))
    engine.destroy()
    beside, waited = (statistics.median(stalls[kind]) for kind in (True, False))
    return {"benchmark": "train_checkpoint", "state_gb": round(size / 1e9, 2),
            "forward_backward_s": round(statistics.median(passes), 3), "stall_beside_s": round(beside, 3),
            "stall_waiting_s": round(waited, 3), "ratio": round(beside / waited, 3), "wanted": 0.1}  # fmt: skip


if __name__ == "__main__":
    main()
