"""Fork a run: start from the newest training state of another run, with different settings."""

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

# A training state has the trained weights and the optimizer as sharded by the ZeRO stage. A run with other sharding,
# other trained weights or other frozen weights cannot load it. For another number of workers it is converted.
_FIXED_FIELDS = (
    *("stage", "zero_stage", "optimizer", "offload_optimizer", "dtype"),
    *("trained_weights", "lora_rank", "lora_targets"),
)
_FIXED = (*(f"config.{name}" for name in (*_FIXED_FIELDS, *NETWORK_FIELDS)), "base", "parent")


def begin_fork(fork: Path, out: Path, record: dict[str, Any]) -> None:
    """Copy the newest intact training state of the run in `fork`, and its metrics so far, to `out`, once.

    The files are hard-linked where possible: they never change.

    Raises:
        TrainingRefused: see `check_fork`.
    """
    state = check_fork(fork, out, record)
    if state is None:
        return
    _copy_state(fork, state.folder, out, state.steps)
    write_json(out / "forked.json", {"path": str(fork), "steps": state.steps, "changes": state.changes})


@dataclass(frozen=True)
class ForkedState:
    """Starting point of a fork: steps done, folder of the training state, and the changed settings."""

    steps: int
    folder: Path
    changes: list[str]


def check_fork(fork: Path, out: Path, record: dict[str, Any]) -> ForkedState | None:
    """Find the training state that a run in `out` would start from; None if it has already started. Writes nothing.

    Raises:
        TrainingRefused: `fork` has no intact state, this run cannot load it, or `out` was started differently.
    """
    known = forked_from(out)
    if known is not None or (out / "start.json").exists():
        if known is None or known["path"] != str(fork):
            begun = f"from {known['path']}" if known else "without --fork"
            raise TrainingRefused(f"fork: {out} was started {begun}; choose another --out")
        return None
    newest = newest_intact_state(fork)
    if newest is None:
        raise TrainingRefused(f"fork: {fork} has no intact training state: pass the --out of a run that has one")
    steps, state = newest
    parent = read_identity(fork, record)
    changes = list(differences(parent, comparable_identity(parent, record)))
    fixed = [change for change in changes if change.partition(":")[0].startswith(_FIXED)]
    if fixed:
        raise TrainingRefused(
            f"fork: the training state of {fork} cannot be loaded by a run with\n"
            + "\n".join(f"  {change}" for change in fixed)
        )
    if steps > record["config"]["steps"]:
        raise TrainingRefused(
            f"steps: {record['config']['steps']} steps requested, but {fork} already has {steps}: use at least {steps}"
        )
    return ForkedState(steps, state, changes)


def forked_from(out: Path) -> dict[str, Any] | None:
    """Read the forked run's folder, its steps, and the changed settings; None if the run started at step 0."""
    file = out / "forked.json"
    return read_json(file) if file.exists() else None


def _copy_state(fork: Path, state: Path, out: Path, steps: int) -> None:
    shutil.rmtree(out / "state", ignore_errors=True)  # of an attempt that was killed while copying
    (out / "state").mkdir(parents=True)
    shutil.copytree(state, out / "state" / state.name, copy_function=link_or_copy)
    if (before := fork / "state" / "before.json").exists():
        shutil.copy(before, out / "state")
    copy_metrics(fork, out, steps)
