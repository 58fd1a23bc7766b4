import itertools
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save
from torch.utils._python_dispatch import TorchDispatchMode

from steadydancer.datasets.artifact import Artifact, ArtifactError, exclusive, plan_packets
from steadydancer.datasets.shards import Sample, ShardDataset, null_path, sample_members, write_shard
from steadydancer.datasets.shards import dataset as shards
from steadydancer.datasets.skeleton import PoseSequence
from steadydancer.datasets.storage.digests import content_digest
from steadydancer.models.components import load_components, save_components, tiny_components
from steadydancer.models.encoders import encode_video
from steadydancer.models.objectives import action_supervision, steadydancer_velocity
from steadydancer.models.pose_condition import draw_pose_condition
from steadydancer.pipelines.train import job, loop
from steadydancer.pipelines.train import memory_optimizations as memory
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.data.batches import TrainingData
from steadydancer.pipelines.train.metrics.evaluation import Evaluator
from steadydancer.pipelines.train.metrics_file import PARTS, read_rows
from steadydancer.pipelines.train.networks import load_student
from steadydancer.pipelines.train.preflight import disk
from steadydancer.pipelines.train.resume.host_copy import num_bytes
from steadydancer.pipelines.train.resume.stop import TrainingStopped
from steadydancer.pipelines.train.run_folder import NonFiniteError, TrainingRefused, intact_states

FRAMES, SIDE, IMAGE_DIM, TEXT_DIM = 9, 32, 16, 16
T, LATENT = (FRAMES - 1) // 4 + 1, SIDE // 8


def micro(stage: int, **changes) -> TrainConfig:
    values = {
        "stage": stage,
        "num_frames": FRAMES,
        "steps": 5,
        "seed": 3,
        "learning_rate": 1e-2 if stage != 2 else 1e-3,
        "warmup_steps": 2,
        "global_batch_size": 2,
        "num_workers": 0,
        "use_gpu": False,
        "dtype": "float32",
        "lora_rank": 2,
        "lora_alpha": 2.0,
        "text_dropout": 0.3,
        "pose_dropout": 0.3,
        "pose_simulation_targets": (2,),
        "checkpoint_every_steps": 2,
        "evaluation_samples": 4,
        "validation_share": 0.3,
        "validation_clips": 2,
        "validation_sigmas": (0.3, 0.8),
        "validation_every_steps": 3,
        "trackers": (),
    }
    return TrainConfig(**{**values, **changes})


def write_micro_latents(folder: Path, vae, vae_digest: str, num: int = 5) -> Path:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    keys = [f"clip{i}" for i in range(num)]
    (packet,) = plan_packets(keys, num)
    samples = []
    for i, key in enumerate(keys):
        points = 0.2 + 0.5 * np.random.default_rng(i).random((FRAMES, 18, 2)).astype(np.float32)
        pose = PoseSequence(points, np.ones((FRAMES, 18), bool), np.full((FRAMES, 2, 21, 2), -1, np.float32), None)
        tensors = {
            "latents": random(16, T, LATENT, LATENT),
            "image_latents": random(16, T, LATENT, LATENT),
            "pose_latents": encode_video(vae, draw_pose_condition(pose, SIDE, SIDE), SIDE, SIDE),
            "image_embeds": random(257, IMAGE_DIM),
            "pose_image_embeds": random(257, IMAGE_DIM),
            "prompt_embeds": random(3 + i, TEXT_DIM),
        }
        row = {"clip_id": key, "verdict": "ok", "num_frames": FRAMES, "height": SIDE, "width": SIDE}
        meta = {"clip_id": key, "image_height": SIDE, "image_width": SIDE, "drawing_area_px": 1024 * 576}
        samples.append(Sample(row, sample_members(meta, save(tensors), pose.to_bytes())))
    write_shard(folder, packet, samples)
    null = null_path(folder, (FRAMES, SIDE, SIDE))
    null.parent.mkdir()
    null.write_bytes(
        save(
            {
                "pose_latents": random(16, T, LATENT, LATENT),
                "pose_image_embeds": random(257, IMAGE_DIM),
                "prompt_embeds": random(1, TEXT_DIM),
            }
        )
    )
    Artifact(folder).commit(
        {
            "counts": {"inputs": num, "ok": num, "rejected": 0, "quarantined": 0},
            "components": {"digests": {"vae": vae_digest}},
            "encodings": getattr(shards, "ENCODINGS", None),
        }
    )
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict[str, Path]:
    """A micro base model and a cache made for it."""
    root = tmp_path_factory.mktemp("world")
    parts = tiny_components(
        seed=0,
        transformer={
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "ffn_dim": 32,
            "num_layers": 2,
            "freq_dim": 16,
        },
        image_encoder={"width": IMAGE_DIM, "num_layers": 1},
        text_encoder={"d_model": TEXT_DIM, "num_layers": 1},
    )
    save_components({name: parts[name] for name in ("transformer", "vae")}, root / "base")
    write_micro_latents(root / "latents", parts["vae"], content_digest(root / "base" / "vae"))
    return {"latents": root / "latents", "base": root / "base"}


