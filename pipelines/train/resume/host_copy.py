"""Copy a training state to host memory, to be written while training continues."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import torch


class HostCopy:
    """Copies of states in host memory that is allocated once: allocation takes longer than copying.

    Tensors that are already in host memory (offloaded optimizers, CPU training) are copied by `finish`, in another
    thread: they do not change until the next optimizer step, so call `wait` before it. The next `begin` overwrites
    the copy.
    """

    def __init__(self) -> None:
        self._memory: list[torch.Tensor] = []
        self._used = 0
        self._copied: dict[int, torch.Tensor] = {}
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._is_finished = threading.Event()
        self.wait = self._is_finished.wait

    def begin(self) -> None:
        """Start a new copy, reusing the memory of the previous one."""
        self._used = 0
        self._is_finished.clear()

    def __call__(self, state: Any) -> Any:
        """Copy a state: tensors on other devices and non-tensors now, tensors in host memory in `finish`.

        A tensor that occurs twice is copied once.
        """
        copied = self._copy(state)
        self._copied.clear()  # by identity, which is unique only while the state exists
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return copied

    def finish(self) -> None:
        """Copy the tensors in host memory; then `wait` returns."""
        try:
            for place, tensor in self._pending:
                place.copy_(tensor)
        finally:
            self._pending.clear()
            self._is_finished.set()

    def _copy(self, state: Any) -> Any:
        if isinstance(state, torch.Tensor):
            if id(state) in self._copied:
                return self._copied[id(state)]
            place = self._copied[id(state)] = self._place_like(state)
            if state.device.type == "cpu":
                self._pending.append((place, state.detach()))
                return place
            return place.copy_(state.detach(), non_blocking=True)
        if isinstance(state, dict):
            return type(state)((name, self._copy(value)) for name, value in state.items())
        if type(state) in (list, tuple):
            return type(state)(self._copy(value) for value in state)
        return copy.deepcopy(state)

    def _place_like(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the buffer for this tensor, the same one for every state."""
        at, self._used = self._used, self._used + 1
        if at < len(self._memory) and (self._memory[at].shape, self._memory[at].dtype) == (tensor.shape, tensor.dtype):
            return self._memory[at]
        place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
        self._memory[at:] = [place]
        return place


def num_bytes(state: Any) -> int:
    """Sum the bytes of all tensors in a state; a tensor that occurs twice counts once."""
    sizes = {(tensor.data_ptr(), tensor.nbytes): tensor.nbytes for tensor in _tensors(state)}
    return sum(sizes.values())


def _tensors(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _tensors(value)
