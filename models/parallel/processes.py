"""How several processes share the sampling of a video, and how many can; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

Parallel = Literal["guidance", "context"]
NUM_BRANCHES = 3


def check_processes(parallel: Parallel | None, num_processes: int) -> None:
    """Check that a number of processes fits the way in which they share the work.

    Raises:
        ValueError: it does not.
    """
    if parallel is None:
        if num_processes != 1:
            raise ValueError(f"{num_processes} processes need `parallel`, how they share the work: guidance or context")
    elif num_processes < 2:
        raise ValueError(f"parallel '{parallel}' needs at least 2 processes, not {num_processes}")
    elif parallel == "guidance" and num_processes > NUM_BRANCHES:
        raise ValueError(
            f"guidance parallelism has work for {NUM_BRANCHES} processes, one per branch, not for {num_processes}: use "
            "context parallelism"
        )
