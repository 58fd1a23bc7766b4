from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ContextParallelConfig
from torch import distributed, multiprocessing

from steadydancer.models.inference.step_memory import StepMemory

SIZE = (2, 4, 6)  # latent frames, height, width
PATIENCE_S = 100


@torch.no_grad()
def answer(model: Any, conditions: Any, **more: Any) -> torch.Tensor:
    latents = torch.randn(1, 16, *SIZE, generator=torch.Generator().manual_seed(2))
    # A tuple is returned: the plan's hook on the whole network takes no output object.
    arguments = conditions.model_arguments()
    return model(latents, torch.tensor([500.0]), **arguments, return_dict=False, **more)[0]


def compare(model: Any, conditions: Any) -> tuple[bool, bool, int]:
    """Return whether two processes give the bits of one, also from memory, and how many tokens this one had."""
    expected = answer(model, conditions)
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    num_tokens: list[int] = []
    model.blocks[1].register_forward_pre_hook(lambda module, given: num_tokens.append(given[0].shape[1]))
    same = torch.equal(answer(model, conditions), expected)
    memory = StepMemory()
    remembered = [torch.equal(answer(model, conditions, step_memory=memory), expected) for _ in range(2)]
    return same, all(remembered), num_tokens[0]


def process(rank: int, store: str, results: Any, make: Callable[..., Any], conditions: Any) -> None:
    torch.set_num_threads(1)
    torch.accelerator.device_count = lambda: 2  # diffusers divides the world by the accelerators that it counts
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=PATIENCE_S)
    )
    networks = {
        "joined by channels": {}, "injected": {"pose_fusion": "adapter"},
        "without references": {"condition_augmentation": False},
    }  # fmt: skip
    results.put((rank, {name: compare(make(std=0.2, **sizes), conditions) for name, sizes in networks.items()}))
    distributed.destroy_process_group()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="diffusers would put the group on the accelerator")
def test_two_processes_that_share_the_tokens_give_the_bits_of_one(
    tmp_path: Path, tiny_model: Callable[..., Any], tiny_branches: Callable[..., Any]
) -> None:
    # Forked, as a data loader's workers are: importing everything twice again would take longer than the test.
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    given = (str(tmp_path / "store"), results, tiny_model, tiny_branches(SIZE)["conditional"])
    processes = [context.Process(target=process, args=(rank, *given)) for rank in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(PATIENCE_S)
        one.kill()
    assert [one.exitcode for one in processes] == [0, 0]
    reported = dict(results.get() for _ in processes)
    # (2 frames + 2 references, or none) x 2 rows x 3 columns, cut in two.
    tokens = {"joined by channels": 12, "injected": 12, "without references": 6}
    for name, num_tokens in tokens.items():
        assert [reported[rank][name] for rank in range(2)] == [(True, True, num_tokens)] * 2, name
