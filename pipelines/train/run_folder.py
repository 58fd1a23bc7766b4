"""Files of a training run, and how each is committed.

OUT/start.json              configuration and digests of the inputs, written before the first step
OUT/metrics.jsonl           one line per step
OUT/state/before.json       the loss on the fixed samples before the first step
OUT/state/step-NNNNNN/      training state after that many steps, see `resume.states`
OUT/state/stop              request to stop the run after the current step
OUT/checkpoint/             transformer/, lora/ (stages 1 and 3), run.json written last, then the rename
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ... import SteadyDancerError
from ...datasets.artifact import RECORD
from ...datasets.artifact_lookup import WORDS, describe_artifacts
from ...datasets.storage import Location
from ...datasets.storage.atomic import atomic_folder, atomic_write, write_json
from ...datasets.storage.digests import content_digest
from .integrity import find_damage, warn_damaged_state
from .metrics_file import METRICS, read_lines


class TrainingRefused(SteadyDancerError, ValueError):
    """The settings or inputs of a run do not work; the message names the field and the remedy."""


class NonFiniteError(SteadyDancerError, FloatingPointError):
    """A sample, a loss or a gradient is not finite; the message names it. The weights were not updated."""


class NotWritten(SteadyDancerError, OSError):
    """A file of a run could not be written, usually because the disk is full; earlier files are untouched."""


def intact_states(out: Path) -> Iterator[tuple[int, Path]]:
    """Yield (steps done, folder) of the intact training states of a run, newest first.

    Each process verifies the checksums of a state once. Incomplete and damaged states are skipped with a warning.
    """
    for steps, folder in state_folders(out):
        damage = find_damage(folder)
        if damage is None:
            yield steps, folder
        else:
            warn_damaged_state(folder, damage)


def newest_intact_state(out: Path) -> tuple[int, Path] | None:
    """Return the first of `intact_states`; None for a run that has no states at all.

    Raises:
        TrainingRefused: all states are damaged, so the run would restart at step 0.
    """
    newest = next(intact_states(out), None)
    if newest is None and state_folders(out):
        raise no_intact_state_error(out)
    return newest


def no_intact_state_error(out: Path) -> TrainingRefused:
    """Build the exception for a run whose training states are all damaged."""
    (_, newest), *others = state_folders(out)
    return TrainingRefused(
        f"state: all {1 + len(others)} training states in {out / 'state'} are damaged ({newest.name}: "
        f"{find_damage(newest)}), so the run would restart at step 0: restore one from a copy, or delete them all to "
        "restart"
    )


def state_folders(out: Path) -> list[tuple[int, Path]]:
    """List (steps done, folder) of every folder named like a training state, newest first."""
    folders = (out / "state").glob("step-[0-9]*")
    return sorted(((int(folder.name.removeprefix("step-")), folder) for folder in folders), reverse=True)


def steps_done(out: Path) -> int:
    """Return the steps of the newest training state with complete files; 0 if none. Checksums are not verified."""
    return next((steps for steps, folder in state_folders(out) if find_damage(folder, None) is None), 0)


def append_metrics(out: Path, row: dict[str, Any]) -> None:
    """Add one line to the run's metrics.

    Raises:
        NotWritten: the disk is full; the next attempt removes the incomplete line.
    """
    file = out / METRICS
    try:
        with file.open("a") as opened:
            opened.write(json.dumps(row) + "\n")
    except OSError as error:
        raise NotWritten(
            f"disk: cannot append to {file} ({error}): free disk space, then run the same command to resume"
        ) from error


def cut_metrics(out: Path, steps_done: int) -> None:
    """Remove the lines of steps that will be repeated; damaged lines before them are left as they are."""
    copy_metrics(out, out, steps_done)


def copy_metrics(source: Path, target: Path, steps_done: int) -> None:
    """Copy the metrics of the first `steps_done` steps from one run's folder to another."""
    lines = read_lines(source)
    last = max((i for i, line in enumerate(lines) if line.row and line.row["step"] < steps_done), default=-1)
    kept = [line.text for line in lines[: last + 1] if line.row is None or line.row["step"] < steps_done]
    with atomic_write(target / METRICS) as aside:
        aside.write_bytes(b"".join(text + b"\n" for text in kept))


def commit_checkpoint(out: Path, write: Callable[[Path], None], record: dict[str, Any]) -> None:
    """Write OUT/checkpoint: components in a temporary folder, then run.json, then the rename.

    An earlier checkpoint of the same run is renamed to OUT/checkpoint-NNNNNN: a committed folder never changes.

    Raises:
        NotWritten: the disk is full.
    """
    place = out / "checkpoint"

    def retire() -> None:
        if place.exists():
            place.rename(out / f"checkpoint-{read_json(place / RECORD)['steps']:06d}")

    try:
        with atomic_folder(place, retire=retire) as aside:
            write(aside)
            write_json(aside / RECORD, {**record, "digest": content_digest(aside / "transformer")})
    except (OSError, SafetensorError) as error:
        raise NotWritten(
            f"disk: the checkpoint of {record['steps']} steps could not be written to {place} ({error}); its training "
            "state is intact: free disk space, then run the same command to write it again"
        ) from error


def read_checkpoint_record(checkpoint: Location) -> dict[str, Any]:
    """Read run.json of a committed checkpoint folder, or of the run's folder that contains `checkpoint/`.

    Raises:
        TrainingRefused: the folder has no finished checkpoint.
    """
    file = checkpoint_folder(checkpoint) / RECORD
    if not file.exists():
        found = describe_artifacts(checkpoint)
        words = f"contains {found}, not a checkpoint" if found else f"contains no finished checkpoint (no {RECORD})"
        words = "is a file" if checkpoint.is_file() else words
        raise TrainingRefused(f"from_checkpoint: {checkpoint} {words}: pass OUT/checkpoint of the previous stage")
    record = read_json(file)
    if (kind := record.get("kind", "checkpoint")) != "checkpoint":
        words = f"contains {WORDS.get(kind, kind)}, not a checkpoint of a stage"
        raise TrainingRefused(f"from_checkpoint: {checkpoint} {words}: pass OUT/checkpoint of the previous stage")
    return record


def read_json(file: Location) -> dict[str, Any]:
    """Read a JSON record of a run or a checkpoint.

    Raises:
        TrainingRefused: the file is damaged.
    """
    try:
        return dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError) as error:
        raise TrainingRefused(
            f"{file} is damaged ({error}) and cannot be rebuilt from the other files: restore it from a copy, or "
            "choose another --out"
        ) from error


def checkpoint_folder(path: Location) -> Location:
    """Return `path` itself, or `path`/checkpoint when `path` is a run's folder."""
    inner = path / "checkpoint"
    return inner if not (path / RECORD).exists() and inner.exists() else path
