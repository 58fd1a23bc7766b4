"""Runs that go on with another number of workers: real processes, gloo, DeepSpeed; no Ray but where it is named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from steadydancer.datasets.artifact import Artifact, plan_packets
from steadydancer.datasets.encodings import ENCODINGS
from steadydancer.datasets.shards import Sample, null_path, sample_members, write_shard
from steadydancer.models.components import save_components, tiny_components
from steadydancer.pipelines.train import engine, universal
from steadydancer.pipelines.train.checkpoint import engine_states, read_metrics
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.loop import train_loop
from steadydancer.pipelines.train.states import read_facts

FRAMES, SIDE, IMAGE_DIM, TEXT_DIM = 9, 32, 16, 16
T, LATENT = (FRAMES - 1) // 4 + 1, SIDE // 8


def micro(stage: int, **changes) -> TrainConfig:
    values = {
        "stage": stage,
        "num_frames": FRAMES,
        "steps": 4,
        "seed": 3,
        "learning_rate": 1e-2 if stage == 1 else 1e-3,
        "warmup_steps": 2,
        "global_batch_size": 4,
        "num_workers": 0,
        "use_gpu": False,
        "dtype": "float32",
        "lora_rank": 2,
        "lora_alpha": 2.0,
        "text_dropout": 0.3,
        "pose_dropout": 0.3,
        "checkpoint_every_steps": 2,
        "keep_checkpoints": 3,
        "evaluation_samples": 0,
        "validation_share": 0.0,
        "validation_sigmas": (0.5,),
        "trackers": (),
    }
    return TrainConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, str]:
    """A micro base model and a cache made for it."""
    root = tmp_path_factory.mktemp("world")
    network = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 32, "num_layers": 2, "freq_dim": 16}
    parts = tiny_components(
        seed=0,
        transformer=network,
        image_encoder={"width": IMAGE_DIM, "num_layers": 1},
        text_encoder={"d_model": TEXT_DIM, "num_layers": 1},
    )
    save_components({"transformer": parts["transformer"]}, root / "base")
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    latents, keys = root / "latents", [f"clip{i}" for i in range(5)]
    (packet,) = plan_packets(keys, len(keys))
    samples = []
    for key in keys:
        clip = {name: random(16, T, LATENT, LATENT) for name in ("latents", "image_latents", "pose_latents")}
        images = {name: random(257, IMAGE_DIM) for name in ("image_embeds", "pose_image_embeds")}
        tensors = {**clip, **images, "prompt_embeds": random(3, TEXT_DIM)}
        row = {"clip_id": key, "verdict": "ok", "num_frames": FRAMES, "height": SIDE, "width": SIDE}
        samples.append(Sample(row, sample_members({"clip_id": key}, save(tensors), b"")))
    write_shard(latents, packet, samples)
    null = null_path(latents, (FRAMES, SIDE, SIDE))
    null.parent.mkdir()
    dropped = {"pose_latents": random(16, T, LATENT, LATENT), "pose_image_embeds": random(257, IMAGE_DIM)}
    null.write_bytes(save({**dropped, "prompt_embeds": random(1, TEXT_DIM)}))
    Artifact(latents).commit(
        {"counts": {"inputs": 5, "ok": 5, "rejected": 0, "quarantined": 0}, "encodings": ENCODINGS}
    )
    return {"latents": str(latents), "base": str(root / "base")}


WORKER = """
import json, os, sys
from contextlib import nullcontext
os.environ["DS_ACCELERATOR"] = "cpu"
import deepspeed, torch, torch.distributed as dist
from steadydancer.pipelines.train import engine, loop

rank, world_size, store, calls = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
deepspeed.ops.__compatible_ops__ = {}  # as in engine.workers: no compiler is looked for
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
loop.workers = lambda config: nullcontext(engine.Workers(rank, world_size, torch.device("cpu")))
loop.node_watch = lambda config: lambda: False
for settings in calls:
    loop.train_loop(settings)
