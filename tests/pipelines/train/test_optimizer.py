"""Muon and averaged weights on ZeRO's shards, against torch's optimizers on whole weights."""

import copy
import math
import multiprocessing

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from steadydancer.models.newton_schulz import orthogonalise
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.pipelines.train import flops
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.engine import full_weights, grad_norm, open_engine, process_group
from steadydancer.pipelines.train.optimizer import ShardedOptimizer, build_optimizer, is_block_matrix, use_average

STEPS, MAX_NORM = 3, 0.05


class Blocks(nn.Module):
    """Matrices inside and outside of blocks; of odd sizes, so that shards end inside them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, 17)
        self.blocks = nn.ModuleList([nn.Linear(17, 17), nn.Linear(17, 23), nn.Linear(23, 17)])
        self.output = nn.Linear(17, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        for block in self.blocks:
            x = nn.functional.gelu(block(x))
        return self.output(x)


def config(**changes) -> TrainConfig:
    values = {"stage": 1, "num_workers": 0, "use_gpu": False, "learning_rate": 1e-2, "max_grad_norm": MAX_NORM}
    return TrainConfig(**{**values, "global_batch_size": 4, "dtype": "float32", "optimizer": "muon", **changes})


def network(dtype: str = "float32") -> nn.Module:
    torch.manual_seed(0)
    return Blocks().to(getattr(torch, dtype))


def samples(dtype: str = "float32") -> torch.Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).to(getattr(torch, dtype))


def take_steps(engine, parts: torch.Tensor, num: int = STEPS, factor: float = 1.0) -> None:
    for _ in range(num):
        for part in parts.chunk(engine.gradient_accumulation_steps()):
            engine.backward(engine(part).float().square().mean() * factor)
            engine.step()


@pytest.fixture(autouse=True)
def float32_muon(monkeypatch):
    """Let torch's Muon orthogonalise as ours does on a CPU; `tests/models/test_newton_schulz.py` compares the two."""
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", lambda matrix, *_: orthogonalise(matrix))


