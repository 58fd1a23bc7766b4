"""Trials of operation: one Prefect server, one cluster, and jobs whose length a test decides.

The cluster's command `steadydancer` is a small script, so that what is on trial is who submits, follows and stops it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# As the real command: resumes, holds its folder, stops on SIGTERM with exit status 75, commits run.json last. The file
# `steps` beside the stages says how many steps it takes; a test may change it meanwhile.
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
wanted = lambda: int(open(os.path.dirname(out) + "/steps").read())
file = out + "/metrics.jsonl"
done = len(open(file).readlines()) if os.path.exists(file) else 0
while done < wanted():
    time.sleep(0.5)
    with open(file, "a") as metrics:
        metrics.write(json.dumps({{"step": done}}) + "\\n")
    print("step", done, flush=True)
    done += 1
    if stop:
        sys.exit(75)
os.makedirs(out + "/checkpoint", exist_ok=True)
with open(out + "/checkpoint/run.json", "w") as record:
    json.dump({{"kind": "checkpoint", "steps": done, "loss_before": 1.0, "loss_after": 0.5}}, record)
"""
ENDLESS = 10**6


class Trial:
    """Workers and runs of `train-steadydancer/cluster` in one folder, on one cluster."""

    def __init__(self, server: Any, cluster: Any, folder: Path) -> None:
        self.server, self.cluster, self.folder = server, cluster, folder
        self.workers: list[subprocess.Popen[bytes]] = []
        self.log = folder / "worker.log"

    def start_worker(self, **env: str) -> subprocess.Popen[bytes]:
        self.log = self.folder / f"worker-{len(self.workers)}.log"
        words = ("worker", "start", "--pool", "local")
        self.workers.append(self.server.start(*words, cwd=self.folder, log=self.log, **self.cluster.env | env))
        return self.workers[-1]

    def begin(self, name: str, steps: int = ENDLESS, address: str | None = None) -> tuple[str, Path]:
        """Start a run of three stages; return its id and the folder of the first stage, which has begun."""
        out = self.folder / name
        out.mkdir(exist_ok=True)
        self.set_steps(out, steps)
        run = self.run(out, address)
        self.wait(lambda: self.steps(out / "stage1") > 0, 400)
        return run, out / "stage1"

    def set_steps(self, out: Path, steps: int) -> None:
        """Let the stages of a run end after some steps, also one that runs."""
        aside = out / ".steps"
        aside.write_text(str(steps))
        aside.replace(out / "steps")

    def run(self, out: Path, address: str | None = None) -> str:
        given = {"latents": str(out), "out": str(out), "preset": "tiny_cluster", "base": "none"}
        return str(self.server.run("train-steadydancer/cluster", cluster=address or self.cluster.address, **given))

    def wait(self, something: Callable[[], Any], timeout_s: float) -> Any:
        return self.server.wait_for(something, timeout_s, self.log)

    def state(self, run: str) -> str:
        return str(self.server.call(f"/flow_runs/{run}")["state_name"])

    def said_of(self, run: str) -> list[str]:
        """The log of a run, as its page shows it."""
        logs = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_DESC"}
        return [entry["message"] for entry in self.server.call("/logs/filter", logs)]

    def steps(self, stage: Path) -> int:
        file = stage / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def jobs(self, stage: Path) -> list[str]:
        """Statuses of the jobs that make a stage's checkpoint, first to last."""
        made = str(stage / "checkpoint")
        found = [job for job in self.cluster.jobs().values() if job["metadata"].get("steadydancer.artifact") == made]
        return [job["status"] for job in sorted(found, key=lambda job: job["start_time"])]

    def descendants(self, root: int) -> list[int]:
        """Ids of the processes that a process started, and those that they started."""
        listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
        found, new = set[int](), {root}
        while new:
            new = {pid for pid, parent in pairs if parent in new} - found
            found |= new
        return sorted(found)

    def lose(self, worker: subprocess.Popen[bytes]) -> None:
        """Kill a worker and the processes of its flows, as their machine's end does."""
        for process in (*self.descendants(worker.pid), worker.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def end(self) -> None:
        for worker in self.workers:
            self.lose(worker)


@pytest.fixture(scope="package")
def cluster_on_trial(cluster_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    command = tmp_path_factory.mktemp("bin") / "steadydancer"
    command.write_text(COMMAND)
    command.chmod(0o755)
    with cluster_of(command) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def trial_in(server: Any, cluster_on_trial: Any) -> Callable[[Path], Trial]:
    return lambda folder: Trial(server, cluster_on_trial, folder)


@pytest.fixture
def trial(trial_in: Callable[[Path], Trial], tmp_path: Path) -> Iterator[Trial]:
    trial = trial_in(tmp_path)
    try:
        yield trial
    finally:
        trial.end()


@pytest.fixture
def proxy(cluster_on_trial: Any) -> "Iterator[Proxy]":
    host, _, port = cluster_on_trial.address.removeprefix("http://").partition(":")
    with Proxy(host, int(port)) as between:
        yield between


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
