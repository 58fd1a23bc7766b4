"""Runs that go on with another number of workers: real processes, gloo, DeepSpeed; no Ray but where it is named."""

import glob
import multiprocessing
import re
import shutil
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save

from steadydancer.datasets.artifact import Artifact, plan_packets
from steadydancer.datasets.shards import Sample, null_path, sample_members, write_shard
from steadydancer.datasets.shards.encodings import ENCODINGS
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.models.components import save_components, tiny_components
from steadydancer.pipelines.train import engine, job
from steadydancer.pipelines.train.config import STAGE_DEFAULTS, TrainConfig
from steadydancer.pipelines.train.loop import train_loop
from steadydancer.pipelines.train.metrics_file import read_rows
from steadydancer.pipelines.train.preflight.inputs import check_same_run
from steadydancer.pipelines.train.resume import universal
from steadydancer.pipelines.train.resume.states import StateNotWritten, read_state_record
from steadydancer.pipelines.train.resume.universal import bytes_to_convert, read_state, refuse_without_room
from steadydancer.pipelines.train.run_folder import TrainingRefused, intact_states

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
from contextlib import nullcontext
import deepspeed, torch, torch.distributed as dist
from steadydancer.pipelines.train import engine, loop

deepspeed.ops.__compatible_ops__ = {}  # as in engine.process_group: no compiler is looked for
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
loop.process_group = lambda config: nullcontext(engine.ProcessGroup(rank, world_size, torch.device("cpu")))
loop.preemption_watch = lambda config: lambda: False
for settings in calls:
    loop.train_loop(settings)
