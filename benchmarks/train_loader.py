"""What reading the data costs a training step: batches read from shards, one ahead, against one that stays in memory.

Prints one JSON line: seconds of both, medians over steps taken in turns, and the median ratio of a pair. Tiny networks
with random weights, 33 frames at 64 x 64, this process alone on the CPU.
"""

import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

import click
import torch
from safetensors.torch import save

from steadydancer.datasets import shards
from steadydancer.datasets.artifact import Artifact, plan_packets
from steadydancer.models.components import save_components, tiny_components
from steadydancer.models.objectives import action_supervision
from steadydancer.pipelines.train.batches import TrainingData
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.engine import open_engine, workers
from steadydancer.pipelines.train.loop import _step
from steadydancer.pipelines.train.meter import Meter
from steadydancer.pipelines.train.networks import load_student
from steadydancer.pipelines.train.prefetch import Prefetch

FRAMES, SIDE, CLIPS = 33, 64, 32


def write_latents(folder: Path, image_dim: int, text_dim: int) -> None:
    """Random tensors in the shapes of a cache."""
    generator = torch.Generator().manual_seed(0)
    grid = (16, (FRAMES - 1) // 4 + 1, SIDE // 8, SIDE // 8)

    def tensors(words: int) -> bytes:
        shapes = {"latents": grid, "image_latents": grid, "pose_latents": grid, "image_embeds": (257, image_dim),
                  "pose_image_embeds": (257, image_dim), "prompt_embeds": (words, text_dim)}  # fmt: skip
        return save({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})

    keys = [f"clip{i:03d}" for i in range(CLIPS)]
    size = {"num_frames": FRAMES, "height": SIDE, "width": SIDE}
    (packet,) = plan_packets(keys, CLIPS)
    samples = [
        shards.Sample({"clip_id": key, "verdict": "ok", **size}, shards.sample_members({}, tensors(40), b""))
        for key in keys
    ]
    shards.write_shard(folder, packet, samples)
    null = shards.null_path(folder, (FRAMES, SIDE, SIDE))
    null.parent.mkdir()
    null.write_bytes(tensors(1))
    counts = {"inputs": CLIPS, "ok": CLIPS, "rejected": 0, "quarantined": 0}
    Artifact(folder).commit({"counts": counts, "encodings": getattr(shards, "ENCODINGS", None)})


@click.command()
@click.option("--steps", type=int, default=30, help="Of each kind.")
def main(steps: int) -> None:
    logging.disable(logging.WARNING)
    settings = {"stage": 1, "num_frames": FRAMES, "num_workers": 0, "use_gpu": False, "dtype": "float32",
                "global_batch_size": 4, "lora_rank": 16, "lora_alpha": 16, "gradient_checkpointing": False,
                "validation_share": 0}  # fmt: skip
    config = TrainConfig(**settings)
    with tempfile.TemporaryDirectory() as folder, workers(config) as team:
        parts = tiny_components()
        save_components({"transformer": parts["transformer"]}, Path(folder) / "base")
        sizes = parts["transformer"].config
        write_latents(Path(folder) / "latents", sizes.image_dim, sizes.text_dim)
        data = TrainingData(Path(folder) / "latents", config)
        engine = open_engine(load_student(config, str(Path(folder) / "base"), None, team.device), config)
        meter, resident = Meter(config, team.device, sizes), data.share(0, 0, 1)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        with Prefetch(lambda step: data.share(step, 0, 1), range(steps + 2)) as batches:
            for step in range(steps + 2):
                for reads in (True, False):
                    began = time.perf_counter()
                    batch = batches(step) if reads else resident
                    _step(engine, action_supervision(), config, batch, team, meter, step)
                    seconds[reads].append(time.perf_counter() - began)
        engine.destroy()
    pairs = list(zip(seconds[True], seconds[False], strict=True))[2:]  # the first ones warm up
    reading, resting = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    print(json.dumps({"benchmark": "train_loader", "steps": steps, "step_s": round(reading, 4),
                      "resident_step_s": round(resting, 4), "ratio": round(ratio, 4), "wanted": 1.02}))  # fmt: skip


if __name__ == "__main__":
    main()
