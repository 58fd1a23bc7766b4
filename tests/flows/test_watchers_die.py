"""A job on a cluster outlives whoever watches it: worker, flow, server and connection are killed while it runs.

The cluster's command `steadydancer` is a small script, so that what is on trial is who submits, follows and stops it.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from steadydancer.flows import presets

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3600)]

# As the real command: resumes, holds its folder, stops on SIGTERM with exit status 75, commits run.json last.
COMMAND = f"""#!{sys.executable}
import fcntl, json, os, signal, sys, time
out = sys.argv[sys.argv.index("--out") + 1]
os.makedirs(out, exist_ok=True)
lock = open(out + "/.lock", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit("steadydancer: " + out + " is in use by another run")
if os.path.exists(out + "/checkpoint/run.json"):
    sys.exit(0)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
steps = int(open(os.path.dirname(out) + "/steps").read())
file = out + "/metrics.jsonl"
done = len(open(file).readlines()) if os.path.exists(file) else 0
for step in range(done, steps):
    time.sleep(0.5)
    with open(file, "a") as metrics:
        metrics.write(json.dumps({{"step": step}}) + "\\n")
    print("step", step, flush=True)
    if stop:
        sys.exit(75)
os.makedirs(out + "/checkpoint", exist_ok=True)
with open(out + "/checkpoint/run.json", "w") as record:
    json.dump({{"kind": "checkpoint", "steps": steps, "loss_before": 1.0, "loss_after": 0.5}}, record)
"""


class Trial:
    """Workers and runs of `train-steadydancer/cluster` in one folder, on one cluster."""

    def __init__(self, server: Any, cluster: Any, folder: Path) -> None:
        self.server, self.cluster, self.folder = server, cluster, folder
        self.workers: list[subprocess.Popen[bytes]] = []
        self.log = folder / "worker.log"

    def start_worker(self) -> subprocess.Popen[bytes]:
        self.log = self.folder / f"worker-{len(self.workers)}.log"
        words = ("worker", "start", "--pool", "local")
        self.workers.append(self.server.start(*words, cwd=self.folder, log=self.log, **self.cluster.env))
        return self.workers[-1]

    def begin(self, name: str, steps: int, address: str | None = None) -> tuple[str, Path]:
        """Start a run of three stages; return its id and the folder of the first stage, which has begun."""
        out = self.folder / name
        out.mkdir(exist_ok=True)
        (out / "steps").write_text(str(steps))
        run = self.run(out, address)
        self.wait(lambda: self.steps(out / "stage1") > 0, 400)
        return run, out / "stage1"

    def run(self, out: Path, address: str | None = None) -> str:
        given = {"latents": str(out), "out": str(out), "preset": "tiny_cluster", "base": "none"}
        return str(self.server.run("train-steadydancer/cluster", cluster=address or self.cluster.address, **given))

    def wait(self, something: Callable[[], Any], timeout_s: float) -> Any:
        return self.server.wait_for(something, timeout_s, self.log)

    def state(self, run: str) -> str:
        return str(self.server.call(f"/flow_runs/{run}")["state_name"])

    def steps(self, stage: Path) -> int:
        file = stage / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def jobs(self, stage: Path) -> list[str]:
        """Statuses of the jobs that make a stage's checkpoint, first to last."""
        made = str(stage / "checkpoint")
        found = [job for job in self.cluster.jobs().values() if job["metadata"].get("steadydancer.artifact") == made]
        return [job["status"] for job in sorted(found, key=lambda job: job["start_time"])]

    def flow_processes(self, worker: subprocess.Popen[bytes]) -> list[int]:
        listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
        found, new = set[int](), {worker.pid}
        while new:
            new = {pid for pid, parent in pairs if parent in new} - found
            found |= new
        return sorted(found)

    def lose(self, worker: subprocess.Popen[bytes]) -> None:
        """Kill a worker and the processes of its flows, as their machine's end does."""
        for process in (*self.flow_processes(worker), worker.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def end(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster(cluster_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    command = tmp_path_factory.mktemp("bin") / "steadydancer"
    command.write_text(COMMAND)
    command.chmod(0o755)
    with cluster_of(command) as nodes:
        yield nodes


@pytest.fixture
def trial(server: Any, cluster: Any, tmp_path: Path) -> Iterator[Trial]:
    trial = Trial(server, cluster, tmp_path)
    try:
        yield trial
    finally:
        trial.end()


def test_a_worker_that_is_killed_leaves_its_job_running(trial: Trial) -> None:
    worker = trial.start_worker()
    run, stage = trial.begin("a", steps=160)
    os.kill(worker.pid, signal.SIGKILL)  # the flow's process goes on, into a broken pipe
    time.sleep(60)
    before = trial.steps(stage)
    assert trial.jobs(stage) in (["RUNNING"], ["SUCCEEDED"])
    trial.wait(lambda: trial.steps(stage) > before or trial.jobs(stage) == ["SUCCEEDED"], 60)
    assert trial.wait(lambda: trial.server.ended(run), 900)["state_name"] == "Completed"
    assert [trial.jobs(stage.with_name(f"stage{n}")) for n in (1, 2, 3)] == [["SUCCEEDED"]] * 3


def test_an_orphan_is_crashed_and_a_retry_and_a_new_run_follow_its_job(trial: Trial) -> None:
    worker = trial.start_worker()
    run, stage = trial.begin("b", steps=1200)
    trial.lose(worker)
    began = time.monotonic()
    trial.start_worker()
    trial.wait(lambda: trial.state(run) == "Crashed", 300)
    assert time.monotonic() - began < 300
    assert trial.jobs(stage) == ["RUNNING"]
    other = trial.run(stage.parent)
    trial.wait(lambda: "following steadydancer-" in trial.log.read_text(), 200)
    assert trial.jobs(stage) == ["RUNNING"]
    trial.server.prefect("flow-run", "retry", run)
    trial.wait(lambda: trial.log.read_text().count("following steadydancer-") >= 2, 200)
    assert trial.jobs(stage) == ["RUNNING"] and trial.state(other) == "Running"

    # An orphan again, now cancelled while nobody follows the job.
    trial.server.prefect("flow-run", "cancel", other)
    trial.wait(lambda: trial.state(other) == "Cancelled", 60)
    trial.wait(lambda: trial.jobs(stage)[0] == "STOPPED", 30)


def test_the_job_of_an_orphan_that_is_cancelled_is_stopped(trial: Trial) -> None:
    worker = trial.start_worker()
    run, stage = trial.begin("e", steps=1200)
    trial.lose(worker)
    trial.start_worker()
    trial.wait(lambda: "started!" in trial.log.read_text(), 120)
    began = time.monotonic()
    trial.server.prefect("flow-run", "cancel", run)
    trial.wait(lambda: trial.jobs(stage) == ["STOPPED"], 240)
    print(f"stopped {time.monotonic() - began:.0f} s after the request")
    assert trial.wait(lambda: trial.server.ended(run), 120)["state_name"] == "Cancelled"


def test_a_connection_that_is_cut_for_a_minute_ends_nothing(trial: Trial) -> None:
    host, _, port = trial.cluster.address.removeprefix("http://").partition(":")
    trial.start_worker()
    with Proxy(host, int(port)) as proxy:
        run, stage = trial.begin("c", steps=40, address=f"http://127.0.0.1:{proxy.port}")
        proxy.cut()
        time.sleep(60)
        assert trial.state(run) == "Running"
        proxy.restore()
        assert trial.wait(lambda: trial.server.ended(run), 900)["state_name"] == "Completed"
    assert [trial.jobs(stage.with_name(f"stage{n}")) for n in (1, 2, 3)] == [["SUCCEEDED"]] * 3


def test_a_run_can_be_cancelled_after_an_outage_of_the_server(trial: Trial) -> None:
    trial.start_worker()
    run, stage = trial.begin("d", steps=1200)
    trial.server.end(signal.SIGKILL)
    time.sleep(45)
    assert trial.jobs(stage) == ["RUNNING"]
    trial.server.begin()
    began = time.monotonic()
    trial.server.prefect("flow-run", "cancel", run)
    trial.wait(lambda: trial.jobs(stage) == ["STOPPED"], 120)
    print(f"stopped {time.monotonic() - began:.0f} s after the request")
    assert trial.wait(lambda: trial.server.ended(run), 120)["state_name"] == "Cancelled"
    assert trial.jobs(stage.with_name("stage2")) == []
    # What was cancelled is gone on with by a retry, from the step where it stopped.
    done = trial.steps(stage)
    (stage.parent / "steps").write_text(str(done + 1))
    trial.server.prefect("flow-run", "retry", run)
    trial.wait(lambda: (trial.server.ended(run) or {}).get("run_count") == 2, 900)
    assert trial.state(run) == "Completed" and trial.jobs(stage) == ["STOPPED", "SUCCEEDED"]
    steps = [json.loads(line)["step"] for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(done + 1))


def test_an_artifact_that_was_deleted_is_made_anew_by_a_retry(trial: Trial) -> None:
    trial.start_worker()
    run, stage = trial.begin("f", steps=2)
    trial.wait(lambda: trial.server.ended(run), 600)
    for file in sorted((stage / "checkpoint").iterdir()):
        file.unlink()
    (stage / "checkpoint").rmdir()
    trial.server.prefect("flow-run", "retry", run)
    ended = trial.wait(lambda: (found := trial.server.ended(run)) and found["run_count"] == 2 and found, 600)
    assert ended["state_name"] == "Completed" and (stage / "checkpoint" / "run.json").is_file()
    assert trial.jobs(stage) == ["SUCCEEDED", "SUCCEEDED"]


def test_a_failure_is_told_in_few_words_without_configuration_or_traceback(trial: Trial) -> None:
    trial.start_worker()
    out = trial.folder / "g"
    out.mkdir()
    (out / "steps").write_text("not a number")
    run = trial.run(out)
    ended = trial.wait(lambda: trial.server.ended(run), 400)
    message = ended["state"]["message"]
    assert ended["state_name"] == "Failed" and len(message) <= 500
    assert "ValueError: invalid literal for int() with base 10: 'not a number'" in message.splitlines()[0]
    logs = trial.server.call("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
    said = [entry["message"] for entry in logs]
    assert said and not [line for line in said if "Traceback" in line or '"curate"' in line]
    assert presets.load("tiny_cluster").model_dump_json()[:40] not in "".join(said)


class Proxy:
    """A TCP proxy that can be cut: its connections are reset, and new ones refused."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.sockets: list[socket.socket] = []
        self.listener: socket.socket | None = None
        self.port = 0

    def __enter__(self) -> "Proxy":
        self.restore()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def restore(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self) -> None:
        assert self.listener is not None
        for one in (self.listener, *self.sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.sockets.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self.target)
                self.sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
