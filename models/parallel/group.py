"""The process group of one rendering process: it starts the others, tells them what it evaluates, and ends them.

The rendering process is process 0. It alone makes the steps; before it evaluates the velocity, it sends latents, time
and branches to the others, which evaluate with it (`velocity`). They end with it, however it ends.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import SteadyDancerError
from ...datasets.child_processes import serving, start_child
from ..conditions import Conditions
from ..guidance import Branch, BranchVelocity, evaluate
from ..inference.branch_evaluation import BranchEvaluation
from .processes import Parallel, check_processes
from .velocity import enable_context_parallelism, parallel_velocity, process_group
from .worker import BRANCHES, EVALUATE, FAILED, PREPARE, Loader, on_device, receive, send

# Code of the other processes.
START = serving("steadydancer.models.parallel.worker")


class ParallelError(SteadyDancerError):
    """A process of the group ended, or there are fewer GPUs than processes."""


class ParallelGroup:
    """Processes that evaluate the velocity together with this one, process 0.

    Set `pipeline.process_group` to it. The processes start at once and load their network while this one loads its own.
    On the CPU they share the threads of this one until the group is closed.

    Args:
        parallel: how they share the work: by "guidance" branches, or by "context", the tokens.
        num_processes: their number, with this one.
        load: (device) -> the network, in the other processes; picklable, such as a `partial` of a module's function.
        device_type: "cuda", a GPU for each process; or "cpu".

    Raises:
        ValueError: the number does not fit.
        ParallelError: there are fewer GPUs than processes.
    """

    def __init__(self, parallel: Parallel, num_processes: int, load: Loader, device_type: str = "cpu") -> None:
        check_processes(parallel, num_processes)
        check_devices(num_processes, device_type)
        self.parallel, self.num_processes, self.device_type = parallel, num_processes, device_type
        self._folder = tempfile.TemporaryDirectory(prefix="steadydancer-group-")
        self._resources = contextlib.ExitStack()
        self._connections: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._joined: Any = None
        num_threads = max(1, torch.get_num_threads() // num_processes) if device_type == "cpu" else 1
        if device_type == "cpu":
            self._resources.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(num_threads)  # the same for all: kernels may round by the number of threads
        atexit.register(self.close)
        try:
            for rank in range(1, num_processes):
                self._start()
                send(self._connections[-1], PREPARE, parallel, str(self._store), rank, num_processes,
                     _device(device_type, rank), num_threads, load)  # fmt: skip
        except BaseException:
            self.close()
            raise

    @property
    def _store(self) -> Path:
        return Path(self._folder.name) / "store"

    @property
    def pids(self) -> list[int]:
        """Process ids of the other processes."""
        return [process.pid for process in self._processes]

    def branch_velocity(
        self, transformer: Any, branches: Mapping[Branch, Conditions], branch_evaluation: BranchEvaluation
    ) -> BranchVelocity:
        """Return the velocity of all branches, evaluated by all processes; as `guidance.branch_velocity`."""
        self._join(transformer)
        velocity = parallel_velocity(self.parallel, transformer, branches, branch_evaluation)
        self._tell(BRANCHES, on_device(branches, "cpu"), branch_evaluation)
        return _LedVelocity(self, velocity)

    def evaluate(
        self, velocity: BranchVelocity, latents: Tensor, timestep: Tensor, branches: Sequence[Branch]
    ) -> dict[Branch, Tensor]:
        """Evaluate the branches with the other processes.

        Raises:
            ParallelError: one of them ended.
        """
        self._tell(EVALUATE, latents.cpu(), timestep.cpu(), list(branches))
        try:
            return evaluate(velocity, latents, timestep, branches)
        except BaseException as error:
            # The others wait for an answer that will not come, so the group cannot be used any more.
            reason = self._reason(error)
            self.close()
            if reason is not None:
                raise ParallelError(reason) from error
            raise

    def close(self) -> None:
        """End the other processes, and give this one its threads back."""
        atexit.unregister(self.close)
        for process in self._processes:
            process.kill()
            process.wait()
        self._resources.close()
        self._connections, self._processes = [], []
        self._folder.cleanup()

    def __enter__(self) -> ParallelGroup:
        """Return the group; it ends with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the other processes."""
        self.close()

    def _start(self) -> None:
        process, control, lifeline = start_child(START)
        self._resources.callback(os.close, lifeline)
        self._processes.append(process)
        self._connections.append(self._resources.enter_context(Connection(control.detach())))

    def _join(self, transformer: Any) -> None:
        """Wait for the others and form the group, once."""
        if self._joined is None:
            for connection in self._connections:
                kind, *words = self._answer(connection)
                if kind == FAILED:
                    self.close()
                    raise ParallelError(f"a process of the group did not start: {words[0]}")
            device = torch.device(_device(self.device_type, 0))
            self._resources.enter_context(process_group(self._store, 0, self.num_processes, device))
            if self.parallel == "context":
                enable_context_parallelism(transformer)
            self._joined = transformer
        if self._joined is not transformer or not self._processes:
            raise ParallelError("a process group evaluates one network, until a process of it ends: make another group")

    def _answer(self, connection: Connection) -> tuple[Any, ...]:
        try:
            return receive(connection)
        except (EOFError, ConnectionResetError):
            return FAILED, "it ended without a message, as when memory runs out"

    def _tell(self, *message: Any) -> None:
        for connection in self._connections:
            try:
                send(connection, *message)
            except (BrokenPipeError, ConnectionResetError) as error:
                reason = self._reason(error)
                self.close()
                raise ParallelError(reason or "a process of the group ended") from error

    def _reason(self, error: BaseException) -> str | None:
        """Return what ended another process, if one ended or is about to; None if `error` is this process's own."""
        if not isinstance(error, (RuntimeError, OSError)):
            return None
        said = wait(self._connections, timeout=5)
        answers = [self._answer(one) for one in said if isinstance(one, Connection)]
        words = [str(words[0]) for kind, *words in answers if kind == FAILED]
        return f"a process of the group failed: {words[0]}" if words else None


class _LedVelocity:
    """A velocity that the other processes of a group evaluate whenever this one does."""

    def __init__(self, group: ParallelGroup, velocity: BranchVelocity) -> None:
        self._group, self._velocity = group, velocity

    def __call__(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        return self.many(latents, timestep, [branch])[branch]

    def many(self, latents: Tensor, timestep: Tensor, branches: Sequence[Branch]) -> dict[Branch, Tensor]:
        return self._group.evaluate(self._velocity, latents, timestep, branches)


def check_devices(num_processes: int, device_type: str) -> None:
    """Raise ParallelError if there are fewer GPUs than processes; on the CPU, any number of processes may run."""
    num_gpus = torch.cuda.device_count()
    if device_type == "cuda" and num_gpus < num_processes:
        raise ParallelError(
            f"{num_processes} processes need a GPU each, but this machine has {num_gpus}: ask for fewer processes, or "
            "render on the CPU (num_gpus 0)"
        )


def _device(device_type: str, rank: int) -> str:
    return f"cuda:{rank}" if device_type == "cuda" else device_type
