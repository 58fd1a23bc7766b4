"""The deployments: what `prefect.yaml` says is true, and the next one is started once, on the right paths."""

import importlib
import inspect
import json
import logging
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from steadydancer.datasets.artifact import Artifact
from steadydancer.datasets.storage import location
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.flows import curate, presets, render, tasks, train
from steadydancer.flows import prefect_ui as handover

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
NAMES = ("curate-dataset", "train-steadydancer", "render-evaluation", "reproduce")
STOP = "stop-cancelled/cluster"


def flow_of(deployment: dict[str, Any]) -> Any:
    module, _, function = deployment["entrypoint"].partition(":")
    return getattr(importlib.import_module(module), function)


def full_name(deployment: dict[str, Any]) -> str:
    return f"{flow_of(deployment).name}/{deployment['name']}"


def test_every_flow_is_deployed_here_and_to_a_cluster() -> None:
    assert {full_name(d) for d in DEPLOYMENTS} == {
        STOP, *(f"{name}/{where}" for name in NAMES for where in ("local", "cluster"))
    }  # fmt: skip
    for deployment in (one for one in DEPLOYMENTS if full_name(one) != STOP):
        assert deployment["schedules"] == []  # else `prefect deploy` asks for some
        parameters = inspect.signature(flow_of(deployment).fn).parameters
        assert set(deployment.get("parameters", {})) <= set(parameters)
        assert ("cluster" in deployment.get("parameters", {})) == (deployment["name"] == "cluster")
        assert parameters["cluster"].default is None
        for trigger in deployment.get("triggers", []):
            needed = {name for name, value in parameters.items() if value.default is inspect.Parameter.empty}
            assert needed <= set(trigger["parameters"]) <= set(parameters)


def test_a_cancelled_run_of_a_cluster_deployment_has_its_job_stopped() -> None:
    (deployment,) = (one for one in DEPLOYMENTS if full_name(one) == STOP)
    (trigger,) = deployment["triggers"]
    assert trigger["expect"] == ["prefect.flow-run.Cancelling"]
    assert trigger["parameters"] == {"flow_run_id": "{{ event.resource.id }}"}
    flows, deployments = trigger["match_related"]
    assert set(flows["prefect.resource.name"]) == set(NAMES) and deployments["prefect.resource.name"] == "cluster"
    EventTrigger.model_validate(trigger)


