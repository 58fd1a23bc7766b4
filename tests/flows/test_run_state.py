"""What the Prefect server says of a flow run decides whether its job is stopped."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect.exceptions import CancelledRun
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Running, State

from steadydancer.flows import run_state, stop
from steadydancer.flows.run_state import CLUSTER, JOB, RunState, ends_cancelled
from steadydancer.pipelines.runtime.job_server import JobUnknown
from steadydancer.pipelines.runtime.submit import JobCancelled

ROOT_RUN, RUN = (UUID(int=number) for number in (1, 2))


class Server:
    """The calls of Prefect's client about flow runs."""

    def __init__(self) -> None:
        self.states: dict[UUID, State] = {ROOT_RUN: Running(), RUN: Running()}
        self.labels: dict[UUID, dict[str, str]] = {ROOT_RUN: {}, RUN: {}}
        self.is_up = True

    @contextmanager
    def client(self, *_: Any, **__: Any) -> Iterator["Server"]:
        if not self.is_up:
            raise ConnectionError
        yield self

    def read_flow_run(self, run: UUID) -> SimpleNamespace:
        return SimpleNamespace(state=self.states[run], labels=self.labels[run])

    def set_flow_run_state(self, run: UUID, state: State, force: bool = False) -> None:
        self.states[run] = state

    def update_flow_run_labels(self, run: UUID, labels: dict[str, str]) -> None:
        self.labels[run] |= labels


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    monkeypatch.setattr(run_state, "_client", server.client)
    monkeypatch.setattr(stop, "get_client", server.client)
    monkeypatch.setattr(run_state, "flow_run", SimpleNamespace(root_flow_run_id=str(ROOT_RUN), id=str(RUN)))
    monkeypatch.setattr(stop, "get_run_logger", lambda: SimpleNamespace(info=print))
    return server


@pytest.mark.parametrize("run", [ROOT_RUN, RUN])
@pytest.mark.parametrize("state", [Cancelling(), Cancelled()])
def test_a_run_is_cancelled_if_it_or_its_caller_is(run: UUID, state: State, server: Server) -> None:
    mine = RunState()
    assert not mine.is_cancelled()
    server.states[run] = state
    assert mine.is_cancelled()


def test_a_line_is_logged_to_the_run_that_is_watched_too(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[Any, str]] = []
    monkeypatch.setattr(
        run_state, "get_run_logger", lambda: SimpleNamespace(info=lambda line: lines.append((RUN, line)))
    )
    monkeypatch.setattr(
        run_state,
        "flow_run_logger",
        lambda flow_run_id: SimpleNamespace(info=lambda line: lines.append((flow_run_id, line))),
    )
    RunState().log("step 1")
    assert lines == [(RUN, "step 1"), (ROOT_RUN, "step 1")]
    monkeypatch.setattr(run_state, "flow_run", SimpleNamespace(root_flow_run_id=str(RUN), id=str(RUN)))
    RunState().log("step 2")
    assert lines[2:] == [(RUN, "step 2")]


def test_an_outage_of_the_server_is_no_cancellation(server: Server) -> None:
    mine = RunState()
    server.is_up = False
    assert not mine.is_cancelled()
    mine.note_job("http://head:8265", "steadydancer-1")
    server.is_up = True
    server.states[ROOT_RUN] = Cancelling()
    assert mine.is_cancelled()
    assert server.labels[ROOT_RUN] == {CLUSTER: "http://head:8265", JOB: "steadydancer-1"}  # as soon as it answers


def test_a_run_that_was_taken_for_dead_shows_that_it_is_alive(server: Server) -> None:
    mine = RunState()
    server.states[ROOT_RUN] = Crashed()
    assert not mine.is_cancelled()
    assert server.states[ROOT_RUN].is_running()


@pytest.mark.parametrize("error", [JobCancelled("stopped"), CancelledRun("stopped")])
def test_a_cancelled_job_ends_its_flow_as_cancelled(error: Exception) -> None:
    @ends_cancelled
    def function(value: int) -> int:
        raise error

    state: Any = function(1)
    assert state.is_cancelled() and state.message == "stopped"
    assert ends_cancelled(lambda value: value)(2) == 2


def test_a_job_of_a_run_without_a_process_is_stopped(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[tuple[str, str]] = []
    monkeypatch.setattr(stop, "_ITS_OWN_S", 0.0)
    monkeypatch.setattr(stop, "stop_job", lambda address, job, on_log: stopped.append((address, job)) or True)
    assert "follows no job" in stop.stop_cancelled.fn(f"prefect.flow-run.{RUN}") and not stopped
    server.labels[RUN] = {CLUSTER: "http://head:8265", JOB: "steadydancer-1"}
    server.states[RUN] = Cancelling()
    assert "was told to stop" in stop.stop_cancelled.fn(f"prefect.flow-run.{RUN}")
    assert stopped == [("http://head:8265", "steadydancer-1")] and server.states[RUN].is_cancelled()

    # By hand, for a run that is over and whose job goes on.
    server.states[RUN] = Completed()
    assert "was told to stop" in stop.stop_cancelled.fn(str(RUN)) and server.states[RUN].is_completed()

    def unknown(*_: Any) -> bool:
        raise JobUnknown("was started again")

    monkeypatch.setattr(stop, "stop_job", unknown)
    server.states[RUN] = Cancelling()
    assert "started again" in stop.stop_cancelled.fn(str(RUN)) and server.states[RUN].is_cancelled()


LOGS_INTO_A_BROKEN_PIPE = """
import logging, os, sys, time
from pathlib import Path
from prefect.logging import get_logger
from prefect.logging.configuration import setup_logging
setup_logging()
from steadydancer.flows.run_state import ends_cancelled

@ends_cancelled
def flow():
    print("begun", flush=True)
    while not Path(sys.argv[1]).exists():
        time.sleep(0.05)
    for _ in range(3):
        get_logger("flow_runs").info("a line")
        print("another", flush=True)
    return "done"

Path(sys.argv[2]).write_text(flow())
"""


def test_a_flow_outlives_the_worker_that_reads_its_output(tmp_path: Path) -> None:
    words = [sys.executable, "-P", "-c", LOGS_INTO_A_BROKEN_PIPE, tmp_path / "go", tmp_path / "end"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    process.stdout.close()  # as the kernel does for a worker that was killed
    (tmp_path / "go").touch()
    assert process.wait(120) == 0
    assert (tmp_path / "end").read_text() == "done"
