"""A training run whose results go to a store: it works in a folder of this machine, and uploads what is finished.

Engine states are rewritten every few minutes and read by this machine alone, so they stay here. On the store lie
`checkpoint/` (its `run.json` last), `metrics.jsonl`, `start.json`, the checkpoints of fewer steps, the galleries and
the page that shows them. Weights that are kept for picking stay here, too: a picked checkpoint is uploaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...datasets.artifact import RECORD
from ...datasets.storage import Location, working_folder
from ...datasets.storage.copies import copy_whole
from ...datasets.storage.files import files_below, name_below
from ..runtime.after_commit import after_commit
from .config import TrainConfig
from .metrics.report import PAGE
from .run_folder import TrainingRefused, intact_states, read_json


def run_folder(out: Location) -> Path:
    """Where a run works: its own folder, or for one on a store this machine's folder for it."""
    return working_folder(out)


def prepare_store_run(config: TrainConfig, out: Location, address: str | None) -> Path:
    """The folder of this machine in which the run works.

    Raises:
        TrainingRefused: workers of other machines would not see that folder, or `out` holds a run of which this
            machine knows nothing.
    """
    here = run_folder(out)
    if address is not None:
        raise TrainingRefused(
            f"out: {out} is on a store, and the machines of a cluster need a folder that all of them see: give --out "
            "a folder on a shared file system"
        )
    there = _record(out / "checkpoint")
    if there is None or any(intact_states(here)):
        return here
    if there["steps"] != config.steps:
        raise TrainingRefused(
            f"steps: {out} holds a checkpoint of {there['steps']} steps, and what it could be continued from "
            f"is not on this machine (in {here}): choose another --out"
        )
    copy_whole(out / "start.json", here / "start.json")  # enough to say that it is finished, and of what
    copy_whole(out / "checkpoint" / RECORD, here / "checkpoint" / RECORD)
    return here


def publish(here: Path, out: Location) -> None:
    """Upload a run's checkpoints that are not there yet, and its metrics; what is there and finished stays."""
    for name in ("start.json", "metrics.jsonl"):
        if (here / name).exists():
            copy_whole(here / name, out / name)
    with after_commit(f"{PAGE} and galleries of {out}", "the same command, given again, uploads what is missing"):
        if (here / PAGE).exists():
            copy_whole(here / PAGE, out / PAGE)
        _publish_galleries(here / "gallery", out / "gallery")
    for folder in sorted(here.glob("checkpoint-[0-9]*")):
        publish_folder(folder, out / folder.name)
    publish_folder(here / "checkpoint", out / "checkpoint")


def _publish_galleries(folder: Path, target: Location) -> None:
    """What is not there yet; a gallery that was made anew has another record, and its videos go before it."""
    there = set(files_below(target))
    for gallery in sorted(folder.glob("*/")):
        record = gallery / RECORD
        is_same = record.exists() and _record(target / gallery.name) == json.loads(record.read_text())
        files = sorted((file for file in gallery.iterdir() if not is_same), key=lambda file: file == record)
        for file in files:
            place = target / gallery.name / file.name
            if record.exists() or place not in there:
                copy_whole(file, place)


def publish_folder(folder: Path, target: Location) -> None:
    """Upload a checkpoint, its record last, unless the same one is there."""
    record = json.loads((folder / RECORD).read_text())
    if _record(target) == record:
        return
    (target / RECORD).unlink(missing_ok=True)  # from here until the new one lies there, the checkpoint is unfinished
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / RECORD]
    for file in files:
        copy_whole(file, target / file.relative_to(folder).as_posix())
    names = {file.relative_to(folder).as_posix() for file in files}
    for there in files_below(target):
        if name_below(there, target) not in names:
            there.unlink()
    copy_whole(folder / RECORD, target / RECORD)


def _record(checkpoint: Location) -> dict[str, Any] | None:
    try:
        return read_json(checkpoint / RECORD)
    except FileNotFoundError:
        return None
