"""Several processes that evaluate the velocity together: one guidance branch each, or a part of the tokens each.

Every process of the group calls the velocity with the same arguments and gets the same answer, so that all can step the
same latents. `group` starts such processes beside one that renders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from ..conditions import Conditions
from ..diffusers_internals import has_step_cache, split_tokens
from ..guidance import Branch, BranchVelocity, branch_velocity, evaluate
from ..inference.branch_evaluation import BranchEvaluation
from ..pipeline_inputs import InputError
from .processes import Parallel

# The longest wait of one process for the others: more than a branch takes on any machine that can hold the network.
PATIENCE = timedelta(minutes=60)


class GuidanceParallelVelocity:
    """A velocity whose branches are evaluated by different processes of the default process group.

    A branch stays with the process that evaluated it first, which keeps its values between steps (`step_memory`, step
    caches). New branches are dealt in their order. Results are exchanged in float32.

    Args:
        velocity: of this process; it is asked for its own branches only.
    """

    def __init__(self, velocity: BranchVelocity) -> None:
        self._velocity = velocity
        self._owners: dict[Branch, int] = {}

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        """Return the velocity of one branch, float32, in every process."""
        return self.many(latents, timestep, [branch])[branch]

    def many(self, latents: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> dict[Branch, Tensor]:
        """Return the velocity of each branch, float32, in every process."""
        rank, size = distributed.get_rank(), distributed.get_world_size()
        for k, branch in enumerate(branches):
            self._owners.setdefault(branch, k % size)
        own = [branch for branch in branches if self._owners[branch] == rank]
        velocities = evaluate(self._velocity, latents, timestep, own) if own else {}
        out: dict[Branch, Tensor] = {}
        for branch in branches:
            found = velocities.get(branch)
            out[branch] = torch.empty_like(latents, dtype=torch.float32) if found is None else found.float()
            out[branch] = out[branch].contiguous()
            distributed.broadcast(out[branch], src=self._owners[branch])
        return out


def parallel_velocity(
    parallel: Parallel,
    transformer: Any,
    branches: Mapping[Branch, Conditions],
    branch_evaluation: BranchEvaluation = "interleaved",
) -> BranchVelocity:
    """Return `branch_velocity`, evaluated by all processes of the default group; call it in each of them.

    Args:
        parallel: "guidance", a share of the branches for each process; or "context", a share of the tokens, after
            `enable_context_parallelism`.
        transformer: the network, with the same weights in each process.
        branches: the conditions of each branch, the same in each process.
        branch_evaluation: how a process evaluates its own branches.

    Raises:
        InputError: (a ValueError) "context", and the clip's tokens cannot be split evenly.
        ValueError: "context" with a step cache: the processes would not agree on what to skip.
    """
    if parallel == "context":
        _check_context_parallelism(transformer, branches)
    velocity = branch_velocity(transformer, branches, branch_evaluation=branch_evaluation)
    return GuidanceParallelVelocity(velocity) if parallel == "guidance" else velocity


def enable_context_parallelism(transformer: Any) -> None:
    """Split the tokens of a network among the processes of the default group (Ulysses); call it once in each of them.

    Raises:
        ValueError: the attention heads cannot be split evenly.
    """
    num_processes, num_heads = distributed.get_world_size(), transformer.config.num_attention_heads
    if num_heads % num_processes:
        raise ValueError(
            f"context parallelism splits the {num_heads} attention heads of this network evenly, which "
            f"{num_processes} processes cannot: use a number that divides {num_heads}"
        )
    split_tokens(transformer, num_processes, next(transformer.parameters()).device)


def _check_context_parallelism(transformer: Any, branches: Mapping[Branch, Conditions]) -> None:
    if has_step_cache(transformer):
        raise ValueError(
            "context parallelism cannot be used with a step cache, since each process would decide from its own tokens "
            "what to skip: use guidance parallelism"
        )
    num_processes = distributed.get_world_size()
    for conditions in branches.values():
        num_tokens = transformer.num_tokens(conditions.pose_latents)
        if num_tokens % num_processes:
            raise InputError(
                f"context parallelism splits a clip's tokens evenly, but this clip has {num_tokens} and there are "
                f"{num_processes} processes: use another size, or guidance parallelism."
            )


@contextmanager
def process_group(store: Path, rank: int, num_processes: int, device: torch.device) -> Iterator[None]:
    """Join a group on one machine for the duration of the block; between GPUs it uses NCCL, else gloo.

    Args:
        store: a file that does not exist yet, the same for all; the processes find each other by it.
        rank: number of this process, from 0.
        num_processes: how many there are.
        device: on which this process computes.
    """
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    if Path("/sys/class/net/lo").exists():
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # all processes are on this machine: no other may connect
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=num_processes,
            timeout=PATIENCE,
        )
    finally:
        os.environ.pop("GLOO_SOCKET_IFNAME", None)
        os.environ.update({} if before is None else {"GLOO_SOCKET_IFNAME": before})
    try:
        yield
    finally:
        distributed.destroy_process_group()
