"""Jobs run where they were told to, and nowhere else; a job submitted twice is one job."""

import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from steadydancer import SteadyDancerError
from steadydancer.pipelines.runtime import submit
from steadydancer.pipelines.runtime.local_ray import _reread_environment, local_ray, short_path
from steadydancer.pipelines.runtime.submit import JobFailed, submit_job

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
    """The four calls of Ray's client that decide whether a job is started; every job ends as `ends` says."""

    ends: list[str]
    statuses: dict[str, str] = field(default_factory=dict)

    def list_jobs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(submission_id=id, status=status) for id, status in self.statuses.items()]

    def submit_job(self, *, submission_id: str, **_: Any) -> None:
        if submission_id in self.statuses:
            raise RuntimeError("already used")
        self.statuses[submission_id] = self.ends.pop(0)

    def get_job_status(self, submission_id: str) -> str:
        return self.statuses[submission_id]


def test_a_retry_attaches_and_only_failures_are_run_again() -> None:
    server: Any = JobServer(["FAILED", "STOPPED", "RUNNING"])
    attempts = [submit._attach_or_submit(server, ["train", "--seed", "1"], {}, "")[0] for _ in range(4)]
    assert attempts == [attempts[0], attempts[0] + "-2", attempts[0] + "-3", attempts[0] + "-3"]
    server.statuses[attempts[-1]] = "SUCCEEDED"
    assert submit._attach_or_submit(server, ["train", "--seed", "1"], {}, "") == (attempts[-1], "SUCCEEDED")
    server.ends = ["RUNNING", "RUNNING"]
    other_arguments = submit._attach_or_submit(server, ["train", "--seed", "2"], {}, "")[0]
    other_run = submit._attach_or_submit(server, ["train", "--seed", "1"], {}, "run 2")[0]
    assert len({attempts[0], other_arguments, other_run}) == 3


def test_a_submission_that_came_second_attaches_to_the_first() -> None:
    server: Any = JobServer(["RUNNING"])
    listed, server.list_jobs = server.list_jobs, lambda: []

    def overtaken(**options: Any) -> None:
        JobServer.submit_job(server, **options)
        server.list_jobs = listed
        raise RuntimeError("already used")

    server.submit_job = overtaken
    submission_id, status = submit._attach_or_submit(server, ["cache"], {}, "")
    assert (server.statuses, status) == ({submission_id: "RUNNING"}, "RUNNING")


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "head:8265"])
def test_only_a_job_servers_address_is_taken(address: str) -> None:
    with pytest.raises(SteadyDancerError, match="job server"):
        submit_job(address, ["curate"], on_log=print)


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


@pytest.mark.acceptance
@pytest.mark.timeout(600)
def test_a_job_uses_the_whole_cluster_once(cluster: str) -> None:
    lines: list[str] = []
    submit_job(cluster, ["-c", EVERY_NODE], env={"COLOUR": "green"}, on_log=lines.append)
    assert sum("%|" in line for line in lines) <= 4
    assert lines[-2:] == ["all nodes seen", "3 nodes ('1', 'green')"]
    again: list[str] = []
    submit_job(cluster, ["-c", EVERY_NODE], env={"COLOUR": "green"}, on_log=again.append)
    assert len(again) == 1 and "already succeeded" in again[0]


@pytest.mark.acceptance
@pytest.mark.timeout(600)
def test_a_failure_is_told_with_its_last_lines_and_can_be_repeated(cluster: str) -> None:
    arguments = ["-c", "print('the first line'); raise LookupError('no such clip')"]
    with pytest.raises(JobFailed, match=r"FAILED.*exit code 1") as failure:
        submit_job(cluster, arguments, on_log=lambda line: None)
    assert "the first line" in str(failure.value) and "LookupError: no such clip" in str(failure.value)
    assert len(str(failure.value).splitlines()) <= 16
    with pytest.raises(JobFailed, match=r"-2 FAILED"):
        submit_job(cluster, arguments, on_log=lambda line: None)


@pytest.mark.acceptance
@pytest.mark.timeout(600)
def test_two_callers_share_one_job_and_an_interrupt_stops_it(cluster: str, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    code = f"import time; open({str(starts)!r}, 'a').write('x'); print('begun', flush=True); time.sleep(300)"
    ended: list[BaseException] = []

    def call(on_log: Any) -> None:
        try:
            submit_job(cluster, ["-c", code], on_log=on_log)
        except BaseException as error:
            ended.append(error)

    begun = threading.Event()
    first = threading.Thread(target=call, args=(lambda line: begun.set() if line == "begun" else None,))
    first.start()
    assert begun.wait(120)

    def interrupt(line: str) -> None:
        if line == "begun":
            raise KeyboardInterrupt

    call(interrupt)
    first.join(200)  # the job itself takes longer
    assert isinstance(ended[0], KeyboardInterrupt)
    assert isinstance(ended[1], JobFailed) and "STOPPED" in str(ended[1])
    assert starts.read_text() == "x"
