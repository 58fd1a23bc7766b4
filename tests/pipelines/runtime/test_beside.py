"""Jobs beside others: in Ray workers if Ray runs, and otherwise when their result is asked for."""

import os
from pathlib import Path

import pytest

from steadydancer import SteadyDancerError
from steadydancer.flows.demo.other_jobs import train_stage
from steadydancer.flows.presets import load
from steadydancer.pipelines.runtime.beside import beside
from steadydancer.pipelines.runtime.local_ray import local_ray


def test_without_ray_a_job_runs_when_its_result_is_asked_for() -> None:
    made: list[int] = []
    wait = beside(made.append, 1)
    assert made == []
    wait()
    assert made == [1]


def test_with_ray_jobs_run_in_workers_and_raise_their_own_exception(tmp_path: Path) -> None:
    with local_ray(tmp_path / "ray"):
        worker = beside(lambda: os.getpid())  # Ray takes no built-in function
        refused = beside(train_stage, load("toydance_demo"), 1, tmp_path, "missing", tmp_path / "out", tmp_path)
        assert worker() != os.getpid()
        with pytest.raises(SteadyDancerError, match="from_checkpoint"):
            refused()
