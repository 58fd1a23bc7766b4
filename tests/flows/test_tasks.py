"""A task runs the same job here, on a cluster, and by the command that its engine names: every option survives."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from steadydancer import SteadyDancerError
from steadydancer.datasets import artifact_lookup
from steadydancer.datasets.artifact import Artifact, ArtifactInUseError
from steadydancer.datasets.shards import dataset as shards
from steadydancer.datasets.storage import StorageError, StoreUnavailableError, location
from steadydancer.datasets.storage.atomic import write_json
from steadydancer.flows import tasks
from steadydancer.flows.cli import cli
from steadydancer.flows.presets import Run, change, load, tiny, tiny_cluster
from steadydancer.flows.reproduce import reproduce
from steadydancer.flows.train import train_steadydancer
from steadydancer.pipelines.cache import job as cache_job
from steadydancer.pipelines.curate import job as curate_job
from steadydancer.pipelines.evaluate import job as evaluate_job
from steadydancer.pipelines.evaluate.imported import ScoreFile
from steadydancer.pipelines.evaluate.sources import Source
from steadydancer.pipelines.render import job as render_job
from steadydancer.pipelines.runtime.job_server import JobUnknown
from steadydancer.pipelines.runtime.packets import JobInterrupted
from steadydancer.pipelines.runtime.submit import JobFailed, Order
from steadydancer.pipelines.train import job as train_job
from steadydancer.pipelines.train.resume.stop import TrainingStopped, WorkerLost

JOBS = {"curate": curate_job, "cache": cache_job, "train": train_job, "render": render_job, "evaluate": evaluate_job}


class Reached(Exception):
    """A job was begun."""


@dataclass
class Submitted:
    """What was submitted, instead of a cluster; jobs end at once, and make their artifacts if they shall."""

    orders: list[tuple[str, Order]] = field(default_factory=list)
    makes: bool = True

    def submit(self, address: str, order: Order, on_log: Any) -> bool:
        if self.makes and order.is_finished():
            return False
        self.orders.append((address, order))
        if self.makes:
            write_json(Path(order.artifact) / "run.json", {"at": order.artifact})
        return True


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> Submitted:
    state = SimpleNamespace(root="a run", is_cancelled=lambda: False, note_job=lambda *_: None, log=print)
    server = Submitted()
    monkeypatch.setattr(tasks, "submit_job", server.submit)
    monkeypatch.setattr(tasks, "RunState", lambda: state)
    monkeypatch.setattr(tasks, "_ran", set())
    monkeypatch.setattr(tasks, "get_run_logger", lambda: SimpleNamespace(info=print))
    return server


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What jobs were begun with; none runs."""
    calls: list[dict[str, Any]] = []
    for name, job in JOBS.items():

        def run(config: Any, name: str = name, **arguments: Any) -> None:
            calls.append({"job": name, "config": config, **arguments})
            raise Reached

        monkeypatch.setattr(job, "run", run)
    monkeypatch.setattr(Artifact, "committed", False)  # without asking a store
    for module in (tasks, artifact_lookup):
        monkeypatch.setattr(module, "find_artifact", lambda place, kind: SimpleNamespace(path=place))
    monkeypatch.setattr(shards, "require_settings", lambda *_: None)
    (tmp_path / "pairs.jsonl").write_text('{"image": "a.png", "driving": "b.mp4", "prompt": "dance; \'now\'"}\n')
    for name in ("truth", "clips x"):
        (tmp_path / name).mkdir()
    return calls


def run_of() -> Run:
    """A configuration of which every job's part differs from any preset."""
    run = tiny()
    for job, fields in {
        "curate": {"max_clips_per_source": 3, "trust": True, "exclude": "/evaluation set"},
        "cache": {"packet_size": 5},
        "stage1": {"seed": 11},
        "stage2": {"seed": 12},
        "stage3": {"seed": 13},
        "render": {"seed": 14, "negative_prompt": "blurred, \"bad\" hands; $HOME 'x'"},
        "evaluate": {"protocol": "first-81"},
        "cluster": {"wait_for_nodes_s": 77},
    }.items():
        run = change(run, job, **fields)
    return run


