"""Row stages: a function on one row, with the columns it reads and adds and the resources it needs.

A bad clip is quarantined (`BadClip`); an error of the code stops the job (`StageFault`).
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
    """A clip that cannot be processed; its row is quarantined.

    Args:
        reason: reason code (`unreadable`, `truncated`, ...).
        detail: message of the error.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Store reason and detail for the row."""
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class StageFault(RuntimeError):
    """The code failed on a row. Holds strings only, so that it can be pickled between processes."""

    def __init__(self, stage: str, row_id: str, error: str, place: str, trace: str) -> None:
        """Store the stage, the row, the original exception, its source line and its full traceback."""
        super().__init__(stage, row_id, error, place, trace)
        self.stage, self.row_id, self.error, self.place, self.trace = stage, row_id, error, place, trace

    def __str__(self) -> str:
        return f"stage `{self.stage}`, clip {self.row_id}: {self.error} (at {self.place})"


@dataclass(frozen=True)
class Stage:
    """One row stage of a job.

    Args:
        name: name of the stage.
        function: `(row, config, tools) -> row | list of rows`; pure except for the files it reads.
        reads: columns it needs.
        adds: columns it writes.
        load: `(config) -> tools`, called once per worker: models and other expensive objects.
        num_cpus, num_gpus: resources of one worker while it runs; fractions are allowed.
        pool: name of the workers that run it. Pools run side by side, each on another packet; consecutive stages with
            the same pool share workers. Empty: stages with the same resources share workers.
        num_workers: workers of its pool; None: decided by the pool's resources and the machine.
        is_bottleneck: whether more workers of the pool make the job faster; the others need only keep up.
        meter: running totals of this process (`{name: number}`); their increase during the stage is reported with its
            seconds.
    """

    name: str
    function: Callable[[Row, Any, Any], "Row | list[Row]"]
    reads: tuple[str, ...]
    adds: tuple[str, ...]
    load: Callable[[Any], Any] | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    pool: str = ""
    num_workers: int | None = None
    is_bottleneck: bool = False
    meter: Callable[[], dict[str, float]] | None = None

    def apply(self, row: Row, config: Any, tools: Any = None) -> list[Row]:
        """Apply the stage to one row; a row that already has a verdict is returned unchanged.

        Raises:
            StageFault: the function failed for a reason other than the clip.
        """
        if row.get("verdict") is not None:
            return [row]
        try:
            out = self.function(row, config, tools)
        except BadClip as bad:
            return [{**row, "verdict": "quarantined", "reason": bad.reason, "detail": bad.detail}]
        except (OSError, SteadyDancerError):
            raise  # a full disk or a lost mount is caused neither by the clip nor by the code
        except Exception as error:
            raise stage_fault(self.name, _row_label(row), error) from error
        return out if isinstance(out, list) else [out]

    def load_tools(self, config: Any) -> Any:
        """Call `load` and return its result; None without `load`.

        Raises:
            StageFault: the code failed; errors that the user can fix are raised unchanged.
        """
        try:
            return self.load(config) if self.load else None
        except (OSError, SteadyDancerError):
            raise
        except Exception as error:
            raise stage_fault(self.name, "none (loading)", error) from error


def stage_fault(stage: str, row_id: str, error: Exception) -> StageFault:
    """Build a `StageFault` from an exception, with the row and the source line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).parent.name}/{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
    # Some libraries' messages fill a screen; the full text is in the traceback.
    words = textwrap.shorten(f"{type(error).__name__}: {error}", 400, placeholder=" …")
    return StageFault(stage, row_id, words, place, traceback.format_exc())


def _row_label(row: Row) -> str:
    """Return a row's id and file, for messages."""
    file = row.get("source_path") or row.get("driving") or row.get("video")
    return f"{row.get('clip_id') or row.get('id')} ({file})"


def run_stages(
    stages: list[Stage], rows: list[Row], config: Any, tools: list[Any]
) -> tuple[list[Row], dict[str, float]]:
    """Run all rows of a packet through the stages in order; return the rows, and the seconds of each stage.

    A row passes all stages before the next row starts, so that later stages reuse the decoder's cache of its file.
    The seconds include the sums of the stages' meters, under the meters' names.
    """
    numbers = {stage.name: 0.0 for stage in stages}
    out: list[Row] = []
    for row in rows:
        current = [row]
        for stage, tool in zip(stages, tools, strict=True):
            before = stage.meter() if stage.meter else {}
            start = time.perf_counter()
            current = [one for each in current for one in stage.apply(each, config, tool)]
            numbers[stage.name] += time.perf_counter() - start
            for name, total in (stage.meter() if stage.meter else {}).items():
                numbers[name] = numbers.get(name, 0.0) + total - before.get(name, 0)
        out += current
    return out, numbers
