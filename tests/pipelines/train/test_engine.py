"""What the loop takes from DeepSpeed, against plain torch."""

import math

import pytest
import torch
from torch import nn

from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.engine import call_before_updates, full_weights, grad_norm, open_engine, process_group

MAX_NORM = 0.05


def config(**changes) -> TrainConfig:
    values = {"stage": 1, "num_workers": 0, "use_gpu": False, "learning_rate": 1e-2, "max_grad_norm": MAX_NORM}
    return TrainConfig(**{**values, "global_batch_size": 4, "dtype": "float32", **changes})


def network(dtype: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)).to(getattr(torch, dtype))


class Spoiled(torch.autograd.Function):
    """Leaves a loss as it is, and multiplies its gradient."""

    @staticmethod
    def forward(context, loss, factor):
        context.factor = factor
        return loss.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * context.factor, None


def step(engine, samples: torch.Tensor, factor: float = 1.0) -> None:
    for part in samples.chunk(engine.gradient_accumulation_steps()):
        engine.backward(Spoiled.apply(engine(part).float().square().mean(), factor))
        engine.step()


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_the_gradient_norm_is_torchs_before_clipping_and_without_one_no_weight_moves(
    zero_stage, offload, dtype, accumulation
):
    reported = config(zero_stage=zero_stage, offload_optimizer=offload, dtype=dtype, gradient_accumulation=accumulation)
    samples = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).to(getattr(torch, dtype))
    twin = network(dtype)
    twin(samples).float().square().mean().backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.float().parameters(), MAX_NORM).item()
    assert norm > 2 * MAX_NORM  # it is clipped
    with process_group(reported) as group:
        engine = open_engine(network(dtype), reported)
        updates: list[int] = []
        hook = call_before_updates(engine, lambda: updates.append(len(updates)) or "an answer")
        step(engine, samples)
        (seen,) = group.largest(grad_norm(engine))
        assert seen == pytest.approx(norm, rel=1e-5 if dtype == "float32" else 1e-2)
        before, num_updates = full_weights(engine), len(updates)
        for factor in (math.nan, math.inf):
            step(engine, samples, factor)
            assert group.largest(grad_norm(engine)) == [math.inf]
            after = full_weights(engine)
            assert len(updates) == num_updates and all(torch.equal(before[name], after[name]) for name in before)
        hook.remove()
        step(engine, samples)
        after = full_weights(engine)
        assert len(updates) == num_updates and not all(torch.equal(before[name], after[name]) for name in before)
        engine.destroy()


def test_the_mean_of_micro_batches_has_the_bits_of_pythons_and_is_not_finite_if_one_is_not():
    values = [0.1, 0.7, 1e-3]
    with process_group(config()) as group:
        terms = [{"loss": torch.tensor(value), "fidelity": torch.tensor(2 * value)} for value in values]
        singles = [torch.tensor(value).double().item() for value in values]
        assert group.mean(terms) == {
            "loss": (0.0 + singles[0] + singles[1] + singles[2]) / 3,
            "fidelity": (0.0 + 2 * singles[0] + 2 * singles[1] + 2 * singles[2]) / 3,
        }
        for bad in (math.nan, math.inf, -math.inf):
            terms[1]["loss"] = torch.tensor(bad)
            means = group.mean(terms)
            assert not math.isfinite(means["loss"]) and math.isfinite(means["fidelity"])
        assert group.largest(0.25, True, torch.tensor(3.0)) == [0.25, 1.0, 3.0]
        assert group.any(True) is True and group.any(False) is False
