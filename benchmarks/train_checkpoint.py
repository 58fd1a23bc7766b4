"""How long the loop stands still for an engine state: written beside the training, against waited for.

Prints one JSON line: seconds of both, medians, and their ratio. The engine is a real one (DeepSpeed, ZeRO-2, one
process on the CPU) around one layer of `--million` weights, so that what is copied and written is what training copies
and writes; only the network is none.
"""

import json
import logging
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
import torch
from torch import nn

from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.engine import open_engine, workers
from steadydancer.pipelines.train.states import StateWriter


@click.command()
@click.option("--million", type=int, default=60, help="10^6 trained weights; a state has 16 bytes of each.")
@click.option("--rounds", type=int, default=3)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Disk to write to; else a temporary one.")
def main(million: int, rounds: int, out: Path | None) -> None:
    logging.disable(logging.WARNING)
    settings = {"stage": 2, "num_workers": 0, "use_gpu": False, "zero_stage": 2, "dtype": "float32",
                "global_batch_size": 1, "keep_checkpoints": 1}  # fmt: skip
    side = int((million * 1e6) ** 0.5)
    config = TrainConfig(**settings)
    with tempfile.TemporaryDirectory(dir=out) as folder, workers(config) as team:
        engine = open_engine(nn.Linear(side, side), config)
        engine.backward(engine(torch.ones(1, side)).square().mean())
        engine.step()  # the moments are there from now on
        stalls: dict[bool, list[float]] = {True: [], False: []}
        with ExitStack() as stack:
            writers = {}
            for asynchronous in (True, False):
                place = Path(folder) / str(asynchronous)
                (place / "state").mkdir(parents=True)
                changed = config.model_copy(update={"asynchronous_checkpoints": asynchronous})
                writers[asynchronous] = stack.enter_context(StateWriter(place, changed, team))
            for asynchronous in (True, False) * (rounds + 1):  # in turns: the disk's mood is shared
                began = time.perf_counter()
                writers[asynchronous].save(engine, 1 + len(stalls[asynchronous]))
                stalls[asynchronous].append(time.perf_counter() - began)
                writers[asynchronous].wait()  # steps are taken meanwhile, longer than writing
        state = next((Path(folder) / "False" / "state").glob("step-*"))
        size = sum(file.stat().st_size for file in state.rglob("*.pt"))
        engine.destroy()
    beside, waited = (statistics.median(stalls[kind][1:]) for kind in (True, False))  # the first ones warm up
    print(json.dumps({"benchmark": "train_checkpoint", "state_gb": round(size / 1e9, 2),
                      "stall_beside_s": round(beside, 3), "stall_waiting_s": round(waited, 3),
                      "ratio": round(beside / waited, 3), "wanted": 0.1}))  # fmt: skip


if __name__ == "__main__":
    main()