def train(world, config: TrainConfig, out: Path, parent: Path | None = None, **changes) -> dict:
    arguments = {"latents": world["latents"], "base": str(world["base"]), "out": out, "from_checkpoint": parent}
    return job.run(config, **{**arguments, **changes})


@pytest.fixture(scope="module")
def stages(world, tmp_path_factory) -> dict[int, Path]:
    """Stages 1, 2 and 3, one after another, undisturbed, in this process."""
    root = tmp_path_factory.mktemp("stages")
    for stage in (1, 2, 3):
        train(world, micro(stage), root / f"stage{stage}", root / f"stage{stage - 1}" if stage > 1 else None)
    return {stage: root / f"stage{stage}" for stage in (1, 2, 3)}


MUON = {"optimizer": "muon", "learning_rate_schedule": "cosine", "ema_decay": 0.5}


@pytest.fixture(scope="module")
def muon_stages(world, stages, tmp_path_factory) -> dict[int, Path]:
    """The same by Muon, with a falling rate and averaged weights, each after the stage before by AdamW."""
    root = tmp_path_factory.mktemp("muon")
    for stage in (1, 2, 3):
        train(world, micro(stage, **MUON), root / f"stage{stage}", stages[stage - 1] if stage > 1 else None)
    return {stage: root / f"stage{stage}" for stage in (1, 2, 3)}


