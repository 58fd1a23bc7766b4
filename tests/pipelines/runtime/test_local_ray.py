"""A private Ray that cannot start gives one error that says what to do."""

from pathlib import Path

import pytest
import ray

from steadydancer import SteadyDancerError
from steadydancer.pipelines.runtime.local_ray import local_ray


def fails(message: str):
    def init(**_: object) -> None:
        raise Exception(message)

    return init


def test_a_start_that_takes_too_long_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails("The current node timed out during startup. This could happen because …"))
    with (
        pytest.raises(SteadyDancerError, match=r"Ray did not start in time .* Run the same command again"),
        local_ray(tmp_path),
    ):
        pass


def test_other_errors_of_ray_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fails("something else"))
    with pytest.raises(Exception, match="something else"), local_ray(tmp_path):
        pass
