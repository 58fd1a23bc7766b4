"""Processes that `torchrun` started: their group, and what they decide together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed


@contextmanager
def torchrun_group(device: str) -> Iterator[tuple[int, int]]:
    """Join the processes of `torchrun` for the duration of the block: (rank, number of them); (0, 1) without it.

    Args:
        device: "cuda", where each gets the GPU of its local rank and NCCL connects them, or "cpu", with gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield 0, 1
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield distributed.get_rank(), size
    finally:
        distributed.destroy_process_group()


def as_the_first_says(value: bool, device: str) -> bool:
    """Return the value of the first process in all of them, which have to go on in the same way."""
    if not distributed.is_initialized():
        return value
    said = torch.tensor([value], device=device)
    distributed.broadcast(said, src=0)
    return bool(said.item())