def without_times(out: Path) -> list[dict]:
    """What must not depend on the machine."""
    measured = {"seconds", "samples_per_second", "memory_bytes", "mfu", *(f"{part}_share" for part in PARTS)}
    return [{name: value for name, value in row.items() if name not in measured} for row in read_rows(out)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint/transformer/diffusion_pytorch_model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_stage_ends_with_a_committed_checkpoint(stages):
    for stage, out in stages.items():
        record = json.loads((out / "checkpoint/run.json").read_text())
        assert (record["stage"], record["steps"]) == (stage, 5)
        assert [row["step"] for row in read_rows(out)] == list(range(5))
        assert record["loss_before"] > 0 and record["loss_after"] > 0
        assert (out / "checkpoint/lora").exists() == (stage != 2)
        network = load_components(out / "checkpoint", ["transformer"])["transformer"]
        assert type(network).__name__ == "SteadyDancerTransformer3DModel"
    parent = json.loads((stages[3] / "checkpoint/run.json").read_text())["parent"]
    assert parent["path"] == str(stages[2] / "checkpoint")


def test_only_the_weights_of_the_stage_change(stages):
    first, second = weights(stages[1]), weights(stages[2])
    trained_by_lora = {name for name, value in first.items() if not torch.equal(value, second[name])}
    assert len(trained_by_lora) > 0.9 * len(first)  # stage 2 moves everything
    third = weights(stages[3])
    moved = {name for name in second if not torch.equal(second[name], third[name])}
    assert moved and all(
        name.startswith(("patch_embedding_fuse", "patch_embedding_ref_c", "pose_modulation"))
        or (name.startswith("blocks.") and name.endswith(".weight") and "norm" not in name and "add_" not in name)
        for name in moved
    )


def test_all_weights_can_be_trained_in_stage_1_and_a_lora_in_stage_2(world, stages, tmp_path):
    train(world, micro(1, trained_weights="all", **MUON), tmp_path / "all")
    start, end = weights(stages[1]), weights(tmp_path / "all")
    assert not (tmp_path / "all/checkpoint/lora").exists()
    norms = [name for name in end if "norm" in name and name.startswith("blocks.")]  # what a LoRA never changes
    assert norms and not any(torch.equal(start[name], end[name]) for name in norms)
    train(world, micro(2, trained_weights="lora"), tmp_path / "lora", tmp_path / "all")
    assert (tmp_path / "lora/checkpoint/lora").exists()
    after = weights(tmp_path / "lora")
    assert all(torch.equal(end[name], after[name]) for name in norms)
    assert not torch.equal(end["blocks.0.attn1.to_q.weight"], after["blocks.0.attn1.to_q.weight"])


@pytest.mark.parametrize("changes", [{}, MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize(
    ("step", "stage"), [(1, 1), (1, 2), (1, 3), (3, 1), pytest.param(3, 2, marks=pytest.mark.acceptance), (3, 3)]
)
def test_an_interrupted_run_gives_the_same_bits(
    world, stages, muon_stages, tmp_path, monkeypatch, stage, step, changes
):
    parent, straight = stages[stage - 1] if stage > 1 else None, (muon_stages if changes else stages)[stage]
    original = loop._step

    def interrupted(*arguments):
        if arguments[-1] == step:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(loop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(world, micro(stage, **changes), tmp_path / "run", parent)
    assert not (tmp_path / "run/checkpoint").exists()
    monkeypatch.undo()
    train(world, micro(stage, **changes), tmp_path / "run", parent)
    assert without_times(tmp_path / "run") == without_times(straight)
    assert equal(weights(tmp_path / "run"), weights(straight))
    losses = [
        json.loads((out / "checkpoint/run.json").read_text())["loss_after"] for out in (tmp_path / "run", straight)
    ]
    assert losses[0] == losses[1]


def test_a_torn_state_is_passed_over_and_old_ones_are_removed(world, stages, tmp_path):
    assert [steps for steps, _ in intact_states(stages[1])] == [5, 4]
    shutil.copytree(stages[1], tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoint")
    (newest, folder), _ = intact_states(tmp_path / "run")
    file = next(folder.rglob("*.pt"))
    file.write_bytes(file.read_bytes()[:-1])
    assert next(intact_states(tmp_path / "run"))[0] < newest
    train(world, micro(1), tmp_path / "run")
    assert equal(weights(tmp_path / "run"), weights(stages[1]))


def test_sigterm_ends_the_run_after_its_step_and_the_same_command_goes_on(world, stages, tmp_path, monkeypatch):
    original = loop._step

    def terminated(*arguments):
        if arguments[-1] == 2:  # not a step after which a state would be saved anyway
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(loop, "_step", terminated)
    with pytest.raises(TrainingStopped, match="stopped after 3 of 5 steps"):
        train(world, micro(1), tmp_path / "run")
    monkeypatch.undo()
    assert [steps for steps, _ in intact_states(tmp_path / "run")] == [3, 2]
    assert not (tmp_path / "run/checkpoint").exists()
    train(world, micro(1), tmp_path / "run")
    assert without_times(tmp_path / "run") == without_times(stages[1])
    assert equal(weights(tmp_path / "run"), weights(stages[1]))


def test_validation_clips_are_never_trained_on_and_their_loss_is_recorded(world, stages):
    record = json.loads((stages[1] / "checkpoint/run.json").read_text())
    data = TrainingData(world["latents"], micro(1))
    held = data.split.validation
    assert 0 < len(held) < 5 and record["validation"] == data.split.record()
    assert not {row.key for step in range(20) for row in data.draws(step)} & set(held)
    assert not {row.key for row in data.evaluation_draws()} & set(held)
    rows = data.validation_draws()
    assert {row.key for row in rows} <= set(held) and [row.sigma for row in rows[:2]] == [0.3, 0.8]
    assert rows[0].noise_seed == rows[1].noise_seed

    measured = [row for row in read_rows(stages[1]) if "validation_loss" in row]
    assert [row["step"] for row in measured] == [2]  # after three steps
    for reported in (measured[0], record):
        assert reported["validation_loss"] == pytest.approx(
            (reported["validation_loss_0.3"] + reported["validation_loss_0.8"]) / 2
        )
    assert record["validation_loss"] != measured[0]["validation_loss"]
    assert "validation_loss" not in json.loads((stages[1] / "state/before.json").read_text())

    with pytest.raises(TrainingRefused, match="^validation_share: at 0.99 all 5 sources"):
        TrainingData(world["latents"], micro(1, validation_share=0.99))


def test_fixed_losses_are_the_same_to_the_bit_however_many_share_them_out(world):
    config, device = micro(1), torch.device("cpu")
    network, data = load_student(config, str(world["base"]), None, device), TrainingData(world["latents"], config)
    rows, shares = data.evaluation_draws()[:3], []

    class Team:
        def __init__(self, rank: int, world_size: int) -> None:
            self.rank, self.world_size, self.device = rank, world_size, device

        def sum(self, values: torch.Tensor) -> torch.Tensor:
            shares.append(values.clone())
            return values

    def evaluator(rank: int, world_size: int) -> Evaluator:
        return Evaluator(network, action_supervision(), steadydancer_velocity(network), data, Team(rank, world_size))

    alone = evaluator(0, 1).losses(rows)
    shares.clear()
    for rank in (0, 1):
        evaluator(rank, 2).losses(rows)
    assert sum(shares).tolist() == alone and len(set(alone)) == 3


def test_the_loss_after_a_run_with_an_average_is_that_of_its_checkpoint(world, muon_stages):
    config = micro(1, **MUON)
    published = load_components(muon_stages[1] / "checkpoint", ["transformer"], dtype=torch.float32)["transformer"]

    class Team:
        rank, world_size, device = 0, 1, torch.device("cpu")

        def sum(self, values: torch.Tensor) -> torch.Tensor:
            return values

    data, velocity = TrainingData(world["latents"], config), steadydancer_velocity(published)
    evaluator = Evaluator(published, action_supervision(), velocity, data, Team())
    record = json.loads((muon_stages[1] / "checkpoint/run.json").read_text())
    assert record["loss_after"] == pytest.approx(evaluator.loss(), rel=1e-6)
    assert record["loss_after"] != pytest.approx(record["loss_before"], rel=1e-2)


def test_a_finished_run_stops_and_more_steps_go_on(world, stages, tmp_path):
    shutil.copytree(stages[1], tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    (tmp_path / "run/.engine/ray").mkdir(parents=True)  # the driver was killed, and its workers finished meanwhile
    assert train(world, micro(1), tmp_path / "run")["already_finished"]
    assert not (tmp_path / "run/.engine").exists()
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before

    longer = train(world, micro(1, steps=7), tmp_path / "run")
    straight = train(world, micro(1, steps=7), tmp_path / "straight")
    assert without_times(tmp_path / "run") == without_times(tmp_path / "straight")
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "straight"))
    assert (longer["loss_before"], longer["loss_after"]) == (straight["loss_before"], straight["loss_after"])
    assert (tmp_path / "run/checkpoint-000005/run.json").exists()


def test_accumulated_micro_batches_train_as_one_batch(world, stages, tmp_path):
    train(world, micro(1, gradient_accumulation=2), tmp_path)
    for ours, theirs in zip(read_rows(tmp_path), read_rows(stages[1]), strict=True):
        assert ours["batch_digest"] == theirs["batch_digest"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def test_checkpointed_activations_do_not_change_the_loss(world, stages, tmp_path):
    train(world, micro(1, gradient_checkpointing=False), tmp_path)
    losses = [row["loss"] for row in read_rows(tmp_path)]
    assert losses == pytest.approx([row["loss"] for row in read_rows(stages[1])], rel=1e-5)


def test_attention_outputs_can_be_kept_where_the_rest_is_computed_again(world, stages, tmp_path):
    counted: list[bool] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function in memory._ATTENTIONS:
                counted.append(args[0].shape == args[1].shape)
            return function(*args, **(kwargs or {}))

    def attentions(name: str, **changes) -> tuple[int, int]:
        counted.clear()
        with Count():
            train(world, micro(1, steps=1, evaluation_samples=0, **changes), tmp_path / name)
        assert read_rows(tmp_path / name)[0]["loss"] == read_rows(stages[1])[0]["loss"]
        return sum(counted), len(counted) - sum(counted)

    own, crossed = attentions("again")
    own_kept, crossed_kept = attentions("kept", keep_attention_outputs=True)
    num_blocks = 2
    assert (own - own_kept, crossed_kept) == (num_blocks, crossed)


@pytest.mark.acceptance
def test_attention_dropout_is_the_same_however_a_batch_is_cut(world, stages, tmp_path):
    def losses(name: str, **changes) -> list[float]:
        train(world, micro(2, alignment_dropout=0.5, **changes), tmp_path / name, stages[1])
        return [row["loss"] for row in read_rows(tmp_path / name)]

    together = losses("together")
    assert together == pytest.approx(losses("apart", gradient_accumulation=2), rel=1e-5)
    assert together[0] != pytest.approx(read_rows(stages[2])[0]["loss"], rel=1e-4)
    config = json.loads((tmp_path / "together/checkpoint/transformer/config.json").read_text())
    assert config["alignment_dropout"] == 0.5
    assert json.loads((stages[1] / "checkpoint/transformer/config.json").read_text())["alignment_dropout"] == 0.0


def test_stage_2s_terms_are_those_of_eq_6_and_of_its_ablation_written_out(world, stages, tmp_path):
    """The first step's: the student from stage 1, the base as its teacher, x_t = (1 − σ) x + σ ε."""
    device, config = torch.device("cpu"), micro(2)
    data = TrainingData(world["latents"], config)
    batch = data.load(data.draws(0), device)
    student = load_student(config, None, stages[1], device)
    teacher = load_components(world["base"], ["transformer"], dtype=torch.float32, kind="wan")["transformer"]
    sigma = batch.sigma.view(-1, 1, 1, 1, 1)
    seen = ((1 - sigma) * batch.latents + sigma * batch.noise, 1000 * batch.sigma)
    reported, null = batch.conditions, batch.null
    poseless = reported.replace(pose_latents=null.pose_latents, pose_image_embeds=null.pose_image_embeds)
    with torch.no_grad():
        predicted = steadydancer_velocity(student)(*seen, reported)
        without = steadydancer_velocity(student)(*seen, poseless)
        # Wan's 36 channels: noise, mask and image latents; the text filled up to what it was trained with.
        words = torch.nn.functional.pad(reported.prompt_embeds, (0, 0, 0, 512 - reported.prompt_embeds.shape[1]))
        wan = torch.cat([seen[0], reported.image_latents], 1), seen[1], words, reported.image_embeds
        held = teacher(*wan, return_dict=False)[0]
    fidelity = (predicted - (batch.noise - batch.latents)).square().mean().item()

    train(world, micro(2, distillation="normal", distillation_weight=0.5, steps=1), tmp_path, stages[1])
    for row, (weight, ours) in (
        (read_rows(stages[2])[0], (1.0, without)),
        (read_rows(tmp_path)[0], (0.5, predicted)),
    ):
        distillation = (held - ours).square().mean().item()
        assert row["fidelity"] == pytest.approx(fidelity, rel=1e-5)
        assert row["distillation"] == pytest.approx(distillation, rel=1e-5)
        assert row["loss"] == pytest.approx(fidelity + weight * distillation, rel=1e-5)


def test_stage_2_steps_alike_sharded_or_not(world, stages, tmp_path):
    train(world, micro(2, zero_stage=2), tmp_path, stages[1])
    for name, rel in (("loss", 1e-5), ("grad_norm", 1e-4)):
        assert [row[name] for row in read_rows(tmp_path)] == pytest.approx(
            [row[name] for row in read_rows(stages[2])], rel=rel
        )


def test_a_step_is_that_of_plain_torch(world, tmp_path):
    """The engine against ten lines of torch: same draws, same gradients, same clipped AdamW step."""
    config = micro(1, warmup_steps=0)
    train(world, config, tmp_path)
    device = torch.device("cpu")
    network = load_student(config, str(world["base"]), None, device)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=config.betas, weight_decay=0.01)
    objective, data = action_supervision(), TrainingData(world["latents"], config)
    losses, norms = [], []
    for step in range(config.steps):
        optimizer.zero_grad()
        loss = objective(steadydancer_velocity(network), data.load(data.draws(step), device))["loss"]
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm).item())
        optimizer.step()
        losses.append(loss.item())
    assert [row["loss"] for row in read_rows(tmp_path)] == pytest.approx(losses, rel=1e-4)
    assert [row["grad_norm"] for row in read_rows(tmp_path)] == pytest.approx(norms, rel=1e-3)


def test_simulated_poses_are_encoded_as_the_cache_encodes(world, stages):
    files = sorted((stages[3] / "pose_simulation").glob("*.safetensors"))
    assert files and all(file.stem.endswith("-2") for file in files)
    cached = ShardDataset(world["latents"])
    for file in files:
        simulated = load_file(file)["pose_latents"]
        plain = load(cached.read(file.stem.removesuffix("-2"))["conditions"])["pose_latents"]
        # The reference's frame, up to the order of sums: it depends on the number of threads.
        torch.testing.assert_close(simulated[:, 0], plain[:, 0], rtol=0, atol=1e-5)
        assert (simulated[:, 1] - plain[:, 1]).abs().max() > 1e-3


def test_the_papers_naive_baseline_is_trained_without_a_new_weight(world, tmp_path):
    """Eq. 2 with LoRA alone; stage 2 starts from its checkpoint, whose tensors are a plain Wan's."""
    naive = {"pose_fusion": "latent_addition", "pose_modulation_modules": (), "condition_augmentation": False}
    few = {"steps": 1, "warmup_steps": 1, "evaluation_samples": 0, "validation_share": 0, **naive}
    train(world, micro(1, **few), tmp_path / "one")
    folder = tmp_path / "one" / "checkpoint" / "transformer"
    trained = load_components(tmp_path / "one" / "checkpoint", ("transformer",), kind="steadydancer")["transformer"]
    assert trained.config.pose_fusion == "latent_addition" and trained.pose_module_names == ()
    base = load_components(world["base"], ("transformer",), kind="wan")["transformer"].state_dict()
    (file,) = folder.glob("*.safetensors")
    state = load_file(file)
    assert {name: tensor.shape for name, tensor in state.items()} == {name: t.shape for name, t in base.items()}
    moved = {name for name, tensor in state.items() if not torch.equal(tensor, base[name])}
    assert moved and all(name.startswith("blocks.") for name in moved)
    train(world, micro(2, **few), tmp_path / "two", from_checkpoint=tmp_path / "one")
    again = load_file(next((tmp_path / "two" / "checkpoint" / "transformer").glob("*.safetensors")))
    assert not torch.equal(again["patch_embedding.weight"], state["patch_embedding.weight"])


def test_a_loss_that_is_not_finite_stops_before_the_step(world, tmp_path, monkeypatch):
    from steadydancer.models import objectives

    monkeypatch.setattr(objectives, "velocity_target", lambda latents, noise: latents * float("nan"))
    with pytest.raises(NonFiniteError, match=r"step 0: .* clip"):
        train(world, micro(1, evaluation_samples=0), tmp_path)
    assert not read_rows(tmp_path) and not list(intact_states(tmp_path))


class Spoiled(torch.autograd.Function):
    """Leaves a loss as it is, and multiplies its gradient."""

    @staticmethod
    def forward(context, loss, factor):
        context.factor = factor
        return loss.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * context.factor, None


@pytest.mark.parametrize(
    ("stage", "at", "factor"), [(1, 2, math.nan), (1, 3, math.inf), (2, 2, -math.inf), (3, 0, math.nan)]
)
def test_a_gradient_that_is_not_finite_stops_the_run_and_leaves_the_last_state(
    world, stages, tmp_path, monkeypatch, stage, at, factor
):
    """The loss is finite. With the fault gone, the same command comes to the bits of a run without it."""
    parent, original = stages[stage - 1] if stage > 1 else None, loop._step

    def step(engine, objective, *others):
        def spoiled(velocity, samples):
            terms = objective(velocity, samples)
            return {**terms, "loss": Spoiled.apply(terms["loss"], factor)}

        return original(engine, spoiled if others[-1] == at else objective, *others)

    monkeypatch.setattr(loop, "_step", step)
    with pytest.raises(NonFiniteError, match=rf"^step {at}: the gradient norm is not finite .*: clip\d, clip\d$"):
        train(world, micro(stage), tmp_path / "run", parent)
    assert [row["step"] for row in read_rows(tmp_path / "run")] == list(range(at))
    assert [steps for steps, _ in intact_states(tmp_path / "run")] == ([2] if at else [])
    assert not list((tmp_path / "run").glob("checkpoint*")) and not (tmp_path / "run/trained").exists()
    monkeypatch.undo()
    train(world, micro(stage), tmp_path / "run", parent)
    assert without_times(tmp_path / "run") == without_times(stages[stage])
    assert equal(weights(tmp_path / "run"), weights(stages[stage]))


@pytest.mark.acceptance
def test_a_gradient_of_one_worker_that_is_not_finite_stops_all_of_them_alike(world, stages, tmp_path, monkeypatch):
    """The state before the step was still being written: it is finished, and the run goes on from there."""
    real = loop.train_loop

    def spoil_the_second_workers(settings):
        import torch.distributed as dist

        from steadydancer.pipelines.train import loop
        from steadydancer.pipelines.train.resume import states

        class SpoiledGradient(torch.autograd.Function):
            @staticmethod
            def forward(context, loss):
                return loss.clone()

            @staticmethod
            def backward(context, gradient):
                return gradient * float("nan")

        original, write = loop._step, states._write_file

        def step(engine, objective, *others):
            def spoiled(velocity, samples):
                terms = objective(velocity, samples)
                return {**terms, "loss": SpoiledGradient.apply(terms["loss"])}

            is_here = others[-1] == 2 and dist.get_rank() == 1
            return original(engine, spoiled if is_here else objective, *others)

        def slow(path, state):
            time.sleep(3)
            return write(path, state)

        loop._step, states._write_file = step, slow
        loop.train_loop(settings)

    config = micro(1, num_workers=2, steps=3)
    monkeypatch.setattr(loop, "train_loop", spoil_the_second_workers)
    with pytest.raises(NonFiniteError, match=r"^step 2: the gradient norm is not finite"):
        train(world, config, tmp_path / "two")
    assert [steps for steps, _ in intact_states(tmp_path / "two")] == [2]
    monkeypatch.setattr(loop, "train_loop", real)
    train(world, config, tmp_path / "two")
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in read_rows(tmp_path / "two")] == pytest.approx(
            [row[name] for row in read_rows(stages[1])[:3]], rel=1e-4
        )


@pytest.mark.parametrize("stage", [1, 2])
def test_our_code_reads_the_device_twice_a_step_however_many_micro_batches(world, stages, tmp_path, monkeypatch, stage):
    reads: list[str] = []

    def counted(owner, name: str):
        original = getattr(owner, name)

        def read(*given, **named):
            caller = sys._getframe(1)
            is_ours = caller.f_globals["__name__"].startswith("steadydancer.")
            if is_ours and threading.current_thread() is threading.main_thread():
                reads.append(f"{caller.f_code.co_qualname}: {name}")
            return original(*given, **named)

        monkeypatch.setattr(owner, name, read)

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "nonzero"):
        counted(torch.Tensor, name)
    counted(torch.cuda, "synchronize")

    append, seen = loop.append_metrics, []

    def keep(out: Path, row: dict) -> None:
        seen.append(list(reads))
        append(out, row)

    monkeypatch.setattr(loop, "append_metrics", keep)
    quiet = {"evaluation_samples": 0, "checkpoint_every_steps": 9, "validation_every_steps": 9, "steps": 3}
    for accumulation in (1, 2):
        seen.clear()
        config = micro(stage, gradient_accumulation=accumulation, **quiet)
        train(world, config, tmp_path / str(accumulation), stages[stage - 1] if stage > 1 else None)
        each = [later[len(earlier) :] for earlier, later in itertools.pairwise(seen)]
        assert each == [["ProcessGroup.mean: tolist", "ProcessGroup.largest: tolist"]] * 2