def twin(
    dtype: str, decay: float = 0.0, muon_rate: float = 1e-2
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The same steps by `torch.optim.Muon` and AdamW on whole float32 weights: (weights, their average)."""
    computing, master = network(dtype), network(dtype).float()
    matrices = [block.weight for block in master.blocks]
    others = [weight for name, weight in master.named_parameters() if not is_block_matrix(name, weight)]
    optimizers = [
        torch.optim.Muon(matrices, lr=muon_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1e-2, betas=(0.9, 0.999), weight_decay=0.01),
    ]
    average = copy.deepcopy(master.state_dict())
    for step in range(1, STEPS + 1):
        computing.load_state_dict(master.state_dict())
        computing.zero_grad()
        computing(samples(dtype)).float().square().mean().backward()
        for ours, theirs in zip(master.parameters(), computing.parameters(), strict=True):
            ours.grad = theirs.grad.float()
        assert nn.utils.clip_grad_norm_(master.parameters(), MAX_NORM) > MAX_NORM
        for optimizer in optimizers:
            optimizer.step()
        for name, weight in master.state_dict().items():
            average[name].lerp_(weight, 1 - min(decay, (1 + step) / (10 + step)))
    return master.state_dict(), average


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_a_step_by_muon_is_torchs_on_the_whole_matrix(zero_stage, offload, dtype):
    told = config(zero_stage=zero_stage, offload_optimizer=offload, dtype=dtype)
    with process_group(told):
        engine = open_engine(network(dtype), told)
        take_steps(engine, samples(dtype))
        # In bfloat16 a weight that differs in its last bit may round to another number.
        assert distance(full_weights(engine), twin(dtype)[0]) < (2e-5 if dtype == "float32" else 1e-3)
        assert engine.get_global_grad_norm() > MAX_NORM  # the gradient's, before it is clipped
        engine.destroy()


def test_muon_has_a_learning_rate_of_its_own():
    told = config(zero_stage=2, muon_learning_rate=3e-2)
    with process_group(told):
        engine = open_engine(network(), told)
        take_steps(engine, samples())
        weights = full_weights(engine)
        assert distance(weights, twin("float32", muon_rate=3e-2)[0]) < 6e-5  # three times the rate
        assert distance(weights, twin("float32")[0]) > 1e-2
        engine.destroy()


WORKER = """
import os
import runpy

os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0"}
import deepspeed, torch, torch.distributed as dist
from safetensors.torch import save_file
from steadydancer.pipelines.train.engine import full_weights, open_engine

deepspeed.ops.__compatible_ops__ = {}
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
test = runpy.run_path(file)
for told in configs:
    engine = open_engine(test["network"](), told)
    test["take_steps"](engine, test["samples"]().chunk(2)[rank])
    weights = full_weights(engine)
    if rank == 0:
        save_file(weights, f"{folder}/{told.zero_stage}.safetensors")
    engine.destroy()
dist.destroy_process_group()
"""


def test_two_workers_take_torchs_steps_on_whole_matrices(tmp_path):
    configs = [config(zero_stage=zero_stage, num_workers=2, ema_decay=0.5) for zero_stage in (2, 3)]
    given = {"folder": str(tmp_path), "configs": configs, "file": __file__}
    processes = multiprocessing.get_context("forkserver")
    ranks = [processes.Process(target=exec, args=(WORKER, {**given, "rank": rank})) for rank in range(2)]
    try:
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(240)
        assert [rank.exitcode for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    for zero_stage in (2, 3):
        assert distance(load_file(tmp_path / f"{zero_stage}.safetensors"), twin("float32", 0.5)[1]) < 2e-5


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_the_average_is_what_is_published_and_can_be_measured(zero_stage, optimizer):
    """Averaging does not change the training: the weights of the last step are those without it."""
    told = config(zero_stage=zero_stage, optimizer=optimizer, ema_decay=0.5, dtype="float32")
    with process_group(told):
        plain = open_engine(network(), config(zero_stage=zero_stage, optimizer=optimizer))
        take_steps(plain, samples())
        engine = open_engine(network(), told)
        take_steps(engine, samples())
        averaged = full_weights(engine)
        assert torch.equal(engine(samples()), plain(samples()))
        if optimizer == "muon":
            assert distance(averaged, twin("float32", 0.5)[1]) < 2e-5
        assert distance(averaged, full_weights(plain)) > 1e-4
        use_average(engine)
        reference = network()
        reference.load_state_dict(averaged)
        torch.testing.assert_close(engine(samples()), reference(samples()))
        assert all(torch.equal(weight, averaged[name]) for name, weight in full_weights(engine).items())
        plain.destroy()
        engine.destroy()


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_a_gradient_that_is_not_finite_reaches_neither_weights_nor_moments_nor_average(zero_stage):
    told = config(zero_stage=zero_stage, ema_decay=0.5)
    with process_group(told):
        engine = open_engine(network(), told)
        take_steps(engine, samples())
        states = engine.optimizer.optimizer.state
        before = copy.deepcopy([dict(state) for state in states.values()])
        for factor in (math.nan, math.inf):
            take_steps(engine, samples(), 1, factor)
            assert float(grad_norm(engine)) == math.inf
        for old, new in zip(before, states.values(), strict=True):
            assert old.keys() == new.keys() >= {"step", "exp_avg", "exp_avg_sq", "average"}
            assert all(torch.equal(old[name], new[name]) for name in old)
        engine.destroy()


def test_muons_state_is_one_moment():
    told = config(zero_stage=2)
    with process_group(told):
        engine = open_engine(network(), told)
        take_steps(engine, samples())
        adamw, muon = engine.optimizer.optimizer.state.values()
        assert adamw["exp_avg"].data_ptr() != adamw["exp_avg_sq"].data_ptr()
        assert muon["exp_avg"] is muon["exp_avg_sq"]
        muon["exp_avg_sq"] = muon["exp_avg"].clone()  # as loading a state leaves it
        engine.optimizer.optimizer.tie_moments()
        assert muon["exp_avg"] is muon["exp_avg_sq"]
        engine.destroy()


@pytest.mark.parametrize("stage", [1, 2])
def test_muon_updates_the_matrices_of_the_blocks_and_nothing_else(stage):
    small = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 32, "num_layers": 2, "freq_dim": 16}
    told = config(stage=stage, lora_rank=2)
    trained = flops.empty_network({**small, "in_channels": 36, "image_dim": 16, "text_dim": 16}, told)
    assert isinstance(trained, SteadyDancerTransformer3DModel)
    if stage == 2:
        trained.requires_grad_(True)
    names = {name for name, weight in trained.named_parameters() if weight.requires_grad}
    chosen = {name for name, weight in trained.named_parameters() if name in names and is_block_matrix(name, weight)}
    linear = {name for name, module in trained.named_modules() if isinstance(module, nn.Linear)}
    blocks = {f"{name}.weight" for name in linear if name.startswith("blocks.")}
    assert chosen == names & blocks and len(chosen) == (2 * 2 * 10 if stage == 1 else 2 * 12)
    optimizer = build_optimizer(trained, told)
    assert isinstance(optimizer, ShardedOptimizer)
    adamw, muon = optimizer.param_groups
    assert len(muon["params"]) == len(chosen) and len(adamw["params"]) == len(names - chosen)


def test_without_muon_and_average_the_optimizer_is_torchs():
    assert type(build_optimizer(network(), config(optimizer="adamw"))) is torch.optim.AdamW
