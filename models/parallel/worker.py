"""A process that evaluates the velocity with the process that started it; see `group`."""

from __future__ import annotations

import pickle
import signal
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..conditions import Conditions
from ..guidance import Branch, BranchVelocity, evaluate
from .processes import Parallel
from .velocity import enable_context_parallelism, parallel_velocity, process_group

# A message is a pickled tuple: what to do, then its arguments. The parent sends these:
PREPARE, BRANCHES, EVALUATE = "prepare", "branches", "evaluate"
# The answers: that it is prepared, or why it ended.
READY, FAILED = "ready", "failed"

Loader = Callable[[torch.device], Any]


def send(connection: Connection, *message: Any) -> None:
    """Send a message; its tensors must be on the CPU. Tensors that are one object stay one object."""
    connection.send_bytes(pickle.dumps(message))


def receive(connection: Connection) -> tuple[Any, ...]:
    """Receive a message. Raises EOFError if the other process has closed the connection."""
    message: tuple[Any, ...] = pickle.loads(connection.recv_bytes())
    return message


def on_device(branches: Mapping[Branch, Conditions], device: torch.device | str) -> dict[Branch, Conditions]:
    """Return the conditions of all branches on a device; a tensor that branches share is moved once, and is shared."""
    moved: dict[int, Tensor] = {}

    def move(tensor: Tensor | None) -> Tensor | None:
        if tensor is not None and id(tensor) not in moved:
            moved[id(tensor)] = tensor.to(device)
        return None if tensor is None else moved[id(tensor)]

    return {
        branch: conditions.replace(**{name: move(value) for name, value in vars(conditions).items()})
        for branch, conditions in branches.items()
    }


def serve(descriptor: int) -> None:
    """Evaluate what the parent evaluates, until it closes the connection; `descriptor` is that of its socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    connection = Connection(descriptor)
    try:
        _work(connection)
    except EOFError:
        pass  # the parent needs this process no longer
    except Exception as error:
        traceback.print_exc()  # whole in the parent's log; the parent's message has the last line
        send(connection, FAILED, f"{type(error).__name__}: {error}")


@torch.no_grad()
def _work(connection: Connection) -> None:
    _, parallel, store, rank, num_processes, device, num_threads, load = receive(connection)
    torch.set_num_threads(num_threads)
    transformer = load(torch.device(device))
    send(connection, READY)
    with process_group(Path(store), rank, num_processes, torch.device(device)):
        if parallel == "context":
            enable_context_parallelism(transformer)
        _evaluate_all(connection, parallel, transformer, torch.device(device))


def _evaluate_all(connection: Connection, parallel: Parallel, transformer: Any, device: torch.device) -> None:
    velocity: BranchVelocity | None = None
    while True:
        match receive(connection):
            case ("branches", branches, branch_evaluation):
                velocity = None  # releases what the one before kept, before the next one computes
                moved = on_device(branches, device)
                velocity = parallel_velocity(parallel, transformer, moved, branch_evaluation)
            case ("evaluate", latents, timestep, branches):
                assert velocity is not None
                evaluate(velocity, latents.to(device), timestep.to(device), branches)