dist.destroy_process_group()
"""


def settings(world, config: TrainConfig, out: Path, parent: Path | None = None) -> dict:
    """What `job.run` hands to every worker."""
    (out / "state").mkdir(parents=True, exist_ok=True)
    paths = {"out": str(out), "from_checkpoint": parent and str(parent)}
    return {"config": config.model_dump(mode="json"), **world, **paths, "record": {"kind": "checkpoint"}}


def together(world_size: int, tmp_path: Path, calls: list[dict]) -> None:
    """Run the loop in so many processes, one call after another, without Ray."""
    processes = multiprocessing.get_context("forkserver")  # one import for all of them
    processes.set_forkserver_preload(["steadydancer.pipelines.train.loop", "deepspeed"])
    given = {"world_size": world_size, "store": str(tmp_path / f"store-{time.time_ns()}"), "calls": calls}
    ranks = [processes.Process(target=exec, args=(WORKER, {**given, "rank": rank})) for rank in range(world_size)]
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DS_ACCELERATOR", "cpu")
            for rank in ranks:
                rank.start()
        for rank in ranks:
            rank.join(600)
        assert [rank.exitcode for rank in ranks] == [0] * world_size
    finally:
        for rank in ranks:
            rank.kill()


def alone(config: TrainConfig, world, out: Path, parent: Path | None = None) -> Path:
    train_loop(settings(world, config, out, parent))
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint/transformer/diffusion_pytorch_model.safetensors")


def agree(out: Path, straight: Path, losses: float = 0.0, trained: float = 0.0) -> None:
    """Batches of two runs are the same; losses of every step, and final weights as one vector, within so much of it."""
    rows, expected = read_rows(out), read_rows(straight)
    assert [row["batch_digest"] for row in rows] == [row["batch_digest"] for row in expected]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in expected], rel=losses, abs=0)
    ours, theirs = (torch.nn.utils.parameters_to_vector(weights(run).values()).double() for run in (out, straight))
    assert (ours - theirs).norm() <= trained * theirs.norm()


@pytest.fixture(scope="module")
def straight(world, tmp_path_factory) -> Path:
    """Stage 1 by one worker, undisturbed: two forward passes of two clips a step."""
    return alone(micro(1, gradient_accumulation=2), world, tmp_path_factory.mktemp("straight"))


def as_of(run: Path, steps: int, out: Path) -> Path:
    """A copy of a finished run as it stood after so many steps, killed some steps later."""
    shutil.copytree(run, out)
    shutil.rmtree(out / "checkpoint")
    for done, state in list(intact_states(out)):
        if done > steps:
            shutil.rmtree(state)
    return out


@pytest.mark.acceptance
def test_two_workers_go_on_where_one_stopped_and_one_where_two_did(world, straight, tmp_path):
    up, down = as_of(straight, 2, tmp_path / "up"), tmp_path / "down"
    calls = [(micro(1, num_workers=2), up), (micro(1, num_workers=2, steps=2), down)]
    together(2, tmp_path, [settings(world, config, out) for config, out in calls])
    assert read_state_record(down / "state/step-000002")["world_size"] == 2
    alone(micro(1, gradient_accumulation=2), world, down)
    for out in (up, down):
        agree(out, straight, losses=1e-6, trained=1e-6)
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
    facts = universal.read_state_record
    monkeypatch.setattr(universal, "read_state_record", lambda state: {**facts(state), "world_size": 7})
    alone(config, world, through, parent)
    agree(through, direct)


@pytest.mark.parametrize(
    ("stage", "dtype", "optimizer"),
    [(1, "bfloat16", "adamw"), (2, "float32", "adamw"), (1, "float32", "muon"), (2, "bfloat16", "muon")],
)
def test_a_conversion_changes_no_bit(world, straight, tmp_path, monkeypatch, stage, dtype, optimizer):
    parent = straight / "checkpoint" if stage == 2 else None
    check_conversion(world, parent, tmp_path, monkeypatch, micro(stage, dtype=dtype, steps=3, optimizer=optimizer))


@pytest.mark.acceptance
@pytest.mark.parametrize(("stage", "changes"), [
    (1, {}), (1, {"offload_optimizer": True}), (2, {"dtype": "bfloat16"}), (2, {"offload_optimizer": True}),
    (2, {"zero_stage": 2}), (2, {"optimizer": "muon", "offload_optimizer": True}),
])  # fmt: skip
def test_nor_does_it_of_other_settings(world, straight, tmp_path, monkeypatch, stage, changes):
    parent = straight / "checkpoint" if stage == 2 else None
    check_conversion(world, parent, tmp_path, monkeypatch, micro(stage, **changes))


def recorded(config: TrainConfig) -> dict:
    """What `run.json` would say, as far as two runs are compared by it."""
    return {
        "config": config.model_dump(mode="json"),
        "latents": {"digest": "l"},
        "base": {"digest": "b"},
        "parent": None,
    }


def test_other_workers_are_taken_where_the_global_batch_stays(tmp_path):
    check_same_run(tmp_path, recorded(micro(1, num_workers=2)))
    begun = (tmp_path / "start.json").read_text()
    for workers, accumulation in ((1, 1), (1, 2), (0, 4), (4, 1), (2, 1)):
        check_same_run(tmp_path, recorded(micro(1, num_workers=workers, gradient_accumulation=accumulation)))
    assert (tmp_path / "start.json").read_text() == begun

    def refused(match: str, **changes) -> None:
        with pytest.raises(TrainingRefused, match=match):
            check_same_run(tmp_path, recorded(micro(1, **changes)))

    refused(r"config.gradient_accumulation: 1 → 2$", num_workers=2, gradient_accumulation=2)
    refused(r"config.num_workers: 2 → 3\nAnother num_workers is allowed if", num_workers=3, global_batch_size=3)
    refused(r"\n  config.seed: 3 → 4$", num_workers=1, seed=4)
    with pytest.raises(
        ValueError, match="global_batch_size 4 must be a multiple of num_workers × gradient_accumulation"
    ):
        micro(1, num_workers=3)


def a_state(folder: Path, num_workers: int, zero_stage: int) -> Path:
    """A training state as far as it is looked at before it is read."""
    (folder / "engine").mkdir(parents=True)
    for rank in range(num_workers):
        (folder / f"engine/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(bytes(1000))
    (folder / "engine/mp_rank_00_model_states.pt").write_bytes(bytes(50))
    write_json(folder / "complete.json", {"world_size": num_workers, "zero_stage": zero_stage, "steps_done": 2})
    return folder


def test_room_for_a_conversion_is_asked_for_before_it_begins(tmp_path, monkeypatch):
    two, three = a_state(tmp_path / "two", 4, 2), a_state(tmp_path / "three", 4, 3)
    assert bytes_to_convert(two, 4) == 0
    assert bytes_to_convert(two, 8) == 2 * 4000 + 50
    assert bytes_to_convert(three, 8) == 2 * 4000 + 1000 + 50
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(universal.shutil, "disk_usage", lambda folder: disk._replace(free=8050))
    refuse_without_room(two, 8)
    refuse_without_room(three, 4)
    with pytest.raises(TrainingRefused, match=r"^disk: resuming with 8 workers .*--num-workers 4"):
        refuse_without_room(three, 8)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_state_of_other_workers_is_converted_by_the_first_and_read_by_all(tmp_path, monkeypatch, rank):
    """The others wait for the converted one; it is removed when all have read it."""
    state, did = a_state(tmp_path / "state/step-000002", 4, 2), []
    place = tmp_path / "state/universal"
    group = Namespace(rank=rank, world_size=2, barrier=lambda: did.append(("barrier", place.exists())))

    def convert(given: Path, facts: dict, target: Path) -> None:
        did.append(("convert", given, facts["world_size"], target))
        target.mkdir()

    def wait(seconds: float) -> None:
        assert len(did) < 9 and seconds < 5, "nobody converts it"
        did.append("wait")
        if did.count("wait") == 2:
            place.mkdir()

    monkeypatch.setattr(universal, "_convert", convert)
    monkeypatch.setattr(universal.time, "sleep", wait)
    monkeypatch.setattr(universal, "read_engine", lambda *arguments, **how: did.append(("read", *arguments, how)))
    read_state("engine", state, group)
    own = [("convert", state, 4, place)] if rank == 0 else ["wait", "wait"]
    read = ("read", "engine", place, {"universal": True})
    assert did == [("barrier", False), *own, read, ("barrier", True)]
    assert place.exists() == (rank == 1)


def test_a_conversion_that_fails_or_is_killed_leaves_the_state_and_nothing_that_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.checkpoint import ds_to_universal

    state, read = a_state(tmp_path / "state/step-000002", 2, 2), []
    before = content_digest(state)
    group = Namespace(rank=0, world_size=1, barrier=lambda: None)
    monkeypatch.setattr(universal, "read_engine", lambda *arguments, **how: read.append((*arguments, how)))

    def fills_the_disk(options: Namespace) -> None:
        Path(options.output_folder).mkdir()
        raise RuntimeError("unexpected pos 64 vs 0")  # torch's words for it

    monkeypatch.setattr(ds_to_universal, "main", fills_the_disk)
    with pytest.raises(StateNotWritten, match=r"^disk: the state after 2 steps, which 2 .*--num-workers 2"):
        read_state(None, state, group)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000002"]

    (tmp_path / "state/.universal.tmp/engine").mkdir(parents=True)  # of a kill while it was being written
    (tmp_path / "state/universal").mkdir()  # of a kill while it was being read
    assert not read
    read_state(None, state, Namespace(rank=0, world_size=2, barrier=lambda: None))
    assert read == [(None, state, {})]  # no conversion for those who wrote it
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000002"]
    assert content_digest(state) == before


def test_deepspeed_gets_no_name_that_it_takes_for_a_pattern(tmp_path):
    folder, seen = tmp_path / "a [1] (of 2+)", []
    (folder / "engine").mkdir(parents=True)

    class Engine:
        optimizer = SimpleNamespace(optimizer=None)

        def load_checkpoint(self, place: str, **options) -> None:
            re.compile(place)
            seen.extend(glob.glob(f"{place}/*"))  # noqa: PTH207 - as DeepSpeed does

    engine.read_engine(Engine(), folder)
    assert [Path(name).name for name in seen] == ["engine"] and not Path(seen[0]).exists()


@pytest.mark.acceptance
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [1, 2])
def test_runs_go_from_any_number_of_workers_to_any(world, tmp_path, stage):
    """4 → 2 → 1 and 1 → 4, at the paper's rates; a worker takes one clip in a forward pass throughout."""
    rate, parent = STAGE_DEFAULTS[stage]["learning_rate"], None
    if stage == 2:
        parent = alone(micro(1, steps=1), world, tmp_path / "parent") / "checkpoint"
    one = micro(stage, gradient_accumulation=4, steps=6, learning_rate=rate)
    straight = alone(one, world, tmp_path / "straight", parent)
    down, up = tmp_path / "down", as_of(straight, 2, tmp_path / "up")
    four = [(micro(stage, num_workers=4, steps=n, learning_rate=rate), out) for n, out in ((2, down), (6, up))]
    together(4, tmp_path, [settings(world, config, out, parent) for config, out in four])
    two = micro(stage, num_workers=2, gradient_accumulation=2, steps=4, learning_rate=rate)
    together(2, tmp_path, [settings(world, two, down, parent)])
    alone(one, world, down, parent)
    for out in (up, down):
        agree(out, straight, losses=1e-6, trained=1e-6)