def cases(folder: Path) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
    """Case → task, its arguments after the configuration, and what the job must be begun with."""
    run, store = run_of(), location("s3://bucket/a b")
    clips = folder / "clips x"
    pairs = render_job.read_pairs(folder / "pairs.jsonl")
    others = {"benchmark": "x-dance", "videos": [Source("a b", store), Source(None, folder / "truth")],
              "scores": [ScoreFile("m", folder / "pairs.jsonl")]}  # fmt: skip
    return {
        "curate": (tasks.curate.fn, (str(clips), folder / "o"),
                   {"config": run.curate, "clips": str(clips), "out": folder / "o"}),
        "curate on a store": (tasks.curate.fn, ("s3://bucket/a b/*.mp4", store),
                              {"config": run.curate, "clips": "s3://bucket/a b/*.mp4", "out": store}),
        "cache": (tasks.cache.fn, (folder / "o", folder / "p"),
                  {"config": run.cache, "clips": folder / "o", "out": folder / "p",
                   "samples_drawn": run.samples_drawn}),
        "train 1": (tasks.train.fn, (1, folder / "l", "hub/id", folder / "s", None),
                    {"config": run.stage1, "latents": folder / "l", "base": "hub/id", "out": folder / "s",
                     "from_checkpoint": None}),
        "train 2": (tasks.train.fn, (2, store, "/base", folder / "s", folder / "c"),
                    {"config": run.stage2, "latents": store, "base": "/base", "out": folder / "s",
                     "from_checkpoint": folder / "c"}),
        "train 3": (tasks.train.fn, (3, folder / "l", "/base", folder / "s", store),
                    {"config": run.stage3, "latents": folder / "l", "base": "/base", "out": folder / "s",
                     "from_checkpoint": store}),
        "render": (tasks.render.fn, (folder / "c", folder / "pairs.jsonl", folder / "o"),
                   {"config": run.render, "checkpoint": folder / "c", "pairs": pairs, "out": folder / "o"}),
        "evaluate": (tasks.evaluate.fn, (folder / "r", None, folder / "o"),
                     {"config": run.evaluate, "renders": folder / "r", "truth": None, "out": folder / "o"}),
        "evaluate with truth": (tasks.evaluate.fn, (folder / "r", folder / "truth", folder / "o"),
                                {"config": run.evaluate, "renders": folder / "r", "truth": folder / "truth",
                                 "out": folder / "o"}),
        "evaluate with others": (partial(tasks.evaluate.fn, **others), (folder / "r", None, folder / "o"),
                                 {"config": run.evaluate, "renders": folder / "r", "truth": None, "out": folder / "o",
                                  **others}),
    }  # fmt: skip


def workers_of(run: Run) -> Run:
    """The configuration with workers, as a cluster needs them; the words of a command do not contain it."""
    for stage in ("stage1", "stage2", "stage3"):
        run = change(run, stage, num_workers=2)
    return run


NAMES = ("curate", "curate on a store", "cache", "train 1", "train 2", "train 3", "render", "evaluate",
         "evaluate with truth", "evaluate with others")  # fmt: skip


def meant(call: dict[str, Any]) -> dict[str, Any]:
    """A call without where it runs."""
    unset = {"parent": None, "fork": None}
    return {name: value for name, value in call.items() if name not in ("engine", "address", "job", "wait_for_nodes_s")
            and not (name in unset and value is unset[name])}  # fmt: skip


def as_command(words: list[str], begun: list[dict[str, Any]]) -> dict[str, Any]:
    """What the command line begins when it is given these words."""
    answer = CliRunner().invoke(cli, words)
    assert isinstance(answer.exception, Reached), (answer.output, answer.exception)
    return begun.pop()