def refused(world, config, out, match, **changes):
    with pytest.raises(TrainingRefused, match=match):
        train(world, config, out, **changes)
    assert not (out / "state").exists()


def test_what_does_not_fit_together_is_refused(world, stages, tmp_path):
    refused(world, micro(1), tmp_path, "^base:", base=None)
    refused(world, micro(2), tmp_path, "^from_checkpoint:")
    refused(world, micro(1), tmp_path, "^from_checkpoint:", from_checkpoint=stages[1])
    refused(world, micro(3), tmp_path, "^stage: .* checkpoint of stage 1", from_checkpoint=stages[1])
    refused(world, micro(2), tmp_path, "^from_checkpoint: .* no finished", from_checkpoint=tmp_path / "nowhere")
    refused(world, micro(1, num_frames=13), tmp_path, "^num_frames: .* 9 .* 13")
    refused(world, micro(2, alignment_axis="spatial"), tmp_path, "^alignment_axis:", from_checkpoint=stages[1])


def test_another_base_than_the_checkpoints_is_refused(world, stages, tmp_path):
    other = tiny_components(seed=1, transformer={"num_layers": 1})
    save_components({"transformer": other["transformer"]}, tmp_path / "other")
    refused(
        world,
        micro(2),
        tmp_path / "run",
        "^base: .* a different transformer",
        from_checkpoint=stages[1],
        base=str(tmp_path / "other"),
    )


