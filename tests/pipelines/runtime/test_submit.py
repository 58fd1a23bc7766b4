"""Jobs run where they were told to, and nowhere else; a job submitted twice is one job."""

import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from ray.job_submission import JobStatus

from steadydancer.pipelines.runtime import job_server, submit
from steadydancer.pipelines.runtime.job_log import JobLog
from steadydancer.pipelines.runtime.local_ray import _reread_environment, local_ray, short_path
from steadydancer.pipelines.runtime.submit import JobCancelled, JobFailed, Order, submit_job

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.acceptance
def test_a_private_ray_joins_nothing_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One start of Ray shows all: they cost ten seconds each."""
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")  # of a network that exists nowhere
    monkeypatch.chdir(ROOT)  # the working folder that would hide another distribution's `datasets`
    state_dir = tmp_path / ("a" * 90)  # too long for a socket
    environment = dict(os.environ)

    def where_am_i() -> dict[str, Any]:  # in here, for a worker cannot import this module
        import importlib.util
        import os
        import sys

        return {
            "path": sys.path,
            "folder": os.getcwd(),  # noqa: PTH109
            "niceness": os.nice(0),
            "safe_path": os.environ.get("PYTHONSAFEPATH"),
            "datasets": importlib.util.find_spec("datasets"),
        }

    with local_ray(state_dir):
        import ray

        remote = ray.remote(num_cpus=1)(where_am_i)
        worker = ray.get(remote.remote(), timeout=120)
        address = ray.get_runtime_context().gcs_address
        with local_ray(tmp_path / "other", address="192.0.2.1:6379"):
            assert ray.get_runtime_context().gcs_address == address
        assert ray.is_initialized()
        (token,) = state_dir.glob("token-*")
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
        with grpc.insecure_channel(address) as channel:
            list_nodes = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
            assert list_nodes(b"", timeout=20, metadata=[("authorization", f"Bearer {token.read_text()}")])
            with pytest.raises(grpc.RpcError) as refusal:
                list_nodes(b"", timeout=20)
            assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert worker["folder"] == str(ROOT)
    assert str(ROOT) not in worker["path"] and worker["datasets"] is None
    assert worker["safe_path"] == "1" and worker["niceness"] == os.nice(0)
    assert not ray.is_initialized()
    assert {name: os.environ.get(name) for name in environment} == environment
    assert "RAY_AUTH_MODE" not in os.environ
    assert not list(state_dir.glob("token-*"))
    assert list((state_dir / "logs").glob("raylet*"))


def test_a_long_folder_is_reached_by_a_short_link(tmp_path: Path) -> None:
    folder = tmp_path / ("b" * 100)
    with short_path(folder) as short:
        (short / "file").write_text("here")
        assert len(os.fsencode(short)) < len(os.fsencode(folder))
    assert (folder / "file").read_text() == "here"
    assert not short.exists()


# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class JobServer:
    """The calls of Ray's client that decide whether a job is started; every job ends as `ends` says."""

    ends: list[str]
    jobs: dict[str, SimpleNamespace] = field(default_factory=dict)
    loses_answers: bool = False

    def list_jobs(self) -> list[SimpleNamespace]:
        return list(self.jobs.values())

    def submit_job(self, *, submission_id: str, metadata: dict[str, str], **_: Any) -> None:
        if submission_id in self.jobs:
            raise RuntimeError("Request failed with status code 500: already exists")
        self.jobs[submission_id] = SimpleNamespace(
            submission_id=submission_id, status=JobStatus(self.ends.pop(0)), metadata=metadata
        )
        if self.loses_answers:
            raise ConnectionResetError("Connection reset")

    def stop_job(self, submission_id: str) -> None:
        self.jobs[submission_id].status = JobStatus.STOPPED

    def ask(self, request: Any, *_: Any) -> Any:
        return request(self)


def order(*arguments: str, finished: bool = False, **options: Any) -> Order:
    return Order([*arguments], artifact="/runs/a/latents", is_finished=lambda: finished, **options)


def name(attempt: int = 1) -> str:
    return order().submission_id(attempt)


def test_a_job_is_known_by_what_it_makes_not_by_who_asks() -> None:
    server: Any = JobServer(["RUNNING"])
    assert submit._attach_or_submit(server, order("cache", run="first")) == (name(), False)
    assert submit._attach_or_submit(server, order("cache", run="second")) == (name(), True)
    assert list(server.jobs) == [name()]
    elsewhere = Order(["cache"], artifact="/runs/b/latents", is_finished=lambda: False)
    assert elsewhere.name != name() and elsewhere.attempt(name()) == 0


def test_a_retry_attaches_and_only_what_failed_is_run_again() -> None:
    server: Any = JobServer(["FAILED", "STOPPED", "RUNNING"])
    attempts = [submit._attach_or_submit(server, order("train"))[0] for _ in range(4)]
    assert attempts == [name(), name(2), name(3), name(3)]
    assert [order().attempt(one) for one in server.jobs] == [1, 2, 3]


