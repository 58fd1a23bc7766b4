"""A job on a cluster outlives whoever watches it: worker, flow, server and connection are killed while it runs."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from steadydancer.flows import presets

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

STAGES = (1, 2, 3)


def checkpoints(trial: Any, stage: Path) -> list[list[str]]:
    """Statuses of the jobs of each stage."""
    return [trial.jobs(stage.with_name(f"stage{n}")) for n in STAGES]


@pytest.fixture(scope="module", autouse=True)
def orphan(trial_in: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, ...]]:
    """A run whose worker and process are killed at once. The tests before its own are the time until it is missed."""
    trial = trial_in(tmp_path_factory.mktemp("orphan"))
    try:
        worker = trial.start_worker()
        run, stage = trial.begin("b")
        trial.lose(worker)
        yield trial, run, stage, time.time()
    finally:
        trial.end()


def test_a_worker_that_is_killed_leaves_its_job_running(trial: Any) -> None:
    worker = trial.start_worker()
    run, stage = trial.begin("a")
    os.kill(worker.pid, signal.SIGKILL)  # the flow's process continues, and its output has no reader
    time.sleep(60)
    before = trial.steps(stage)
    assert trial.jobs(stage) == ["RUNNING"] and trial.state(run) == "Running"
    trial.wait(lambda: trial.steps(stage) > before, 30)
    trial.set_steps(stage.parent, 1)
    assert trial.wait(lambda: trial.server.ended(run), 300)["state_name"] == "Completed"
    assert checkpoints(trial, stage) == [["SUCCEEDED"]] * 3


def test_a_connection_that_is_cut_for_a_minute_ends_nothing(trial: Any, proxy: Any) -> None:
    trial.start_worker()
    run, stage = trial.begin("c", address=f"http://127.0.0.1:{proxy.port}")
    proxy.cut()
    time.sleep(60)
    assert trial.state(run) == "Running"
    proxy.restore()
    trial.set_steps(stage.parent, 1)
    assert trial.wait(lambda: trial.server.ended(run), 300)["state_name"] == "Completed"
    assert checkpoints(trial, stage) == [["SUCCEEDED"]] * 3


def test_an_orphan_is_crashed_and_a_retry_and_a_new_run_follow_its_job(orphan: tuple[Any, ...]) -> None:
    trial, run, stage, lost = orphan
    trial.start_worker()
    trial.wait(lambda: trial.state(run) == "Crashed", lost + 300 - time.time())
    state = trial.server.call(f"/flow_runs/{run}")["state"]
    print(f"crashed {datetime.fromisoformat(state['timestamp']).timestamp() - lost:.0f} s after the loss")
    assert datetime.fromisoformat(state["timestamp"]).timestamp() - lost < 300
    assert trial.jobs(stage) == ["RUNNING"]
    other = trial.run(stage.parent)
    trial.wait(lambda: "following steadydancer-" in trial.log.read_text(), 200)
    trial.server.prefect("flow-run", "retry", run)
    trial.wait(lambda: trial.log.read_text().count("following steadydancer-") >= 2, 200)
    assert trial.jobs(stage) == ["RUNNING"] and trial.state(other) == trial.state(run) == "Running"
    # Both see the one job to its end; the one that comes second finds each stage done, or follows the other's job.
    trial.set_steps(stage.parent, 1)
    for one in (run, other):
        assert trial.wait(lambda one=one: trial.server.ended(one), 300)["state_name"] == "Completed"
    trial.end()  # the tests after this one have workers of their own
    lines = [json.loads(line)["step"] for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(len(lines)))
    assert {status for jobs in checkpoints(trial, stage) for status in jobs} == {"SUCCEEDED"}


def cancel_within_30_s(trial: Any, run: str, stage: Path) -> None:
    """Cancel a run; its job must be stopped within 30 s, and the run must end as Cancelled."""
    began = time.monotonic()
    trial.server.prefect("flow-run", "cancel", run)
    trial.wait(lambda: trial.jobs(stage) == ["STOPPED"], 120)
    stopped_s = time.monotonic() - began
    print(f"stopped {stopped_s:.0f} s after the request")
    assert stopped_s < 30
    assert trial.wait(lambda: trial.server.ended(run), 120)["state_name"] == "Cancelled"


def test_the_job_of_an_orphan_that_is_cancelled_is_stopped(trial: Any) -> None:
    worker = trial.start_worker()
    run, stage = trial.begin("e")
    trial.lose(worker)
    trial.start_worker()
    trial.wait(lambda: "started!" in trial.log.read_text(), 120)
    cancel_within_30_s(trial, run, stage)


def test_a_run_can_be_cancelled_after_an_outage_of_the_server(trial: Any) -> None:
    trial.start_worker()
    run, stage = trial.begin("d")
    trial.server.end(signal.SIGKILL)
    time.sleep(45)
    assert trial.jobs(stage) == ["RUNNING"]
    trial.server.begin()
    cancel_within_30_s(trial, run, stage)
    assert trial.jobs(stage.with_name("stage2")) == []
    assert not [line for line in trial.said_of(run) if "Traceback" in line]
    # A retry resumes the cancelled training at the step where it stopped.
    done = trial.steps(stage)
    trial.set_steps(stage.parent, done + 1)
    trial.server.prefect("flow-run", "retry", run)
    trial.wait(lambda: trial.steps(stage) == done + 1, 200)
    trial.set_steps(stage.parent, 1)
    trial.wait(lambda: (trial.server.ended(run) or {}).get("run_count") == 2, 300)
    assert trial.state(run) == "Completed" and trial.jobs(stage) == ["STOPPED", "SUCCEEDED"]
    steps = [json.loads(line)["step"] for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(done + 1))


def test_an_artifact_that_was_deleted_is_made_anew_by_a_retry(trial: Any) -> None:
    trial.start_worker()
    run, stage = trial.begin("f", steps=1)
    trial.wait(lambda: trial.server.ended(run), 300)
    for file in sorted((stage / "checkpoint").iterdir()):
        file.unlink()
    (stage / "checkpoint").rmdir()
    trial.server.prefect("flow-run", "retry", run)
    ended = trial.wait(lambda: (found := trial.server.ended(run)) and found["run_count"] == 2 and found, 300)
    assert ended["state_name"] == "Completed" and (stage / "checkpoint" / "run.json").is_file()
    assert trial.jobs(stage) == ["SUCCEEDED", "SUCCEEDED"]


def test_a_failure_is_told_in_few_words_without_configuration_or_traceback(trial: Any) -> None:
    trial.start_worker()
    out = trial.folder / "g"
    out.mkdir()
    (out / "steps").write_text("not a number")
    run = trial.run(out)
    ended = trial.wait(lambda: trial.server.ended(run), 300)
    message = ended["state"]["message"]
    assert ended["state_name"] == "Failed" and len(message) <= 500
    assert "ValueError: invalid literal for int() with base 10: 'not a number'" in message.splitlines()[0]
    said = trial.said_of(run)
    assert said and not [line for line in said if "Traceback" in line or '"curate"' in line]
    assert presets.load("tiny_cluster").model_dump_json()[:40] not in "".join(said)
