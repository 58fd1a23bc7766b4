"""A new run that begins where another one stands, with other settings."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....datasets.storage.atomic import write_json
from ....datasets.storage.copies import link_or_copy
from ....datasets.storage.digests import differences
from ..config import NETWORK_FIELDS
from ..run_folder import TrainingRefused, copy_metrics, newest_intact_state, read_json
from .inputs import comparable_identity, read_identity

# An engine state holds the trained weights and the optimizer as ZeRO's stage cuts them up: a run that cuts them
# otherwise, trains others, or has other frozen ones beside them cannot read it. For other workers it is converted.
_FIXED_FIELDS = ("stage", "zero_stage", "offload_optimizer", "dtype", "lora_rank", "lora_targets")
_FIXED = (*(f"config.{name}" for name in (*_FIXED_FIELDS, *NETWORK_FIELDS)), "base", "parent")


def begin_fork(fork: Path, out: Path, record: dict[str, Any]) -> None:
    """Put the newest complete engine state of the run in `fork`, and its metrics so far, into `out`, once.

    The states' files are shared by hard links where the file system has them: nobody ever changes one.

    Raises:
        TrainingRefused: as `check_fork`.
    """
    state = check_fork(fork, out, record)
    if state is None:
        return
    _copy_state(fork, state.folder, out, state.steps)
    write_json(out / "forked.json", {"path": str(fork), "steps": state.steps, "changes": state.changes})


@dataclass(frozen=True)
class ForkedState:
    """Where a fork would begin: steps behind it, the engine state's folder, and what is set otherwise from there."""

    steps: int
    folder: Path
    changes: list[str]


def check_fork(fork: Path, out: Path, record: dict[str, Any]) -> ForkedState | None:
    """What a run in `out` would begin from; None if it has begun from there. Nothing is written.

    Raises:
        TrainingRefused: there is no such state, this run could not read it, or `out` was begun otherwise.
    """
    known = forked_from(out)
    if known is not None or (out / "start.json").exists():
        if known is None or known["path"] != str(fork):
            begun = f"from {known['path']}" if known else "without --fork"
            raise TrainingRefused(f"fork: {out} was begun {begun}; choose another --out")
        return None
    newest = newest_intact_state(fork)
    if newest is None:
        raise TrainingRefused(f"fork: {fork} holds no complete engine state: give the --out of a run that has one")
    steps, state = newest
    theirs = read_identity(fork, record)
    changes = list(differences(theirs, comparable_identity(theirs, record)))
    fixed = [change for change in changes if change.partition(":")[0].startswith(_FIXED)]
    if fixed:
        raise TrainingRefused(
            f"fork: the state of {fork} cannot be read by a run with\n" + "\n".join(f"  {change}" for change in fixed)
        )
    if steps > record["config"]["steps"]:
        raise TrainingRefused(f"steps: {fork} has {steps} steps behind it already, {record['config']['steps']} asked")
    return ForkedState(steps, state, changes)


def forked_from(out: Path) -> dict[str, Any] | None:
    """The other run's folder, its steps, and what was changed; None for a run that began at step 0."""
    file = out / "forked.json"
    return read_json(file) if file.exists() else None


def _copy_state(fork: Path, state: Path, out: Path, steps: int) -> None:
    shutil.rmtree(out / "state", ignore_errors=True)  # of an attempt that was killed in here
    (out / "state").mkdir(parents=True)
    shutil.copytree(state, out / "state" / state.name, copy_function=link_or_copy)
    if (before := fork / "state" / "before.json").exists():
        shutil.copy(before, out / "state")
    copy_metrics(fork, out, steps)