def test_a_cache_made_with_other_components_is_refused(world, tmp_path):
    other = tiny_components(seed=1, text_encoder={"d_model": 24, "num_layers": 1})
    save_components({"transformer": other["transformer"]}, tmp_path / "wide")
    refused(world, micro(1), tmp_path / "run", "^image_embeds: .* width 16", base=str(tmp_path / "wide"))
    shutil.copytree(world["base"], tmp_path / "base")
    save_components({"vae": other["vae"]}, tmp_path / "base")
    refused(world, micro(1), tmp_path / "run", "^vae: .* a different VAE", base=str(tmp_path / "base"))


def test_other_settings_on_the_same_folder_are_refused_and_named(world, stages):
    with pytest.raises(TrainingRefused, match=r"config.seed: 3 → 4"):
        train(world, micro(1, seed=4), stages[1])
    with pytest.raises(TrainingRefused, match=r"^steps: 4 steps requested, .* already has 5"):
        train(world, micro(1, steps=4), stages[1])


def test_a_fork_goes_on_from_the_newest_state_with_other_settings(world, stages, tmp_path):
    before = content_digest(stages[1] / "state")
    forked = train(world, micro(1, steps=7, learning_rate=3e-3), tmp_path / "fork", fork=stages[1])
    assert forked["forked_from"] == {
        "path": str(stages[1]), "steps": 5, "changes": ["config.learning_rate: 0.01 → 0.003"]
    }  # fmt: skip
    rows, straight = read_rows(tmp_path / "fork"), train(world, micro(1, steps=7), tmp_path / "straight")
    assert without_times(tmp_path / "fork")[:5] == without_times(stages[1])
    longer = read_rows(tmp_path / "straight")
    assert [row["batch_digest"] for row in rows] == [row["batch_digest"] for row in longer]
    assert (rows[5]["loss"], rows[5]["lr"]) == (longer[5]["loss"], 3e-3)  # same weights, then another step
    assert rows[6]["loss"] != longer[6]["loss"] and straight["forked_from"] is None
    assert content_digest(stages[1] / "state") == before  # the states that were linked are the other run's still

    same = micro(1, steps=7, learning_rate=3e-3)
    assert train(world, same, tmp_path / "fork", fork=stages[1])["already_finished"]
    assert train(world, same, tmp_path / "fork")["already_finished"]
    with pytest.raises(TrainingRefused, match="^fork: .* was started from"):
        train(world, same, tmp_path / "fork", fork=tmp_path / "straight")


