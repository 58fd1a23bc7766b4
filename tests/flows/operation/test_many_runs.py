"""Twenty runs at once, within the limits that an operator sets, share one job."""

import json
import time
from typing import Any

import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

NUM = 20


def test_twenty_runs_at_once_keep_to_the_limits_and_submit_one_job(trial: Any) -> None:
    """The queue of a deployment is limited first, then the pool; then nothing is, and all follow the one job."""
    server = trial.server
    server.prefect("work-queue", "set-concurrency-limit", "train", "2", "--pool", "local")
    trial.start_worker()
    run, stage = trial.begin("many")
    runs = [run, *(trial.run(stage.parent) for _ in range(NUM - 1))]

    def occupied() -> int:
        found = server.call("/flow_runs/filter", {"flow_runs": {"id": {"any_": runs}}})
        return sum(one["state_type"] in ("RUNNING", "PENDING") for one in found)

    def stays(number: int) -> None:
        trial.wait(lambda: occupied() == number, 200)
        for _ in range(20):
            time.sleep(0.5)
            assert occupied() == number

    try:
        stays(2)
        server.prefect("work-pool", "set-concurrency-limit", "local", "4")
        server.prefect("work-queue", "clear-concurrency-limit", "train", "--pool", "local")
        stays(4)
    finally:
        server.prefect("work-queue", "clear-concurrency-limit", "train", "--pool", "local")
        server.prefect("work-pool", "clear-concurrency-limit", "local")
    began = time.monotonic()
    trial.wait(lambda: all(trial.state(one) == "Running" for one in runs), 600)
    trial.wait(lambda: trial.log.read_text().count("following steadydancer-") >= NUM - 1, 300)
    print(f"all {NUM} run {time.monotonic() - began:.0f} s after the limit was lifted")
    assert trial.jobs(stage) == ["RUNNING"]
    trial.set_steps(stage.parent, 1)
    ended = [trial.wait(lambda one=one: server.ended(one), 900)["state_name"] for one in runs]
    print(f"all {NUM} had ended after {time.monotonic() - began:.0f} s")
    assert ended == ["Completed"] * NUM
    for number in (1, 2, 3):
        made = stage.with_name(f"stage{number}")
        steps = [json.loads(line)["step"] for line in (made / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(len(steps)))  # no two jobs trained in the same folder
        assert set(trial.jobs(made)) == {"SUCCEEDED"}
    said = (server.folder / "server.log").read_text()
    assert "database is locked" not in said and "deadlock" not in said
