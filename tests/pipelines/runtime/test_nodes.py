"""A request that no node can meet ends with what was asked and what is there, and not before nodes had time to come."""

import threading
import time
from typing import Any

import pytest

from steadydancer.pipelines.runtime import nodes
from steadydancer.pipelines.runtime.nodes import NodesMissing, Workers, shortage, watch_nodes

THREE = [{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]
GPUS = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 16.0, "GPU": 4.0}]


@pytest.mark.parametrize(
    ("wanted", "there", "words"),
    [
        ([Workers(3, 1, 0)], THREE, None),
        (
            [Workers(8, 1, 0)],
            THREE,
            "8 workers with 1 CPU each asked for, but the cluster has 3 nodes with 0 GPU and 3",
        ),
        ([Workers(1, 2, 0)], THREE, "1 worker with 2 CPU asked for"),  # three cores, but on three machines
        ([Workers(1, 1, 0.25)], THREE, "1 worker with 0.25 GPU and 1 CPU asked for"),
        ([Workers(8, 0, 1)], GPUS, None),
        ([Workers(9, 0, 1)], GPUS, "9 workers with 1 GPU each"),
        ([Workers(1, 0, 8)], GPUS, "1 worker with 8 GPU asked for"),
        ([Workers(6, 0, 1), Workers(6, 0, 0.5)], GPUS, "9 GPU asked for at the same time, but the cluster has 8"),
        ([Workers(8, 0, 1), Workers(1, 0, 1, waits=True)], GPUS, None),  # after the eight
        ([Workers(6, 0, 1), Workers(1, 0, 5, waits=True)], GPUS, "1 worker with 5 GPU asked for"),
        ([Workers(1, 0.1, 0.1)] * 3, [{"CPU": 0.3, "GPU": 0.3}], None),  # shares add up
        ([Workers(1, 1, 0)], [], "0 nodes"),
        ([Workers(4, 0, 0)], THREE, None),
    ],
)
def test_what_is_asked_is_compared_with_what_idle_nodes_have(wanted: Any, there: Any, words: str | None) -> None:
    found = shortage(wanted, there)
    assert found is None if words is None else found is not None and words in found


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The living nodes of a cluster, which tests change."""
    living: list[Any] = list(THREE)
    monkeypatch.setattr(nodes, "_CHECK_S", 0.05)
    monkeypatch.setattr(nodes, "_living_nodes", lambda: list(living))
    return living


def test_a_job_that_waits_in_vain_is_ended(there: list[Any], capfd: pytest.CaptureFixture[str]) -> None:
    waits = threading.Event()  # as Ray does: without end, in the main thread
    with pytest.raises(NodesMissing) as missing, watch_nodes("train stage 1", [Workers(8, 1, 0)], 0.3):
        try:
            waits.wait(60)
        except Exception:  # a library that tries again
            waits.wait(60)
    words = "train stage 1: 8 workers with 1 CPU each asked for, but the cluster has 3 nodes"
    assert str(missing.value).startswith(words) and len(str(missing.value)) < 300
    assert "waiting up to 0.3 s for nodes" in capfd.readouterr().err


def test_an_interrupt_of_a_person_stays_one(there: list[Any]) -> None:
    with pytest.raises(KeyboardInterrupt), watch_nodes("train", [Workers(8, 1, 0)], 60):
        raise KeyboardInterrupt


def test_a_node_that_is_lost_in_the_middle_is_missed(there: list[Any]) -> None:
    with pytest.raises(NodesMissing, match="2 nodes"), watch_nodes("train", [Workers(3, 1, 0)], 0.2):
        time.sleep(0.4)
        there.pop()
        time.sleep(60)


def test_nodes_that_come_in_time_are_waited_for(there: list[Any]) -> None:
    with watch_nodes("train", [Workers(4, 1, 0)], 5.0):
        time.sleep(0.3)
        there.append({"CPU": 1.0})
        time.sleep(0.3)


def test_a_head_that_does_not_answer_is_no_missing_node(monkeypatch: pytest.MonkeyPatch, there: list[Any]) -> None:
    monkeypatch.setattr(nodes, "_living_nodes", lambda: None)
    with watch_nodes("train", [Workers(4, 1, 0)], 0.05):
        time.sleep(0.3)


def test_an_error_of_the_job_is_its_own(there: list[Any]) -> None:
    with pytest.raises(LookupError), watch_nodes("train", [Workers(8, 1, 0)], 60):
        raise LookupError