def test_a_fork_that_could_not_be_loaded_is_refused(world, stages, tmp_path):
    refused(world, micro(1), tmp_path / "a", "^fork: .* no intact training state", fork=tmp_path)
    refused(world, micro(1, lora_rank=3), tmp_path / "b", r"^fork: .*\n  config.lora_rank: 2 → 3$", fork=stages[1])
    refused(world, micro(1, steps=4), tmp_path / "c", "^steps: 4 steps requested, .* already has 5", fork=stages[1])
    assert not list((tmp_path / "c").glob("*.json"))


def test_two_runs_on_one_folder_are_refused(world, tmp_path):
    with exclusive(tmp_path), pytest.raises(ArtifactError, match="in use by another run"):
        train(world, micro(1), tmp_path)


def test_plan_counts_without_training(world, stages, tmp_path):
    inputs = {"latents": world["latents"], "base": str(world["base"])}
    plan = job.plan(micro(1), **inputs, out=tmp_path)
    network = load_components(stages[1] / "checkpoint", ["transformer"])["transformer"]
    assert plan["parameters"] == sum(weight.numel() for weight in network.parameters())
    adapter = load_file(stages[1] / "checkpoint/lora/pytorch_lora_weights.safetensors")
    full = sum(
        weight.numel() for name in network.pose_module_names for weight in network.get_submodule(name).parameters()
    )
    assert plan["trained_parameters"] == full + sum(tensor.numel() for tensor in adapter.values())
    assert (plan["samples"], plan["validation"]["clips"], plan["refusals"]) == (3, 2, [])
    assert (plan["gpu_memory_bytes"], plan["hours_left"], plan["rate_from"]) == (None, None, None)
    assert not list(tmp_path.iterdir())

    given = job.plan(micro(1, steps=7), **inputs, out=stages[1], tflops=1e-3)
    assert (given["steps_done"], given["rate_from"]) == (5, "given")
    assert given["hours_left"] == pytest.approx(2 * given["hardware_flops_a_step"] / 1e9 / 3600)
    measured = job.plan(micro(1, steps=7), **inputs, out=stages[1])
    seconds = sorted(row["seconds"] for row in read_rows(stages[1]))
    assert (measured["rate_from"], measured["seconds_a_step"]) == ("measured", seconds[2])


