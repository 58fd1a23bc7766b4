"""What a training run leaves on disk, and how each piece is committed.

OUT/start.json              configuration and digests of the inputs, written before the first step
OUT/metrics.jsonl           one line a step
OUT/state/before.json       the objective on the fixed samples before the first step
OUT/state/step-NNNNNN/      engine state after that many steps, see `states`
OUT/state/stop              somebody asked the run to stop after its step
OUT/checkpoint/             transformer/, lora/ (stages 1 and 3), run.json written last, then the rename
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ... import SteadyDancerError
from ...datasets.artifact import RECORD, content_digest, write_json, written_aside
from ...datasets.storage import Location

COMPLETE = "complete.json"


class TrainingRefused(SteadyDancerError, ValueError):
    """A run cannot go on as asked; the message names the field and says what to do."""


class NonFiniteError(SteadyDancerError, FloatingPointError):
    """A sample or a loss holds NaN or infinity; the message names it. Nothing of it has reached the weights."""


def engine_states(out: Path) -> Iterator[tuple[int, Path]]:
    """(steps done, folder) of the complete engine states of a run, newest first. Torn ones are passed over."""
    for folder in sorted((out / "state").glob("step-*"), reverse=True):
        if _is_complete(folder):
            yield int(folder.name.removeprefix("step-")), folder


def steps_done(out: Path) -> int:
    """Steps behind the newest complete engine state of a run; 0 if there is none."""
    return next((steps for steps, _ in engine_states(out)), 0)


def _is_complete(folder: Path) -> bool:
    try:
        files = json.loads((folder / COMPLETE).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_metrics(out: Path, row: dict[str, Any]) -> None:
    """Add one line to the run's metrics."""
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The run's metrics, one row a step; a line that a kill cut off is left out."""
    rows = []
    file = out / "metrics.jsonl"
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cut_metrics(out: Path, steps_done: int) -> None:
    """Remove the lines of steps that will be taken again."""
    kept = [row for row in read_metrics(out) if row["step"] < steps_done]
    with written_aside(out / "metrics.jsonl") as aside:
        aside.write_text("".join(json.dumps(row) + "\n" for row in kept))


def commit_checkpoint(out: Path, write: Callable[[Path], None], record: dict[str, Any]) -> None:
    """Make OUT/checkpoint: the parts beside it, then run.json, then the rename.

    A checkpoint of fewer steps of the same run is kept as OUT/checkpoint-NNNNNN: a committed folder never changes.
    """
    aside, place = out / ".checkpoint.tmp", out / "checkpoint"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write(aside)
    for file in aside.rglob("*"):
        if file.is_file():
            _sync(file)
    write_json(aside / RECORD, {**record, "digest": content_digest(aside / "transformer")})
    if place.exists():
        steps = json.loads((place / RECORD).read_text())["steps"]
        place.rename(out / f"checkpoint-{steps:06d}")
    aside.rename(place)


def read_checkpoint_record(checkpoint: Location) -> dict[str, Any]:
    """run.json of a committed checkpoint folder; the run's folder that holds `checkpoint/` is taken too.

    Raises:
        TrainingRefused: there is no finished checkpoint there.
    """
    file = checkpoint_folder(checkpoint) / RECORD
    if not file.exists():
        raise TrainingRefused(f"from_checkpoint: {checkpoint} holds no finished checkpoint (no {RECORD} in it)")
    return dict(json.loads(file.read_text()))


def checkpoint_folder(path: Location) -> Location:
    """`path` itself, or `path`/checkpoint when `path` is a run's folder."""
    inner = path / "checkpoint"
    return inner if not (path / RECORD).exists() and inner.exists() else path