def test_lost_runs_are_crashed_within_five_minutes() -> None:
    """Prefect reads the file as it is, and the heartbeats of the deployments are frequent enough for it."""
    (data,) = yaml.safe_load((ROOT / "infra" / "prefect" / "automations.yaml").read_text())["automations"]
    automation = AutomationCore.model_validate(data)
    (action,) = automation.actions
    assert isinstance(automation.trigger, EventTrigger) and isinstance(action, ChangeFlowRunState)
    assert action.state == StateType.CRASHED
    assert set(data["trigger"]["match_related"]["prefect.resource.name"]) == set(NAMES)
    variables = {json.dumps(deployment["work_pool"]["job_variables"]) for deployment in DEPLOYMENTS}
    (pool,) = map(json.loads, variables)
    frequency_s = int(pool["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert frequency_s >= 30  # Prefect takes fewer for 30
    assert 3 * frequency_s <= automation.trigger.within.total_seconds() <= 300 - 2 * frequency_s


def test_each_cluster_deployment_has_a_queue_that_an_operator_can_limit() -> None:
    queues = {full_name(one): one["work_pool"].get("work_queue_name", "default") for one in DEPLOYMENTS}
    limited = {queue for name, queue in queues.items() if name.endswith("/cluster") and name != STOP}
    assert limited == {"curate", "train", "render", "reproduce"}
    assert {queue for name, queue in queues.items() if name.endswith("/local")} == {"default"}
    assert queues[STOP] == "default"  # it stops the runs that fill the other queues
    assert {one["work_pool"]["name"] for one in DEPLOYMENTS} == {"local"}


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
    preset = presets.tiny_cluster().model_dump_json() if where == "cluster" else "tiny"
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
    monkeypatch.setattr(handover, "create_link_artifact", lambda **_: pytest.fail("no browser follows it"))
    render.render_evaluation.fn(**parameters)
    assert seen == {"checkpoint": location(f"{bucket}/run"), "pairs": None, "out": location(f"{bucket}/run")}


def test_training_that_would_start_rendering_of_nothing_is_refused_before_it_begins(tmp_path: Path) -> None:
    with pytest.raises(handover.SteadyDancerError, match="set pairs"):
        train.train_steadydancer.fn("latents", str(tmp_path), "tiny", trigger_next=True)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def media(server: Any) -> None:
    """What curation needs, in the server's folder."""
    from steadydancer.datasets.toydance import make_toy_clips
    from steadydancer.models.components import save_components, tiny_components

    folder = server.folder
    save_components(tiny_components(seed=0), folder / "components")
    make_toy_clips(folder / "all_clips", num_good=2)
    (folder / "clips").mkdir()
    for path in [*(folder / "all_clips").glob("dancer_*"), *(folder / "all_clips").glob("truncated*")]:
        path.rename(folder / "clips" / path.name)


@pytest.mark.acceptance
@pytest.mark.timeout(600)
def test_a_deployment_makes_latents_and_starts_the_next_once(
    server: Any, media: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = {"clips": "clips", "out": "run", "preset": "tiny", "components": "components"}
    switches = {"in_process": True, "trigger_next": True}
    words = [f"--param={name}={json.dumps(value)}" for name, value in (parameters | switches).items()]
    log = server.folder / "worker.log"
    worker = server.start("worker", "start", "--pool", "local", "--limit", "1", cwd=server.folder, log=log)
    try:
        server.prefect("deployment", "run", "curate-dataset/local", *words)
        (flow_run,) = server.flow_runs("curate-dataset")
        state = server.wait_for(lambda: server.ended(flow_run["id"]), 300, log)
    finally:
        server.stop(worker)  # before the training is far
    assert state["state_name"] == "Completed", log.read_text()[-4000:]

    out = server.folder / "run"
    counts = Artifact(out / "clips").record()["counts"]
    assert counts == {"inputs": 3, "ok": 2, "rejected": 0, "quarantined": 1}
    assert Artifact(out / "latents").record()["counts"] == {"inputs": 2, "ok": 2, "rejected": 0, "quarantined": 0}
    shown = server.call("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run["id"]]}}})
    named = f"-{flow_run['name']}"  # nobody else's run has the same keys
    kinds = {"curated-clips": "table", "clip-funnel": "table", "clip-verdicts": "table", "clip-card": "markdown"}
    assert {artifact["key"].removesuffix(named): artifact["type"] for artifact in shown} == kinds
    assert all(artifact["key"].endswith(named) for artifact in shown)

    local = server.call("/deployments/name/train-steadydancer/local")

    def trainings() -> list[dict[str, Any]]:
        return [run for run in server.flow_runs("train-steadydancer") if run["deployment_id"] == local["id"]]

    (started,) = server.wait_for(trainings, 60, log)
    assert started["parameters"] == {
        "latents": str(out / "latents"), "out": str(out), "preset": "tiny",
        "base": str(server.folder / "components"), "cluster": None, "trigger_next": False, "pairs": None,
        "truth": None}  # fmt: skip

    # What every later run of the finished flow does, and a retry of this one: the server knows the event.
    monkeypatch.setattr(handover, "emit_event", lambda *_, **__: pytest.fail("sent again"))
    monkeypatch.setattr(handover, "get_run_logger", lambda: logging.getLogger("test"))
    with temporary_settings({PREFECT_API_URL: server.api, PREFECT_API_AUTH_STRING: server.auth}):
        handover.emit_artifact_event("latents", out / "latents", None, {})
    assert [flow_run["id"] for flow_run in trainings()] == [started["id"]]


@pytest.mark.acceptance
def test_no_deployment_remembers_a_folder_of_the_machine_that_deployed(server: Any) -> None:
    deployments = server.call("/deployments/filter", {})
    assert len(deployments) == 9
    assert str(ROOT) not in json.dumps(deployments)


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.acceptance
@pytest.mark.timeout(2400)
def test_a_cluster_is_given_jobs_and_the_chain_goes_on_there(server: Any, media: None, cluster: Any) -> None:
    """Curation on three nodes starts training on two of them; a retried flow submits nothing again."""
    run = presets.tiny_cluster()
    for stage in ("stage1", "stage2", "stage3"):
        run = presets.change(run, stage, steps=2, warmup_steps=1)
    (server.folder / "short.json").write_text(run.model_dump_json())
    log, out = server.folder / "cluster_worker.log", server.folder / "on_cluster"
    worker = server.start("worker", "start", "--pool", "local", cwd=server.folder, log=log, **cluster.env)
    try:
        before = {flow_run["id"] for flow_run in server.flow_runs("train-steadydancer")}
        curation = server.run("curate-dataset/cluster", clips="clips", out="on_cluster", preset="short.json",
                              components="components", cluster=cluster.address, trigger_next=True)  # fmt: skip

        def started() -> list[str]:
            return [run["id"] for run in server.flow_runs("train-steadydancer") if run["id"] not in before]

        assert server.wait_for(lambda: server.ended(curation), 600, log)["state_name"] == "Completed"
        (training,) = server.wait_for(started, 60, log)
        assert server.wait_for(lambda: server.ended(training), 1800, log)["state_name"] == "Completed"
        assert Artifact(out / "clips").record()["counts"] == {"inputs": 3, "ok": 2, "rejected": 0, "quarantined": 1}
        assert all((out / f"stage{n}" / "checkpoint" / "run.json").is_file() for n in (1, 2, 3))
        assert [job["status"] for job in cluster.jobs().values()] == ["SUCCEEDED"] * 5

        server.prefect("flow-run", "retry", curation)
        server.wait_for(lambda: (server.ended(curation) or {}).get("run_count") == 2, 300, log)
        assert server.ended(curation)["state_name"] == "Completed"
        assert len(cluster.jobs()) == 5 and started() == [training]
    finally:
        server.stop(worker)


@pytest.mark.acceptance
@pytest.mark.timeout(1200)
def test_a_request_that_no_node_meets_fails_with_what_was_asked_and_what_is_there(
    server: Any, media: None, cluster: Any
) -> None:
    (server.folder / "gpu.json").write_text(presets.change(presets.tiny(), "curate", num_gpus=0.25).model_dump_json())
    log = server.folder / "gpu_worker.log"
    worker = server.start("worker", "start", "--pool", "local", cwd=server.folder, log=log, **cluster.env)
    try:
        run = server.run("curate-dataset/cluster", clips="clips", out="gpu", preset="gpu.json", components="components",
                         cluster=cluster.address)  # fmt: skip
        ended = server.wait_for(lambda: server.ended(run), 600, log)
    finally:
        server.stop(worker)
    message = ended["state"]["message"]
    assert ended["state_name"] == "Failed" and len(message) <= 500
    assert "0.25 GPU" in message.splitlines()[0] and "3 nodes with 0 GPU and 3 CPU" in message.splitlines()[0]
    logs = server.call("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
    said = "\n".join(entry["message"] for entry in logs)
    assert "waiting up to 20 s for nodes" in said
    assert "Traceback" not in said and "num_frames" not in said