def test_whether_it_is_done_is_asked_of_the_artifact() -> None:
    server: Any = JobServer(["SUCCEEDED", "SUCCEEDED", "SUCCEEDED"])
    assert submit._attach_or_submit(server, order("cache", run="a")) == (name(), False)
    assert submit._attach_or_submit(server, order("cache", run="a", finished=True)) == (None, True)
    # The folder was deleted, whatever the job server remembers.
    assert submit._attach_or_submit(server, order("cache", run="a")) == (name(2), False)
    # Another run has the job compare its inputs with what is there.
    assert submit._attach_or_submit(server, order("cache", run="b", finished=True)) == (name(3), False)


def test_a_job_with_other_settings_is_neither_followed_nor_doubled() -> None:
    server: Any = JobServer(["RUNNING"])
    submit._attach_or_submit(server, order("cache", "--preset", "a.json"))
    with pytest.raises(JobFailed, match=f"latents is being made by job {name()} with other settings"):
        submit._attach_or_submit(server, order("cache", "--preset", "b.json"))
    assert list(server.jobs) == [name()]


def test_a_submission_whose_answer_was_lost_is_one_job() -> None:
    server: Any = JobServer(["RUNNING"], loses_answers=True)
    assert submit._attach_or_submit(server, order("cache", run="a")) == (name(), False)
    assert list(server.jobs) == [name()]


def test_a_submission_that_came_second_attaches_to_the_first() -> None:
    server: Any = JobServer(["RUNNING"])
    listed, server.list_jobs = server.list_jobs, lambda: []

    def overtaken(**options: Any) -> None:
        JobServer.submit_job(server, **{**options, "metadata": order("cache", run="b").metadata})
        server.list_jobs = listed
        raise RuntimeError("already used")

    server.submit_job = overtaken
    assert submit._attach_or_submit(server, order("cache", run="a")) == (name(), True)
    assert list(server.jobs) == [name()]