dist.destroy_process_group()
"""


def settings(world, config: TrainConfig, out: Path, parent: Path | None = None) -> dict:
    """What `job.run` hands to every worker."""
    (out / "state").mkdir(parents=True, exist_ok=True)
    paths = {"out": str(out), "from_checkpoint": parent and str(parent)}
    return {"config": config.model_dump(mode="json"), **world, **paths, "record": {"kind": "checkpoint"}}


def together(num_workers: int, tmp_path: Path, calls: list[dict]) -> None:
    """Run the loop in so many processes, one call after another, without Ray."""
    store = tmp_path / f"store-{len(list(tmp_path.glob('store-*')))}"
    words = [sys.executable, "-c", WORKER]
    processes = [
        subprocess.Popen([*words, str(rank), str(num_workers), str(store), json.dumps(calls)])
        for rank in range(num_workers)
    ]
    try:
        assert [process.wait(250) for process in processes] == [0] * num_workers
    finally:
        for process in processes:
            process.kill()


def alone(config: TrainConfig, world, out: Path, parent: Path | None = None) -> Path:
    train_loop(settings(world, config, out, parent))
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint/transformer/diffusion_pytorch_model.safetensors")


def agree(out: Path, straight: Path, rel: float = 0.0) -> None:
    """Losses of every step, batches and final weights of two runs are the same, the numbers within `rel`."""
    rows, expected = read_metrics(out), read_metrics(straight)
    assert [row["batch_digest"] for row in rows] == [row["batch_digest"] for row in expected]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=rel, abs=0)
    ours, theirs = weights(out), weights(straight)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]) or (weight - theirs[name]).norm() <= rel * theirs[name].norm(), name


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory) -> Path:
    """Stage 1 by one worker, undisturbed: two forward passes of two clips a step."""
    return alone(micro(1, gradient_accumulation=2), world, tmp_path_factory.mktemp("straight"))


def as_of(run: Path, steps: int, out: Path) -> Path:
    """A copy of a finished run as it stood after so many steps, killed some steps later."""
    shutil.copytree(run, out)
    shutil.rmtree(out / "checkpoint")
    for done, state in list(engine_states(out)):
        if done > steps:
            shutil.rmtree(state)
    return out


def test_two_workers_go_on_where_one_stopped_and_one_where_two_did(world, straight, tmp_path):
    up, down = as_of(straight, 2, tmp_path / "up"), tmp_path / "down"
    calls = [(micro(1, num_workers=2), up), (micro(1, num_workers=2, steps=2), down)]
    together(2, tmp_path, [settings(world, config, out) for config, out in calls])
    assert read_facts(down / "state/step-000002")["world_size"] == 2
    alone(micro(1, gradient_accumulation=2), world, down)
    for out in (up, down):
        agree(out, straight, rel=1e-6)
        assert not list((out / "state").glob("*universal*"))


def check_conversion(world, parent: Path | None, tmp_path: Path, monkeypatch, config: TrainConfig) -> None:
    """One worker reads its own state as if others had written it; ZeRO-3 in several groups of weights."""
    given = engine.deepspeed_config

    def in_groups(config: TrainConfig) -> dict:
        options = given(config)
        return {**options, "zero_optimization": {**options["zero_optimization"], "sub_group_size": 20_000}}

    monkeypatch.setattr(engine, "deepspeed_config", in_groups)
    direct = alone(config, world, tmp_path / "direct", parent)
    through = as_of(direct, 2, tmp_path / "through [1] (of 2+)")  # DeepSpeed makes patterns of paths
    facts = universal.read_facts
    monkeypatch.setattr(universal, "read_facts", lambda state: {**facts(state), "world_size": 7})
    alone(config, world, through, parent)
    agree(through, direct)


@pytest.mark.parametrize(("stage", "dtype"), [(1, "bfloat16"), (2, "float32")])
def test_a_conversion_changes_no_bit(world, straight, tmp_path, monkeypatch, stage, dtype):
    parent = straight / "checkpoint" if stage == 2 else None
    check_conversion(world, parent, tmp_path, monkeypatch, micro(stage, dtype=dtype, steps=3))


@pytest.mark.acceptance
@pytest.mark.parametrize(("stage", "changes"), [
    (1, {}), (1, {"offload_optimizer": True}), (2, {"dtype": "bfloat16"}), (2, {"offload_optimizer": True}),
    (2, {"zero_stage": 2}),
])  # fmt: skip
def test_nor_does_it_of_other_settings(world, straight, tmp_path, monkeypatch, stage, changes):
    parent = straight / "checkpoint" if stage == 2 else None
    check_conversion(world, parent, tmp_path, monkeypatch, micro(stage, **changes))