@pytest.mark.acceptance
@pytest.mark.parametrize("stage", [1, 2])
def test_muon_takes_the_same_steps_with_any_number_of_workers(world, straight, tmp_path, stage):
    parent, muon = straight / "checkpoint" if stage == 2 else None, {"optimizer": "muon"}
    one = alone(micro(stage, gradient_accumulation=2, **muon), world, tmp_path / "one", parent)
    up, down = as_of(one, 2, tmp_path / "up"), tmp_path / "down"
    calls = [(micro(stage, num_workers=2, **muon), up), (micro(stage, num_workers=2, steps=2, **muon), down)]
    together(2, tmp_path, [settings(world, config, out, parent) for config, out in calls])
    alone(micro(stage, gradient_accumulation=2, **muon), world, down, parent)
    for out in (up, down):
        agree(out, one, losses=1e-6, trained=1e-6)


@pytest.mark.acceptance
@pytest.mark.parametrize("stage", [1, 2])
def test_losses_agree_where_workers_take_more_clips_at_once(world, straight, tmp_path, stage):
    """Sums are then taken in another order, which AdamW makes much of where a gradient is nearly zero."""
    parent = straight / "checkpoint" if stage == 2 else None
    one = alone(micro(stage), world, tmp_path / "one", parent)
    down = tmp_path / "down"
    together(2, tmp_path, [settings(world, micro(stage, num_workers=2, steps=2), down, parent)])
    alone(micro(stage), world, down, parent)
    agree(down, one, losses=1e-6, trained=1e-5)


@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_one_worker_goes_on_after_two_under_ray_train(world, straight, tmp_path):
    arguments = {"latents": Path(world["latents"]), "base": world["base"], "out": tmp_path / "run"}
    job.run(micro(1, num_workers=2, steps=2), **arguments)
    job.run(micro(1, num_workers=1, gradient_accumulation=2), **arguments)
    agree(tmp_path / "run", straight, losses=1e-6, trained=1e-6)