@pytest.mark.parametrize("is_cancelled", [True, False])
@pytest.mark.parametrize("signal_class", [KeyboardInterrupt, SystemExit])
def test_a_signal_stops_the_job_only_if_the_run_was_cancelled(
    is_cancelled: bool, signal_class: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    server: Any = JobServer(["RUNNING"])
    server.address = "http://head:8265"
    lines: list[str] = []

    def interrupted(*_: Any) -> None:
        raise signal_class

    monkeypatch.setattr(submit, "JobServer", lambda *_: server)
    monkeypatch.setattr(submit, "follow", interrupted)
    with pytest.raises(signal_class):
        submit_job(server.address, order("train", is_cancelled=lambda: is_cancelled, stop_grace_s=7), lines.append)
    assert server.jobs[name()].status == ("STOPPED" if is_cancelled else "RUNNING")
    assert (f"stopping {name()}, which has 7 s to save its work" in lines) == is_cancelled


def test_a_job_that_another_run_had_stopped_is_submitted_again_for_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    server: Any = JobServer(["RUNNING", "SUCCEEDED"])
    server.address = "http://head:8265"
    submit._attach_or_submit(server, order("train", run="other"))
    server_of_follow = iter(["STOPPED", "SUCCEEDED"])

    def follow(server: Any, submission_id: str, *_: Any) -> Any:
        server.jobs[submission_id].status = JobStatus(next(server_of_follow))
        return server.jobs[submission_id]

    monkeypatch.setattr(submit, "JobServer", lambda *_: server)
    monkeypatch.setattr(submit, "follow", follow)
    assert submit_job(server.address, order("train", run="mine"), print)
    assert {one: job.status for one, job in server.jobs.items()} == {name(): "STOPPED", name(2): "SUCCEEDED"}


@pytest.mark.parametrize(
    ("message", "error_type", "reason", "is_temporary"),
    [
        ("failed with exit code 1, last available logs: x", None, "the disk is full", False),
        ("failed with exit code 75, last", None, "the disk is full", True),
        ("failed with exit code 137, last", None, "the command was killed (signal 9)", True),
        ("failed with exit code -9, last", None, "the command was killed (signal 9)", True),
        ("failed with exit code 127, last", None, "the cluster's head has no command", False),
        ("the actor died", "JOB_SUPERVISOR_ACTOR_DIED", "the disk is full", True),
    ],
)
def test_a_failure_begins_with_its_reason(message: str, error_type: str, reason: str, is_temporary: bool) -> None:
    log = JobLog()
    log.take("steadydancer: the disk is full")
    job: Any = SimpleNamespace(message=message, error_type=error_type, status=JobStatus.FAILED)
    failure = submit._failure(job, "steadydancer-1", "http://head:8265", log)
    assert str(failure).startswith(reason) and len(str(failure)) <= 500
    assert str(failure).endswith("(steadydancer-1 FAILED on http://head:8265)")
    assert failure.is_temporary == is_temporary


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three nodes on which `steadydancer` runs Python with the given arguments: any job we like."""
    folder = tmp_path_factory.mktemp("cluster")
    command = folder / "bin" / "steadydancer"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    command.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, ROOT / "infra" / "ray" / "local_cluster.py", "--nodes", "3", "--state", folder / "state"],
        env={**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        token_path = re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)", process.stdout.readline())
        address = re.search(r"job server (http://\S+)", process.stdout.readline())
        assert token_path and address
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=token_path[1])
        _reread_environment()
        yield address[1]
    finally:
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            os.environ.pop(name, None)
        _reread_environment()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


EVERY_NODE = """
import sys, time
from pathlib import Path
from steadydancer.pipelines.runtime.local_ray import local_ray
with local_ray(Path("unused"), address="auto"):
    import ray
    @ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
    def node():
        import os, sys
        time.sleep(3)
        return ray.get_runtime_context().get_node_id(), os.environ["PYTHONSAFEPATH"], os.environ["COLOUR"]
    nodes = ray.get([node.remote() for _ in range(6)])
from tqdm import tqdm
for _ in tqdm(range(100), file=sys.stdout): time.sleep(0.02)
print("all nodes seen")
print(len(set(nodes)), "nodes", nodes[0][1:], end="")
"""


def ordered(out: Path, code: str, **options: Any) -> Order:
    """A job that runs code, and is finished when `out` exists."""
    return Order(["-c", code], artifact=str(out), is_finished=out.exists, **options)


@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_a_job_uses_the_whole_cluster_once(cluster: str, tmp_path: Path) -> None:
    lines: list[str] = []
    one = ordered(tmp_path / "out", EVERY_NODE, env={"COLOUR": "green"}, run="a")
    assert submit_job(cluster, one, lines.append)
    assert sum("%|" in line for line in lines) <= 4
    assert lines[-2:] == ["all nodes seen", "3 nodes ('1', 'green')"]
    (tmp_path / "out").mkdir()
    again: list[str] = []
    assert not submit_job(cluster, one, again.append)
    assert again == [f"{tmp_path / 'out'} is finished"]


@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_a_failure_is_told_with_its_reason_and_can_be_repeated(cluster: str, tmp_path: Path) -> None:
    one = ordered(tmp_path / "out", "print('the first line'); raise LookupError('no such clip')")
    lines: list[str] = []
    with pytest.raises(JobFailed) as failure:
        submit_job(cluster, one, lines.append)
    assert str(failure.value).startswith("LookupError: no such clip\n(steadydancer-")
    assert lines[-2:] == ["the first line", "LookupError: no such clip"]
    with pytest.raises(JobFailed, match=r"-2 FAILED"):
        submit_job(cluster, one, lambda line: None)


@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_two_runs_share_one_job_and_only_a_cancellation_stops_it(cluster: str, tmp_path: Path) -> None:
    starts, saved = tmp_path / "starts", tmp_path / "saved"
    code = (
        "import signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: (time.sleep(6), open({str(saved)!r}, 'w').close(), sys.exit(75)))\n"
        f"open({str(starts)!r}, 'a').write('x'); print('begun', flush=True)\n"
        "time.sleep(300)"
    )
    begun, cancelled = threading.Event(), threading.Event()
    ended: list[BaseException] = []

    def call(on_log: Any, **options: Any) -> None:
        try:
            submit_job(cluster, ordered(tmp_path / "out", code, stop_grace_s=60, **options), on_log)
        except BaseException as error:
            ended.append(error)

    first = threading.Thread(
        target=call,
        args=(lambda line: begun.set() if line == "begun" else None,),
        kwargs={"run": "a", "is_cancelled": cancelled.is_set},
    )
    first.start()
    assert begun.wait(240)

    def interrupt(line: str) -> None:
        if line == "begun":
            raise KeyboardInterrupt

    call(interrupt, run="b")
    assert isinstance(ended[0], KeyboardInterrupt) and first.is_alive()
    time.sleep(10)
    assert first.is_alive() and not saved.exists()
    cancelled.set()
    first.join(120)
    assert isinstance(ended[1], JobCancelled)
    deadline = time.monotonic() + 60
    while not saved.exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert saved.exists()  # Ray's own grace of three seconds would have cut it short
    assert starts.read_text() == "x"


@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_a_job_that_ignores_the_signal_is_gone_after_the_grace(cluster: str, tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True); "
        "time.sleep(600)"
    )
    begun = threading.Event()
    one = ordered(tmp_path / "out", code, stop_grace_s=5, is_cancelled=begun.is_set)
    with pytest.raises(JobCancelled):
        submit_job(cluster, one, lambda line: begun.set() if line == "begun" else None)
    server = job_server.JobServer(cluster, print)
    deadline = time.monotonic() + 60
    while server.client.get_job_status(one.name) != "STOPPED" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert server.client.get_job_status(one.name) == "STOPPED"
