"""The contract of one step: a function on one row, with what it reads, adds and needs standing next to it.

A bad clip is marked and kept (`BadClip`); a fault of the code stops the job (`StageFault`).
"""

import textwrap
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import SteadyDancerError
from ...datasets.schema import Row


class BadClip(Exception):
    """The clip, not the code, is at fault.

    Args:
        reason: one of the verdict classes (`unreadable`, `truncated`, ...).
        detail: the error's own words.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Keep both for the row."""
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class StageFault(RuntimeError):
    """The code failed on a row. Carries words only, so that it crosses process borders whole."""

    def __init__(self, stage: str, row_id: str, error: str, place: str, trace: str) -> None:
        """Name the stage, the row, the original exception, its line and its whole traceback."""
        super().__init__(stage, row_id, error, place, trace)
        self.stage, self.row_id, self.error, self.place, self.trace = stage, row_id, error, place, trace

    def __str__(self) -> str:
        return f"stage `{self.stage}`, clip {self.row_id}: {self.error} (at {self.place})"


@dataclass(frozen=True)
class Stage:
    """One step of a job.

    Args:
        name: as the walk names it.
        function: `(row, config, tools) -> row | list of rows`; pure but for the files it reads.
        reads: columns it needs.
        adds: columns it writes.
        load: `(config) -> tools`, called once per worker: models and other dear things.
        num_cpus, num_gpus: what one worker takes while it runs; fractions are allowed.
        meter: running totals of this process (`{name: number}`); by how much they grew in this stage is told beside
            its seconds.
    """

    name: str
    function: Callable[[Row, Any, Any], "Row | list[Row]"]
    reads: tuple[str, ...]
    adds: tuple[str, ...]
    load: Callable[[Any], Any] | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    meter: Callable[[], dict[str, float]] | None = None

    def apply(self, row: Row, config: Any, tools: Any = None) -> list[Row]:
        """Rows that come of one row. Rows that already have a verdict pass untouched.

        Raises:
            StageFault: the function failed for another reason than the clip.
        """
        if row.get("verdict") is not None:
            return [row]
        try:
            out = self.function(row, config, tools)
        except BadClip as bad:
            return [{**row, "verdict": "quarantined", "reason": bad.reason, "detail": bad.detail}]
        except (OSError, SteadyDancerError):
            raise  # a full disk or a lost mount is neither the clip's nor the code's fault
        except Exception as error:
            raise stage_fault(self.name, _row_label(row), error) from error
        return out if isinstance(out, list) else [out]

    def load_tools(self, config: Any) -> Any:
        """What `load` gives, None without one.

        Raises:
            StageFault: the code failed; what a person can mend passes as it is.
        """
        try:
            return self.load(config) if self.load else None
        except (OSError, SteadyDancerError):
            raise
        except Exception as error:
            raise stage_fault(self.name, "none yet: loading", error) from error


def stage_fault(stage: str, row_id: str, error: Exception) -> StageFault:
    """Put an exception into words: which row, which line of ours or of a library."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    # Some libraries' messages fill a screen; the whole of it is in the trace.
    words = textwrap.shorten(f"{type(error).__name__}: {error}", 400, placeholder=" …")
    return StageFault(stage, row_id, words, place, traceback.format_exc())


def _row_label(row: Row) -> str:
    """What a person finds the row by: its id, and the file it is of."""
    file = row.get("source_path") or row.get("driving") or row.get("video")
    return f"{row.get('clip_id') or row.get('id')} ({file})"


def run_stages(
    stages: list[Stage], rows: list[Row], config: Any, tools: list[Any]
) -> tuple[list[Row], dict[str, float]]:
    """All rows of a packet through stages in order; returns them, and the seconds that each stage took.

    One row goes all the way before the next begins: what a decoder keeps of a file is for that row's later stages.
    Beside the seconds stand the sums of the stages' meters.
    """
    numbers = {stage.name: 0.0 for stage in stages}
    out: list[Row] = []
    for row in rows:
        on_its_way = [row]
        for stage, tool in zip(stages, tools, strict=True):
            before = stage.meter() if stage.meter else {}
            start = time.perf_counter()
            on_its_way = [one for each in on_its_way for one in stage.apply(each, config, tool)]
            numbers[stage.name] += time.perf_counter() - start
            for name, total in (stage.meter() if stage.meter else {}).items():
                numbers[name] = numbers.get(name, 0.0) + total - before.get(name, 0)
        out += on_its_way
    return out, numbers