@pytest.mark.parametrize("name", NAMES)
def test_a_job_is_begun_with_the_same_here_and_on_a_cluster(
    name: str, begun: list[dict[str, Any]], submitted: Submitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, arguments, wanted = cases(tmp_path)[name]
    with pytest.raises(Reached):
        task(run_of(), *arguments)
    here = begun.pop()
    assert here["job"] == name.split()[0]
    assert meant(here) == wanted

    monkeypatch.setattr(Artifact, "committed", True)
    monkeypatch.setattr(Artifact, "record", lambda self: {"at": str(self.path)})
    monkeypatch.setattr(tasks, "_stored_preset", lambda run, out: preset)
    preset = tmp_path / "preset.json"
    preset.write_text(run_of().model_dump_json())
    submitted.makes = False
    record = task(workers_of(run_of()), *arguments, cluster="http://head:8265")
    monkeypatch.setattr(Artifact, "committed", False)
    ((address, order),) = submitted.orders
    assert (address, order.run, order.stop_grace_s) == ("http://head:8265", "a run", 300) and not begun
    words = order.arguments
    assert all(isinstance(word, str) for word in words)
    assert max(map(len, words)) < 200  # no configuration in a command, which stands in every log
    there = as_command(words, begun)
    assert (there["job"], meant(there)) == (here["job"], wanted)
    # On the cluster itself it joins the Ray that is there.
    assert there["address"] == "auto" if "address" in there else there["engine"].address == "auto"
    waits = there["wait_for_nodes_s"] if "address" in there else there["engine"].wait_for_nodes_s
    assert waits == run_of().cluster.wait_for_nodes_s != tiny().cluster.wait_for_nodes_s
    made = {"curate": "clips", "cache": "latents", "train": "checkpoint", "render": "renders", "evaluate": "metrics"}
    assert record == {"at": str(wanted["out"] / made[here["job"]])}
    assert order.artifact == record["at"]

    if "engine" in here:  # what a failure tells a person to run again
        words = shlex.split(here["engine"].command)
        assert words[0] == "steadydancer"
        assert meant(as_command(words[1:], begun)) == wanted


def test_picking_is_the_same_command_on_a_cluster(
    submitted: Submitted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    picked: list[tuple[Any, Any]] = []
    monkeypatch.setattr(train_job, "pick", lambda run, steps: picked.append((run, steps)) or run)
    monkeypatch.setattr(train_job, "find_checkpoint", lambda run, steps: run / f"checkpoint-{steps}")
    monkeypatch.setattr(
        tasks, "submit_job", lambda address, order, on_log: CliRunner().invoke(cli, order.arguments).output == ""
    )
    tasks.pick.fn(tiny(), tmp_path / "a b", 25)
    assert tasks.pick.fn(tiny(), tmp_path / "a b", 25, "http://head:8265") == tmp_path / "a b" / "checkpoint-25"
    assert picked == [(tmp_path / "a b", 25)] * 2


def test_a_finished_job_is_not_submitted_again_unless_its_input_was_made_anew(
    submitted: Submitted, tmp_path: Path
) -> None:
    def run_flow() -> list[str]:
        """As a process of its own, which remembers nothing; return what it submitted."""
        tasks._ran.clear()
        submitted.orders.clear()
        assert tasks.curate.fn(tiny(), "/clips", tmp_path, "http://head:8265") == {"at": str(tmp_path / "clips")}
        assert tasks.cache.fn(tiny(), tmp_path, tmp_path, "http://head:8265") == {"at": str(tmp_path / "latents")}
        return [Path(order.artifact).name for _, order in submitted.orders]

    assert run_flow() == ["clips", "latents"]
    assert run_flow() == []
    shutil.rmtree(tmp_path / "latents")
    assert run_flow() == ["latents"]
    shutil.rmtree(tmp_path / "clips")
    assert run_flow() == ["clips", "latents"]  # the second compares its input with the new one


def test_the_configuration_of_a_job_lies_where_its_command_reads_it(submitted: Submitted, tmp_path: Path) -> None:
    run = change(run_of(), "cluster", stop_grace_s=7)
    tasks.curate.fn(run, "/clips", tmp_path / "o", "http://head:8265")
    ((_, order),) = submitted.orders
    assert load(order.arguments[order.arguments.index("--preset") + 1]) == run
    assert order.variables()["RAY_JOB_STOP_WAIT_TIME_S"] == "7"
    tasks.curate.fn(change(run, "curate", packet_size=9), "/clips", tmp_path / "o", "http://head:8265")
    assert submitted.orders[1][1].metadata != order.metadata


def test_a_folder_that_only_the_cluster_sees_is_told(submitted: Submitted, tmp_path: Path) -> None:
    submitted.makes = False
    with pytest.raises(SteadyDancerError, match="mount the same folder at the same path"):
        tasks.curate.fn(tiny(), "/clips", tmp_path, "http://head:8265")


def test_a_training_without_workers_is_not_sent_to_a_cluster(submitted: Submitted, tmp_path: Path) -> None:
    with pytest.raises(SteadyDancerError, match=r"stage2\.num_workers is 0.*on the cluster's head"):
        tasks.train.fn(tiny(), 2, tmp_path / "l", "base", tmp_path / "s", None, "http://head:8265")
    assert not submitted.orders
    for flow in (
        lambda: train_steadydancer.fn("latents", str(tmp_path / "o"), "tiny", cluster="http://head:8265"),
        lambda: reproduce.fn("clips", "pairs", str(tmp_path / "o"), preset="tiny", cluster="http://head:8265"),
    ):
        with pytest.raises(SteadyDancerError, match="stage1"):
            flow()  # before anything is curated
    tasks.require_workers(tiny_cluster(), "http://head:8265", 1, 2, 3)
    tasks.require_workers(tiny(), None, 1, 2, 3)


@pytest.mark.parametrize(
    ("error", "is_tried_again"),
    [
        (JobFailed("killed", is_temporary=True), True),
        (JobFailed("refused"), False),
        (JobUnknown("gone"), True),
        (JobInterrupted("the store does not answer"), True),
        (StoreUnavailableError(5, "cannot be reached", "s3://bucket/x"), True),
        (WorkerLost("out of memory"), True),
        (ArtifactInUseError("another process writes it"), True),
        (TrainingStopped("on request"), False),
        (StorageError(5, "access denied", "s3://bucket/x"), False),
        (SteadyDancerError("wrong"), False),
    ],
)
def test_a_task_is_tried_again_after_faults_that_pass(error: Exception, is_tried_again: bool) -> None:
    def result() -> None:
        raise error

    assert tasks._may_pass(None, None, SimpleNamespace(result=result)) == is_tried_again
    assert tasks.train.retry_condition_fn is tasks._may_pass and tasks.train.retries > 0


def test_every_option_of_a_job_is_given_by_its_task_or_by_the_configuration() -> None:
    """An option that is neither would be lost on a cluster: whoever adds one must say here how it gets there."""
    by_task = {
        "curate": {"clips", "out"},
        "cache": {"clips", "out"},
        "train": {"latents", "stage", "base", "from_checkpoint", "out"},
        "render": {"checkpoints", "pairs", "benchmark", "out"},
        "evaluate": {"renders", "truth", "benchmark", "videos", "scores", "out"},
    }
    by_configuration = {
        "curate": {"num_frames", "exclude", "trust"},
        "cache": {"components", "captioner"},
        "train": {"steps", "seed", "num_workers", "bundle"},
        "render": {
            "components",
            "num_frames",
            "window_opening",
            "steps",
            "seed",
            "num_seeds",
            "sound",
            "parallel",
            "num_processes",
            "mode",
            "distilled_lora",
        },
        "evaluate": {"protocol", "metrics"},
    }
    not_in_flows = {
        "curate": {"parent"},
        "cache": set[str](),
        "train": {"fork", "tflops", "gpu_memory_gb"},
        "render": {"image", "driving", "prompt", "work"},  # one pair; flows take a table, and work in OUT
        "evaluate": {"list_metrics"},
    }
    everywhere = {"preset", "print_config", "dry_run", "address", "in_process", "help"}
    for name in JOBS:
        command = cli.commands[name]
        options = {param.name for param in command.params if isinstance(param, click.Option)} - everywhere
        assert options == by_task[name] | by_configuration[name] | not_in_flows[name], name


def test_a_task_leaves_its_configuration_beside_its_logs(begun: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(Reached):
        tasks.evaluate.fn(run_of(), tmp_path / "r", tmp_path / "truth", tmp_path / "o")
    engine = begun.pop()["engine"]
    assert engine.state_dir == tmp_path / "o" / ".engine"
    assert json.loads((engine.state_dir / "preset.json").read_text()) == run_of().model_dump(mode="json")


def test_a_stored_preset_that_was_changed_is_written_anew(tmp_path: Path) -> None:
    run = tiny()
    file = tasks._stored_preset(run, tmp_path)
    first = file.read_text()
    file.write_text(first.replace("0", "1"))
    assert tasks._stored_preset(run, tmp_path) == file and file.read_text() == first
