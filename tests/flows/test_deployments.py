"""The deployments: what `prefect.yaml` says is true, and the next one is started once, on the right paths."""

import importlib
import inspect
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.storage import location
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.flows import curate, presets, render, tasks, train
from steadydancer.flows import prefect_ui as handover

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
NAMES = ("curate-dataset", "train-steadydancer", "render-evaluation", "reproduce")


def flow_of(deployment: dict[str, Any]) -> Any:
    module, _, function = deployment["entrypoint"].partition(":")
    return getattr(importlib.import_module(module), function)


def full_name(deployment: dict[str, Any]) -> str:
    return f"{flow_of(deployment).name}/{deployment['name']}"


def test_every_flow_is_deployed_here_and_to_a_cluster() -> None:
    assert {full_name(d) for d in DEPLOYMENTS} == {
        f"{name}/{where}" for name in NAMES for where in ("local", "cluster")
    }
    for deployment in DEPLOYMENTS:
        assert deployment["schedules"] == []  # else `prefect deploy` asks for some
        parameters = inspect.signature(flow_of(deployment).fn).parameters
        assert set(deployment.get("parameters", {})) <= set(parameters)
        assert ("cluster" in deployment.get("parameters", {})) == (deployment["name"] == "cluster")
        assert parameters["cluster"].default is None
        for trigger in deployment.get("triggers", []):
            needed = {name for name, value in parameters.items() if value.default is inspect.Parameter.empty}
            assert needed <= set(trigger["parameters"]) <= set(parameters)


