"""Stop requests: SIGTERM creates a file that the workers poll, on whatever machine they run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .... import TemporaryError
from ..config import TrainConfig

if TYPE_CHECKING:
    from ..engine import ProcessGroup


class TrainingStopped(TemporaryError):
    """A run stopped on request, after a complete step and with its training state on disk."""


class WorkerLost(TemporaryError):
    """A worker died (killed, out of memory, machine lost), and `max_restarts` did not allow another restart."""


def _file(out: Path) -> Path:
    return out / "state" / "stop"


@contextmanager
def stops_on_sigterm(out: Path) -> Iterator[None]:
    """Make SIGTERM stop the run in `out` after its current step, within the block; a second one ends it at once.

    Allow enough time for one step and writing a training state before sending SIGKILL. Outside the main thread no
    signal handler can be installed; creating the file `out`/state/stop has the same effect.
    """
    _file(out).unlink(missing_ok=True)

    def request_stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        _file(out).touch()

    before: Any = signal.SIG_DFL
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        before = signal.signal(signal.SIGTERM, request_stop)
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
        _file(out).unlink(missing_ok=True)


def stop_requested(out: Path, group: ProcessGroup) -> bool:
    """Return whether a stop was requested, on rank 0; always False on other ranks."""
    return group.rank == 0 and _file(out).exists()


def preemption_watch(config: TrainConfig) -> Callable[[], bool]:
    """Return a function that is True once, when Ray announces that a machine of the run will be preempted.

    All ranks call it at every step and get the same result from Ray, which restarts the run on other machines from the
    training state written then.
    """
    if config.num_workers == 0:
        return lambda: False
    import ray.train

    announced: list[Any] = []

    def is_leaving() -> bool:
        news = ray.train.get_preemption_info()
        if news is None or announced:
            return False
        announced.append(news)
        return True

    return is_leaving
