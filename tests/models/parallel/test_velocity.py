"""Velocities of several processes, forked from this one, since imports would take longer than a test."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig
from torch import Tensor, multiprocessing

from steadydancer.models.guidance import Branch, branch_velocity, evaluate
from steadydancer.models.parallel.processes import Parallel, check_processes
from steadydancer.models.parallel.velocity import (
    GuidanceParallelVelocity,
    enable_context_parallelism,
    parallel_velocity,
    process_group,
)
from steadydancer.models.sampling import denoise
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

BRANCHES: tuple[Branch, ...] = ("conditional", "negative_text", "negative_pose")
STEPS = 6  # of which the pose guides two
GRID = (4, 4, 6)  # latent frames, height, width
PATIENCE_S = 100


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model_of(tiny_model: Callable[..., Any]) -> Callable[..., Any]:
    """`model_of(**changes)`: a network with six heads, which two and three processes can share."""
    return partial(tiny_model, std=0.2, num_attention_heads=6)


@pytest.fixture
def branches(tiny_branches: Callable[..., Any]) -> Any:
    return tiny_branches(GRID)


def video(velocity: Any, **options: Any) -> Tensor:
    return denoise(velocity, normal(8, 16, *GRID), num_inference_steps=STEPS, **options)


def run_group(num_processes: int, folder: Path, task: Callable[[int], Any]) -> list[Any]:
    """Return what `task(rank)` returns in each process of a group.

    A fork of a process with threads can inherit a lock that nobody releases. A group that hangs is therefore started a
    second time; one that fails or returns other values is not.
    """
    context = multiprocessing.get_context("fork")
    for attempt in range(2):
        results = context.SimpleQueue()

        def member(rank: int, place: Path = folder / f"store-{attempt}", results: Any = results) -> None:
            torch.set_num_threads(1)
            with process_group(place, rank, num_processes, torch.device("cpu")):
                results.put((rank, task(rank)))

        processes = [context.Process(target=member, args=(rank,)) for rank in range(num_processes)]
        for process in processes:
            process.start()
        deadline = time.monotonic() + PATIENCE_S
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
            process.join()
        if codes != [None] * num_processes:
            break
    assert codes == [0] * num_processes
    reported = dict(results.get() for _ in processes)
    return [reported[rank] for rank in range(num_processes)]


def counted(model: SteadyDancerTransformer3DModel) -> list[int]:
    """Return a list that grows by the number of tokens of each call of the second block."""
    num_tokens: list[int] = []
    model.blocks[1].register_forward_pre_hook(lambda module, given: num_tokens.append(given[0].shape[1]))
    return num_tokens


@pytest.mark.parametrize(("num_processes", "evaluations"), [(2, [8, 6]), (3, [6, 6, 2])])
def test_processes_with_a_branch_each_give_the_bits_of_one(
    tmp_path: Path, num_processes: int, evaluations: list[int], model_of: Callable[..., Any], branches: Any
) -> None:
    """Fourteen evaluations: with two processes, the first also has the negative pose."""

    def task(rank: int) -> tuple[bool, bool, int]:
        model = model_of()
        expected = video(branch_velocity(model, branches))
        num_tokens = counted(model)
        same = torch.equal(video(parallel_velocity("guidance", model, branches)), expected)
        num_evaluations = len(num_tokens)
        one_by_one = parallel_velocity("guidance", model, branches, "sequential")
        return same, torch.equal(video(one_by_one), expected), num_evaluations

    assert run_group(num_processes, tmp_path, task) == [(True, True, number) for number in evaluations]


def test_a_branch_stays_with_its_process_so_that_step_caches_work(
    tmp_path: Path, model_of: Callable[..., Any], branches: Any
) -> None:
    def task(rank: int) -> tuple[bool, bool]:
        model = model_of()
        exact = video(branch_velocity(model, branches))
        model.enable_cache(TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=1))
        expected = video(branch_velocity(model, branches))
        return torch.equal(expected, exact), torch.equal(
            video(parallel_velocity("guidance", model, branches)), expected
        )

    assert run_group(2, tmp_path, task) == [(False, True)] * 2


@pytest.mark.parametrize("guidance", [{"guidance_scale": 1.0}, {"guidance_scale": 1.0, "pose_guidance_scale": 0.0}])
def test_processes_without_a_branch_get_the_result_too(
    tmp_path: Path, guidance: dict[str, float], model_of: Callable[..., Any], branches: Any
) -> None:
    def task(rank: int) -> bool:
        model = model_of()
        expected = video(branch_velocity(model, branches), **guidance)
        return torch.equal(video(parallel_velocity("guidance", model, branches), **guidance), expected)

    assert run_group(3, tmp_path, task) == [True] * 3


def test_results_in_bfloat16_are_exchanged_exactly(tmp_path: Path) -> None:
    def velocity(latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        return (latents * (1 + BRANCHES.index(branch))).bfloat16().transpose(-1, -2)  # not contiguous

    def task(rank: int) -> list[bool]:
        latents, time = normal(0, 16, 2, 4, 4), torch.tensor([1.0])
        found = GuidanceParallelVelocity(velocity).many(latents, time, BRANCHES)
        return [torch.equal(found[branch], velocity(latents, time, branch).float()) for branch in BRANCHES]

    assert run_group(2, tmp_path, task) == [[True] * 3] * 2


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_that_share_the_tokens_give_the_bits_of_one(
    tmp_path: Path, num_processes: int, model_of: Callable[..., Any], branches: Any
) -> None:
    networks: dict[str, dict[str, Any]] = {
        "joined by channels": {}, "injected": {"pose_fusion": "adapter"},
        "without references": {"condition_augmentation": False},
    }  # fmt: skip

    def task(rank: int) -> dict[str, tuple[list[bool], int]]:
        found = {}
        for name, changes in networks.items():
            model = model_of(**changes)
            expected = video(branch_velocity(model, branches))
            in_a_batch = video(branch_velocity(model, branches, branch_evaluation="batched"))
            enable_context_parallelism(model)
            num_tokens = counted(model)
            ways = {"sequential": expected, "interleaved": expected, "batched": in_a_batch}
            same = [torch.equal(video(parallel_velocity("context", model, branches, way)), video_of_one)
                    for way, video_of_one in ways.items()]  # fmt: skip
            found[name] = same, num_tokens[0]
        return found

    # (4 frames + 2 references, or none) x 2 rows x 3 columns.
    tokens = {"joined by channels": 36, "injected": 36, "without references": 24}
    expected = {name: ([True] * 3, number // num_processes) for name, number in tokens.items()}
    assert run_group(num_processes, tmp_path, task) == [expected] * num_processes


def test_what_cannot_be_split_or_agreed_on_is_refused(
    tmp_path: Path, model_of: Callable[..., Any], branches: Any, tiny_branches: Callable[..., Any]
) -> None:
    def words(call: Callable[[], Any]) -> str:
        with pytest.raises(ValueError) as refused:
            call()
        return str(refused.value)

    def task(rank: int) -> list[str]:
        found = [words(lambda: enable_context_parallelism(model_of(num_attention_heads=3)))]
        model = model_of()
        enable_context_parallelism(model)
        found.append(words(lambda: parallel_velocity("context", model, tiny_branches((3, 2, 6)))))
        model.enable_cache(FirstBlockCacheConfig(threshold=0.2))
        found.append(words(lambda: parallel_velocity("context", model, branches)))
        return found

    of_heads, of_tokens, of_caches = run_group(2, tmp_path, task)[1]
    assert "the 3 attention heads of this network evenly, which 2 processes cannot" in of_heads
    assert "this clip has 15 and there are 2 processes" in of_tokens
    assert "cannot be used with a step cache" in of_caches


@pytest.mark.parametrize(
    ("parallel", "num_processes", "words"),
    [
        (None, 2, "2 processes need `parallel`"),
        ("guidance", 1, "'guidance' needs at least 2 processes, not 1"),
        ("guidance", 4, "has work for 3 processes, one per branch, not for 4"),
        ("context", 1, "'context' needs at least 2 processes, not 1"),
    ],
)
def test_a_number_of_processes_that_does_not_fit_is_refused(
    parallel: Parallel | None, num_processes: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        check_processes(parallel, num_processes)


def test_numbers_of_processes_that_fit() -> None:
    check_processes(None, 1)
    for num_processes in (2, 3):
        check_processes("guidance", num_processes)
    check_processes("context", 8)


@torch.no_grad()
def test_a_group_of_one_evaluates_alone(tmp_path: Path, model_of: Callable[..., Any], branches: Any) -> None:
    model = model_of()
    latents, time = normal(8, 16, *GRID), torch.tensor([500.0])
    expected = evaluate(branch_velocity(model, branches), latents, time, BRANCHES)
    with process_group(tmp_path / "store", 0, 1, torch.device("cpu")):
        velocity = parallel_velocity("guidance", model, branches)
        found = evaluate(velocity, latents, time, BRANCHES)
        assert torch.equal(velocity(latents, time, "negative_pose"), expected["negative_pose"])
    assert all(torch.equal(found[branch], expected[branch]) for branch in BRANCHES)
