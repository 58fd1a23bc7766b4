"""The flow run that this process works for, as the Prefect server sees it.

Only the server knows whether a run was cancelled: a signal may also come from a worker that ends, and a worker that
ended sends none.
"""

import functools
import logging
import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.exceptions import CancelledRun
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.logging.loggers import flow_run_logger
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Running

from ..pipelines.runtime.submit import JobCancelled

P = ParamSpec("P")
R = TypeVar("R")

CLUSTER, JOB = "steadydancer.cluster", "steadydancer.job"  # labels of a flow run: the job that it follows
_REQUEST_S = 10.0
_OUTPUTS = (1, 2)  # standard output and error
_log = logging.getLogger(__name__)


class RunState:
    """The state of the current flow run and of the run that called it, asked of the server."""

    def __init__(self) -> None:
        """Find the ids of the runs."""
        self.root = str(flow_run.root_flow_run_id)
        self._ids = [UUID(text) for text in dict.fromkeys((self.root, str(flow_run.id)))]
        self._job: tuple[str, str] | None = None

    def is_cancelled(self) -> bool:
        """Return whether one of the runs is cancelling or cancelled; False if the server does not answer now.

        A run that an automation took for dead, for example after an outage of the server, is set to *Running* again.
        """
        try:
            with _client() as client:
                self._note_job(client)
                states = {one: client.read_flow_run(one).state for one in self._ids}
                for one, state in states.items():
                    if state is not None and state.type == StateType.CRASHED:
                        client.set_flow_run_state(one, Running(message="its process is alive"), force=True)
        except Exception as error:  # an outage of the server must not end the job; it is asked again
            _log.debug("the state of the flow run is unknown: %s", error)
            return False
        types = {state.type for state in states.values() if state is not None}
        return bool(types & {StateType.CANCELLING, StateType.CANCELLED})

    def log(self, line: str) -> None:
        """Log a line to the run, and to the run that called it, which `--watch` shows."""
        get_run_logger().info(line)
        if len(self._ids) > 1:
            flow_run_logger(flow_run_id=self._ids[0]).info(line)

    def note_job(self, cluster: str, submission_id: str) -> None:
        """Label the runs with the job that they follow, so that it can be stopped without this process."""
        self._job = cluster, submission_id
        try:
            with _client() as client:
                self._note_job(client)
        except Exception as error:  # tried again with every question about the state
            _log.debug("the flow run is not labelled with its job yet: %s", error)

    def _note_job(self, client: SyncPrefectClient) -> None:
        if self._job is not None:
            for one in self._ids:
                client.update_flow_run_labels(one, {CLUSTER: self._job[0], JOB: self._job[1]})
            self._job = None


@contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    """Yield a client that answers or fails within seconds."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        with get_client(sync_client=True, httpx_settings={"timeout": _REQUEST_S}) as client:
            yield client


def ends_cancelled(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap the function of a flow: a run whose job was stopped by its cancellation ends as *Cancelled*.

    From *Cancelling*, the server accepts no other state, and would wait five minutes for this one. Not for tasks, whose
    callers would take the returned state for a result.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        ignore_broken_pipes()
        try:
            return function(*args, **kwargs)
        except (JobCancelled, CancelledRun) as cancelled:
            state: Any = Cancelled(message=str(cancelled))  # Prefect takes a returned state as the run's
            return state

    return run


@functools.cache
def ignore_broken_pipes() -> None:
    """Keep this process alive when nobody reads its output any more: the worker that started it was killed.

    The next line would end it: `print` by an error, Prefect's console handler by leaving the process. The server still
    receives the log.
    """
    threading.Thread(target=_silence_broken_output, daemon=True).start()
    # A line may come before the thread. Rich documents that this method may be replaced.
    for handler in logging.root.handlers:
        if isinstance(handler, PrefectConsoleHandler):
            handler.console.on_broken_pipe = _write_nowhere  # type: ignore[method-assign]


def _silence_broken_output() -> None:
    poll = select.poll()
    for number in _OUTPUTS:
        poll.register(number, 0)  # an error, or that the reader hung up, is told unasked
    poll.poll()
    _write_nowhere()


def _write_nowhere() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in _OUTPUTS:
        os.dup2(nowhere, number)
    os.close(nowhere)