@pytest.mark.parametrize("changes", [{}, MUON], ids=["adamw", "muon"])
def test_the_disk_that_is_planned_for_is_the_disk_that_is_used(world, stages, muon_stages, changes):
    for stage, out in (muon_stages if changes else stages).items():
        parent = stages[stage - 1] if stage > 1 else None
        plan = job.plan(
            micro(stage, **changes), latents=world["latents"], base=str(world["base"]), out=out, from_checkpoint=parent
        )

        # Of the tensors, to the byte; a file's header is as large as a tiny network's weights.
        weights_files = (out / "checkpoint").rglob("*.safetensors")
        assert sum(num_bytes(load_file(file)) for file in weights_files) == plan["disk_bytes"]["checkpoint"]
        states = [torch.load(file, weights_only=False) for file in (out / "state/step-000005").rglob("*.pt")]
        beside = sum(map(num_bytes, states)) - plan["engine_state_bytes"]
        assert 0 < beside <= 128  # how many steps the optimizer has taken, and what evens out the cut
        assert plan["disk_bytes"]["engine_states"] == 3 * plan["engine_state_bytes"]  # two are kept, one is written


def test_what_would_fail_later_is_refused_before_anything_is_written(world, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    plan = job.plan(micro(1), latents=world["latents"], base=str(world["base"]), out=tmp_path / "run")
    (refusal,) = plan["refusals"]
    assert refusal.startswith("disk: ") and "keep_checkpoints" in refusal
    refused(world, micro(1), tmp_path / "run", "^disk: .* GB are free")
    monkeypatch.undo()

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    refused(world, micro(1, use_gpu=True, num_workers=2), tmp_path / "run", "^num_workers: 2 GPUs .* has 1")
    assert not list((tmp_path / "run").glob("*.json"))  # the folder is not bound to what was refused


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.acceptance)])
def test_two_workers_take_the_same_steps_under_ray_train(world, stages, tmp_path, monkeypatch, optimizer):
    """Ray Train, two gloo workers, DeepSpeed ZeRO-2; no compiler within reach."""
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "sh"):  # Ray starts its workers through a shell
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    one = stages[1]
    if optimizer == "muon":
        one = tmp_path / "one"
        train(world, micro(1, steps=2, optimizer=optimizer), one)
    record = train(world, micro(1, num_workers=2, steps=2, optimizer=optimizer), tmp_path / "two")
    alone = read_rows(one)[:2]
    assert [row["batch_digest"] for row in read_rows(tmp_path / "two")] == [row["batch_digest"] for row in alone]
    assert [row["loss"] for row in read_rows(tmp_path / "two")] == pytest.approx(
        [row["loss"] for row in alone], rel=1e-5
    )
    assert [row["grad_norm"] for row in read_rows(tmp_path / "two")] == pytest.approx(
        [row["grad_norm"] for row in alone], rel=1e-4
    )
    before = json.loads((one / "checkpoint/run.json").read_text())["loss_before"]
    assert record["loss_before"] == pytest.approx(before, rel=1e-5)
    assert load_components(tmp_path / "two/checkpoint", ["transformer"])
