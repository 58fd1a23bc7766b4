"""Being asked to stop: SIGTERM becomes a file that the workers look for, wherever they run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .... import SteadyDancerError
from ..config import TrainConfig

if TYPE_CHECKING:
    from ..engine import ProcessGroup

# sysexits.h's EX_TEMPFAIL: not finished, and the same command again will go on.
EXIT_CODE = 75


class TrainingStopped(SteadyDancerError):
    """A run was asked to stop and did, after a whole step and with its state on the disk."""


class WorkerLost(SteadyDancerError):
    """A worker died (killed, out of memory, its machine gone) and was not to be replaced."""


def _file(out: Path) -> Path:
    return out / "state" / "stop"


@contextmanager
def stops_on_sigterm(out: Path) -> Iterator[None]:
    """In the block SIGTERM asks the run in `out` to stop after its step; a second one ends it at once.

    Whoever sends it has to grant a step and the writing of an engine state before anything harder. Outside a process's
    main thread there are no signals: then a file `out`/state/stop, made by whoever likes, does the same.
    """
    _file(out).unlink(missing_ok=True)

    def ask(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        _file(out).touch()

    before: Any = signal.SIG_DFL
    is_main = threading.current_thread() is threading.main_thread()
    if is_main:
        before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
        _file(out).unlink(missing_ok=True)


def stop_requested(out: Path, group: ProcessGroup) -> bool:
    """Whether the first rank sees that the run shall stop; the others have not looked."""
    return group.rank == 0 and _file(out).exists()


def preemption_watch(config: TrainConfig) -> Callable[[], bool]:
    """Says, once, that a machine of the run is about to be taken away.

    All ranks ask at every step and get the same answer from Ray, which starts the run again on other machines, from the
    state that is written then.
    """
    if config.num_workers == 0:
        return lambda: False
    import ray.train

    told: list[Any] = []

    def is_leaving() -> bool:
        news = ray.train.get_preemption_info()
        if news is None or told:
            return False
        told.append(news)
        return True

    return is_leaving
