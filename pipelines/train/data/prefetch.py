"""The next batch is read while the network works on this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class Prefetch(Generic[Batch]):
    """`load(step)` for one step after another, one step ahead, in a thread of its own.

    What `load` raises is raised where its batch is asked for. One thread, so that what `load` writes (encoded poses)
    is written in the same order as without prefetching.

    Args:
        load: the batch of a step, a function of the step alone.
        steps: the steps that will be asked for, in order.
    """

    def __init__(self, load: Callable[[int], Batch], steps: range) -> None:
        self._load, self._steps = load, steps
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ahead: dict[int, Future[Batch]] = {}

    def __enter__(self) -> Prefetch[Batch]:
        """Begin with the first step."""
        if self._steps:
            self._submit(self._steps[0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forget what nobody will ask for."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __call__(self, step: int) -> Batch:
        """The batch of a step; the one after it is begun."""
        batch = self._ahead.pop(step)
        if step + 1 in self._steps:
            self._submit(step + 1)
        return batch.result()

    def _submit(self, step: int) -> None:
        self._ahead[step] = self._thread.submit(self._load, step)
