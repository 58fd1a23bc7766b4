"""A bad clip is marked and kept, a fault stops the job and names its line."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from steadydancer import SteadyDancerError
from steadydancer.datasets.schema import Row
from steadydancer.pipelines.runtime.stage import BadClip, Stage, StageFault, run_stages


def stage(function: Any, **options: Any) -> Stage:
    return Stage("work", function, ("id",), ("value",), **options)


def test_a_bad_clip_is_marked_and_passes_later_stages_untouched() -> None:
    def first(row: Row, config: Any, tools: Any) -> Row:
        if row["id"] == "b":
            raise BadClip("truncated", "half of it")
        return {**row, "value": 1}

    def second(row: Row, config: Any, tools: Any) -> list[Row]:
        return [{**row, "value": row["value"] + i} for i in range(2)]

    rows, seconds = run_stages([stage(first), stage(second)], [{"id": "a"}, {"id": "b"}], None, [None, None])
    assert rows == [
        {"id": "a", "value": 1},
        {"id": "a", "value": 2},
        {"id": "b", "verdict": "quarantined", "reason": "truncated", "detail": "half of it"},
    ]
    assert list(seconds) == ["work"]


def test_a_fault_names_stage_clip_exception_and_line_and_crosses_processes_whole() -> None:
    def function(row: Row, config: Any, tools: Any) -> Row:
        return {**row, "value": 1 // row["zero"]}

    with pytest.raises(StageFault) as caught:
        stage(function).apply({"clip_id": "abc", "source_path": "/clips/x.mp4", "zero": 0}, None)
    fault = pickle.loads(pickle.dumps(caught.value))
    assert (fault.stage, fault.row_id) == ("work", "abc (/clips/x.mp4)")
    assert fault.error == "ZeroDivisionError: integer division or modulo by zero"
    line = function.__code__.co_firstlineno + 1
    assert fault.place == f"runtime/{Path(__file__).name}:{line} in function"
    assert fault.trace.startswith("Traceback") and 'row["zero"]' in fault.trace


def test_an_error_that_fills_a_screen_is_cut() -> None:
    def function(row: Row, config: Any, tools: Any) -> Row:
        raise RuntimeError("many words\n" * 500)

    with pytest.raises(StageFault) as caught:
        stage(function).apply({"id": "a"}, None)
    assert len(caught.value.error) <= 400 and "\n" not in caught.value.error
    assert caught.value.trace.count("many words\n") == 500


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SteadyDancerError("give --components")])
def test_what_a_person_can_mend_is_neither_the_clips_fault_nor_the_codes(error: Exception) -> None:
    def function(*_: Any) -> Row:
        raise error

    with pytest.raises(type(error)) as caught:
        stage(function).apply({"id": "a"}, None)
    assert caught.value is error
    with pytest.raises(type(error)):
        stage(function, load=function).load_tools(None)


def test_a_fault_in_loading_names_the_stage() -> None:
    def load(config: Any) -> Any:
        raise ValueError("no such weights")

    with pytest.raises(StageFault, match=r"stage `work`, clip none \(loading\): ValueError: no such weights"):
        stage(load, load=load).load_tools(None)


def test_a_row_goes_all_the_way_before_the_next_begins_and_meters_are_summed() -> None:
    steps: list[str] = []

    def walk(name: str) -> Any:
        def function(row: Row, config: Any, tools: Any) -> list[Row]:
            steps.append(f"{row['id']}{name}")
            return [row] * (2 if name == "1" else 1)

        return function

    def meter() -> dict[str, float]:
        return {"steps": len(steps), "never": 0}

    stages = [stage(walk("1"), meter=meter), Stage("more", walk("2"), ("id",), ("value",), meter=meter)]
    rows, numbers = run_stages(stages, [{"id": "a"}, {"id": "b"}], None, [None, None])
    assert steps == ["a1", "a2", "a2", "b1", "b2", "b2"]
    assert [row["id"] for row in rows] == ["a", "a", "b", "b"]
    assert numbers["steps"] == 6 and numbers["never"] == 0 and numbers.keys() == {"work", "more", "steps", "never"}