@dataclass
class Announced:
    """One event, as `emit_event` was asked to send it."""

    event: str
    resource: dict[str, str]
    payload: dict[str, Any]
    id: Any

    def starts(self) -> dict[str, dict[str, Any]]:
        """Deployments whose trigger matches, with the parameters that they are given."""
        return {
            full_name(deployment): {
                name: self.payload[re.fullmatch(r"\{\{ event\.payload\.(\w+) \}\}", template)[1]]  # type: ignore[index]
                for name, template in trigger["parameters"].items()
            }
            for deployment in DEPLOYMENTS
            for trigger in deployment.get("triggers", [])
            if self.event in trigger["expect"] and trigger["match"].items() <= self.resource.items()
        }


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[Announced]:
    """A server that remembers events, and flows without a server: jobs finish at once with a record of their own."""
    events: list[Announced] = []

    def finish(artifact: Path) -> dict[str, Any]:
        if not (artifact / "run.json").is_file():
            write_json(artifact / "run.json", {"made": time.time_ns()})
        return {"counts": {"ok": 1}, "seconds": {"total": 1.0}, "steps": 1, "loss_before": 2.0, "loss_after": 1.0}

    def emit(event: str, **words: Any) -> None:
        events.append(Announced(event=event, **words))

    monkeypatch.setattr(handover, "emit_event", emit)
    monkeypatch.setattr(handover, "_is_known", lambda event_id: event_id in [event.id for event in events])
    monkeypatch.setattr(handover, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(tasks, "curate", lambda run, clips, out, *_: finish(out / "clips"))
    monkeypatch.setattr(tasks, "cache", lambda run, clips, out, *_: finish(out / "latents"))
    monkeypatch.setattr(tasks, "train", lambda run, stage, latents, base, out, *_: finish(out / "checkpoint"))
    for module in (curate, train):
        monkeypatch.setattr(module, "publish", lambda *_: None)
    monkeypatch.setattr(curate, "publish_curation", lambda folder: None)
    return events


@pytest.mark.parametrize("where", ["local", "cluster"])
def test_latents_start_training_and_its_checkpoint_starts_rendering(
    where: str, announced: list[Announced], tmp_path: Path
) -> None:
    cluster = "http://head:8265" if where == "cluster" else None
    preset = presets.tiny().model_dump_json() if where == "cluster" else "tiny"
    curate.curate_dataset.fn("clips", str(tmp_path), preset, components="hub/id", cluster=cluster, trigger_next=True,
                             pairs="/pairs.csv", truth="s3://bucket/truth")  # fmt: skip
    (parameters,) = announced[-1].starts().values()
    assert set(announced[-1].starts()) == {f"train-steadydancer/{where}"}
    assert parameters == {"latents": str(tmp_path / "latents"), "out": str(tmp_path), "preset": preset,
                          "base": "hub/id", "cluster": cluster, "trigger_next": True, "pairs": "/pairs.csv",
                          "truth": "s3://bucket/truth"}  # fmt: skip
    train.train_steadydancer.fn(**parameters)
    (parameters,) = announced[-1].starts().values()
    assert set(announced[-1].starts()) == {f"render-evaluation/{where}"}
    assert parameters == {
        "checkpoint": str(tmp_path / "stage3" / "checkpoint"),
        "out": str(tmp_path),
        "preset": preset,
        "cluster": cluster,
        "pairs": "/pairs.csv",
        "truth": "s3://bucket/truth",
    }


def test_an_artifact_is_handed_over_once_and_only_if_asked(announced: list[Announced], tmp_path: Path) -> None:
    def run(**options: Any) -> int:
        curate.curate_dataset.fn("clips", str(tmp_path), "tiny", **options)
        return len(announced)

    assert run() == 0
    assert run(trigger_next=True) == 1
    assert announced[0].payload["trigger_next"] is False  # nothing to render: the chain ends with the training
    assert run(trigger_next=True) == 1
    (tmp_path / "latents" / "run.json").unlink()  # deleted and made anew, it is another artifact
    assert run(trigger_next=True) == 2
    assert announced[0].id != announced[1].id


def test_a_chain_on_a_store_hands_addresses_over(
    announced: list[Announced], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three flows with every path on a store: jobs are given places, the next flow is given words."""
    write_json(location(f"{bucket}/preset.json"), presets.tiny().model_dump(mode="json"))
    places = {"clips": f"{bucket}/clips", "out": f"{bucket}/run", "preset": f"{bucket}/preset.json"}
    curate.curate_dataset.fn(**places, components=f"{bucket}/wan", trigger_next=True, pairs=f"{bucket}/pairs.csv")
    (parameters,) = announced[-1].starts().values()
    assert parameters == {
        "latents": f"{bucket}/run/latents", "out": f"{bucket}/run", "preset": places["preset"], "base": f"{bucket}/wan",
        "cluster": None, "trigger_next": True, "pairs": f"{bucket}/pairs.csv", "truth": None,
    }  # fmt: skip
    train.train_steadydancer.fn(**parameters)
    (parameters,) = announced[-1].starts().values()
    assert (parameters["checkpoint"], parameters["out"]) == (f"{bucket}/run/stage3/checkpoint", f"{bucket}/run")

    seen: dict[str, Any] = {}

    def rendered(run: Any, checkpoint: Any, pairs: Any, out: Any, *_: Any) -> dict[str, Any]:
        seen.update(checkpoint=checkpoint, pairs=pairs, out=out)
        return {"counts": {"ok": 1}, "seconds": {"total": 1.0}, "means": {}}

    monkeypatch.setattr(tasks, "render", rendered)
    monkeypatch.setattr(tasks, "evaluate", lambda run, renders, truth, out, *_: rendered(run, renders, truth, out))
    monkeypatch.setattr(render, "publish", lambda *_: None)
    monkeypatch.setattr(render, "create_link_artifact", lambda **_: pytest.fail("no browser follows it"))
    render.render_evaluation.fn(**parameters)
    assert seen == {"checkpoint": location(f"{bucket}/run"), "pairs": None, "out": location(f"{bucket}/run")}


def test_training_that_would_start_rendering_of_nothing_is_refused_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(handover.SteadyDancerError, match="set pairs"):
        train.train_steadydancer.fn("latents", str(tmp_path), "tiny", trigger_next=True)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A Prefect server of this test's own, on the loopback, with its state in the test's folder."""

    folder: Path
    api: str
    env: dict[str, str]

    def prefect(self, *words: str, cwd: Path = ROOT) -> str:
        command = [Path(sys.executable).with_name("prefect"), *words]
        return subprocess.run(command, env=self.env, cwd=cwd, check=True, capture_output=True, text=True).stdout

    def start(self, *words: str, cwd: Path, log: Path, **env: str) -> subprocess.Popen[bytes]:
        command = [Path(sys.executable).with_name("prefect"), *words]
        with log.open("wb") as out:
            return subprocess.Popen(
                command, env=self.env | env, cwd=cwd, stdout=out, stderr=out, start_new_session=True
            )

    def call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """POST with a body, else GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.api + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def flow_runs(self, flow: str) -> list[dict[str, Any]]:
        return list(
            self.call("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_ASC"})
        )

    def ended(self, flow_run_id: str) -> dict[str, Any] | None:
        flow_run = self.call(f"/flow_runs/{flow_run_id}")
        return flow_run if flow_run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None


def wait_for(something: Callable[[], Any], timeout_s: float, log: Path) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if found := something():
            return found
        time.sleep(0.5)
    raise TimeoutError(log.read_text()[-4000:])


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it started (a session of its own)."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=20)


def own_environment(home: Path, port: int) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RAY_"))}
    return inherited | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the eight deployments and a pool for them; what curation needs lies in its folder."""
    folder = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(folder, f"http://127.0.0.1:{port}/api", own_environment(folder / "home", port))
    (folder / "home").mkdir()
    log = folder / "server.log"
    process = server.start("server", "start", "--host", "127.0.0.1", "--port", str(port), cwd=folder, log=log)
    try:
        from steadydancer.datasets.toydance import make_toy_clips
        from steadydancer.models.components import save_components, tiny_components

        save_components(tiny_components(seed=0), folder / "components")
        make_toy_clips(folder / "all_clips", num_good=2)
        (folder / "clips").mkdir()
        for path in [*(folder / "all_clips").glob("dancer_*"), *(folder / "all_clips").glob("truncated*")]:
            path.rename(folder / "clips" / path.name)

        def healthy() -> bool:
            try:
                return bool(server.call("/health"))
            except (urllib.error.URLError, OSError):
                return False

        wait_for(healthy, 180, log)
        server.call("/work_pools/", {"name": "local", "type": "process"})
        server.prefect("--no-prompt", "deploy", "--all")
        yield server
    finally:
        stop(process)


@pytest.mark.acceptance
@pytest.mark.timeout(600)
def test_a_deployment_makes_latents_and_starts_the_next_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"clips": "clips", "out": "run", "preset": "tiny", "components": "components"}
    switches = {"in_process": True, "trigger_next": True}
    words = [f"--param={name}={json.dumps(value)}" for name, value in (parameters | switches).items()]
    log = server.folder / "worker.log"
    worker = server.start("worker", "start", "--pool", "local", "--limit", "1", cwd=server.folder, log=log)
    try:
        server.prefect("deployment", "run", "curate-dataset/local", *words)
        (flow_run,) = server.flow_runs("curate-dataset")
        state = wait_for(lambda: server.ended(flow_run["id"]), 300, log)
    finally:
        stop(worker)  # before the training is far
    assert state["state_name"] == "Completed", log.read_text()[-4000:]

    out = server.folder / "run"
    counts = Artifact(out / "clips").record()["counts"]
    assert counts == {"inputs": 3, "ok": 2, "rejected": 0, "quarantined": 1}
    assert Artifact(out / "latents").record()["counts"] == {"inputs": 2, "ok": 2, "rejected": 0, "quarantined": 0}
    shown = server.call("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run["id"]]}}})
    assert {artifact["key"]: artifact["type"] for artifact in shown} == {
        "curated-clips": "table", "clip-funnel": "table", "clip-verdicts": "table", "clip-card": "markdown",
        "clip-report": "markdown"}  # fmt: skip

    (started,) = wait_for(lambda: server.flow_runs("train-steadydancer"), 60, log)
    local = server.call("/deployments/name/train-steadydancer/local")
    assert started["deployment_id"] == local["id"]
    assert started["parameters"] == {
        "latents": str(out / "latents"), "out": str(out), "preset": "tiny",
        "base": str(server.folder / "components"), "cluster": None, "trigger_next": False, "pairs": None,
        "truth": None}  # fmt: skip

    # What every later run of the finished flow does, and a retry of this one: the server knows the event.
    monkeypatch.setattr(handover, "emit_event", lambda *_, **__: pytest.fail("sent again"))
    monkeypatch.setattr(handover, "get_run_logger", lambda: logging.getLogger("test"))
    with temporary_settings({PREFECT_API_URL: server.api}):
        handover.emit_artifact_event("latents", out / "latents", None, {})
    assert [flow_run["id"] for flow_run in server.flow_runs("train-steadydancer")] == [started["id"]]


@pytest.mark.acceptance
def test_no_deployment_remembers_a_folder_of_the_machine_that_deployed(server: Server) -> None:
    deployments = server.call("/deployments/filter", {})
    assert len(deployments) == 8
    assert str(ROOT) not in json.dumps(deployments)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Job server's address and token file of three nodes of one core each."""
    script = ROOT / "infra" / "ray" / "local_cluster.py"
    process = subprocess.Popen([sys.executable, script, "--nodes", "3", "--state", tmp_path / "ray"],
                               env=own_environment(tmp_path, 1), stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None
    try:
        process.stdout.readline()
        address = re.search(r"job server (http://\S+)", process.stdout.readline())
        assert address
        yield address[1], tmp_path / "ray" / "token"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


@pytest.mark.acceptance
@pytest.mark.timeout(2400)
def test_a_cluster_is_given_jobs_and_the_chain_goes_on_there(server: Server, cluster: tuple[str, Path]) -> None:
    """Curation on three nodes starts training on two of them; a retried flow submits nothing again."""
    address, token = cluster
    run = presets.tiny()
    for stage in ("stage1", "stage2", "stage3"):
        run = presets.change(run, stage, steps=2, warmup_steps=1, num_workers=2 if stage == "stage1" else 0)
    (server.folder / "short.json").write_text(run.model_dump_json())

    def jobs() -> dict[str, str]:
        headers = {"Authorization": f"Bearer {token.read_text()}"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{address}/api/jobs/", headers=headers), timeout=60
        ) as answer:
            return {job["submission_id"]: job["status"] for job in json.load(answer)}

    log, out = server.folder / "cluster_worker.log", server.folder / "on_cluster"
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    worker = server.start("worker", "start", "--pool", "local", cwd=server.folder, log=log, **auth)
    try:
        before = {flow_run["id"] for flow_run in server.flow_runs("train-steadydancer")}
        parameters = {"clips": "clips", "out": "on_cluster", "preset": "short.json", "components": "components",
                      "cluster": address, "trigger_next": True}  # fmt: skip
        deployment = server.call("/deployments/name/curate-dataset/cluster")
        curation = server.call(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})["id"]

        def started() -> list[str]:
            return [run["id"] for run in server.flow_runs("train-steadydancer") if run["id"] not in before]

        assert wait_for(lambda: server.ended(curation), 600, log)["state_name"] == "Completed", log.read_text()[-4000:]
        (training,) = wait_for(started, 60, log)
        assert wait_for(lambda: server.ended(training), 1200, log)["state_name"] == "Completed", log.read_text()[-4000:]
        assert Artifact(out / "clips").record()["counts"] == {"inputs": 3, "ok": 2, "rejected": 0, "quarantined": 1}
        assert all((out / f"stage{n}" / "checkpoint" / "run.json").is_file() for n in (1, 2, 3))
        assert list(jobs().values()) == ["SUCCEEDED"] * 5

        server.prefect("flow-run", "retry", curation)
        wait_for(lambda: (server.ended(curation) or {}).get("run_count") == 2, 300, log)
        assert server.ended(curation)["state_name"] == "Completed"  # type: ignore[index]
        assert len(jobs()) == 5 and started() == [training]
    finally:
        stop(worker)
