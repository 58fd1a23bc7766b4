"""Read the next batch while the network trains on the current one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Prefetch(Generic[Batch]):
    """Call `load(step)` one step ahead, in a background thread.

    Exceptions of `load` are raised when its batch is requested. A single thread keeps the order in which `load` writes
    files (encoded poses) the same as without prefetching.

    Args:
        load: loads the batch of a step; a function of the step alone.
        steps: the steps that will be requested, in order.
    """

    def __init__(self, load: Callable[[int], Batch], steps: range) -> None:
        self._load, self._steps = load, steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ahead: dict[int, Future[Batch]] = {}

    def __enter__(self) -> Prefetch[Batch]:
        """Start loading the first step."""
        if self._steps:
            self._submit(self._steps[0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cancel batches that are no longer needed."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step and start loading the next one."""
        batch = self._ahead.pop(step)
        if step + 1 in self._steps:
            self._submit(step + 1)
        return batch.result()

    def _submit(self, step: int) -> None:
        self._ahead[step] = self._thread.submit(self._load, step)
