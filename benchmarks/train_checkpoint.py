"""How long the loop stands still for a training state: written beside the training, against waited for.

Prints one JSON line for each size: seconds of both, medians, and their ratio. The engine is a real one (DeepSpeed,
ZeRO-2, one process on the CPU) around one layer of a given number of weights, so that what is copied and written is
what training copies and writes; only the network is none. A stall is what `save` takes and how long the optimizer's
next step waits for the copy; forward and backward of a batch lie between, as they do in training.
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
    "--million", type=int, multiple=True, default=(20, 60), help="10^6 trained weights; a state has 16 bytes of each."
)
@click.option("--batch", type=int, default=64, help="Rows that go through the layer between a save and the next step.")
@click.option("--rounds", type=int, default=5)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Disk to write to; else a temporary one.")
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
    """Seconds of the loop that a state costs, both ways."""
    side = int((million * 1e6) ** 0.5)
    engine = open_engine(nn.Linear(side, side), config)

    def step() -> float:
        """Seconds of forward and backward."""
        began = time.perf_counter()
        engine.backward(engine(torch.ones(batch, side)).square().mean())
        seconds = time.perf_counter() - began
        engine.step()
        return seconds

    def mark() -> list[float]:
        """Times at which the optimizer's steps come by here, among what is to be done before them."""
        times: list[float] = []
        engine.optimizer.optimizer.register_step_pre_hook(lambda *_: times.append(time.perf_counter()))
        return times

    before = mark()
    passes = [step()]  # the moments are there from now on
    with ExitStack() as stack:
        writers = {}
        for asynchronous in (True, False):
            place = folder / str(asynchronous)
            (place / "state").mkdir(parents=True)
            changed = config.model_copy(update={"asynchronous_checkpoints": asynchronous})
            writers[asynchronous] = stack.enter_context(StateWriter(place, changed, group))
            writers[asynchronous].save(engine, 1)  # warms up, and puts its wait among what is done before a step
        after = mark()
        stalls: dict[bool, list[float]] = {True: [], False: []}
        for asynchronous in (True, False) * rounds:  # in turns: the disk's mood is shared
            began = time.perf_counter()
            writers[asynchronous].save(engine, 2 + len(stalls[asynchronous]))
            saving = time.perf_counter() - began
            passes.append(step())
            stalls[asynchronous].append(saving + after[-1] - before[-1])
            writers[asynchronous].wait()  # steps are taken meanwhile, longer than writing
    state = next((folder / "False" / "state").glob("step-*"))
    size = sum(file.stat().st_size for file in state.rglob("*.pt"))
    engine.destroy()
    beside, waited = (statistics.median(stalls[kind]) for kind in (True, False))
    return {"benchmark": "train_checkpoint", "state_gb": round(size / 1e9, 2),
            "forward_backward_s": round(statistics.median(passes), 3), "stall_beside_s": round(beside, 3),
            "stall_waiting_s": round(waited, 3), "ratio": round(beside / waited, 3), "wanted": 0.1}  # fmt: skip


if __name__ == "__main__":
    main()
