"""Training runs with `--out` on a store: work in a local folder, then upload the finished results.

Training states are rewritten every few minutes and only read by this machine, so they stay local, as do the weights
that are kept for `pick`. Uploaded are `checkpoint/` (its `run.json` last), `metrics.jsonl`, `start.json`, earlier and
picked checkpoints, the galleries and the report page.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...datasets.artifact import RECORD
from ...datasets.storage import Location, working_folder
from ...datasets.storage.copies import copy_atomically
from ...datasets.storage.files import files_below, name_below
from ..runtime.after_commit import after_commit
from .config import TrainConfig
from .metrics.report import PAGE
from .metrics_file import METRICS
from .run_folder import TrainingRefused, intact_states, read_json


def run_folder(out: Location) -> Path:
    """Return the folder a run works in: `out` itself, or a local working folder if `out` is on a store."""
    return working_folder(out)


def prepare_store_run(config: TrainConfig, out: Location, address: str | None) -> Path:
    """Return the local working folder of a run whose `out` is on a store.

    Raises:
        TrainingRefused: workers on other machines could not access that folder, or `out` holds a run whose training
            states are not on this machine.
    """
    local = run_folder(out)
    if address is not None:
        raise TrainingRefused(
            f"out: {out} is on an object store, but a cluster needs a folder that all its machines can access: set "
            "--out to a folder on a shared file system"
        )
    record = _record(out / "checkpoint")
    if record is None or any(intact_states(local)):
        return local
    if record["steps"] != config.steps:
        raise TrainingRefused(
            f"steps: {out} contains a checkpoint of {record['steps']} steps, but the training state to continue it is "
            f"not on this machine ({local}): choose another --out"
        )
    copy_atomically(out / "start.json", local / "start.json")  # enough to report that the run is finished
    copy_atomically(out / "checkpoint" / RECORD, local / "checkpoint" / RECORD)
    return local


def publish(local: Path, out: Location) -> None:
    """Upload a run's metrics, report page, galleries and checkpoints; finished uploads are not repeated."""
    for name in ("start.json", METRICS):
        if (local / name).exists():
            copy_atomically(local / name, out / name)
    with after_commit(f"{PAGE} and galleries of {out}", "run the same command again to upload what is missing"):
        if (local / PAGE).exists():
            copy_atomically(local / PAGE, out / PAGE)
        _publish_galleries(local / "gallery", out / "gallery")
    for folder in sorted(local.glob("checkpoint-[0-9]*")):
        publish_folder(folder, out / folder.name)
    publish_folder(local / "checkpoint", out / "checkpoint")


def _publish_galleries(folder: Path, target: Location) -> None:
    """Upload galleries that are new or have another record than on the store; videos go before the record."""
    uploaded = set(files_below(target))
    for gallery in sorted(folder.glob("*/")):
        record = gallery / RECORD
        is_same = record.exists() and _record(target / gallery.name) == json.loads(record.read_text())
        files = sorted((file for file in gallery.iterdir() if not is_same), key=lambda file: file == record)
        for file in files:
            place = target / gallery.name / file.name
            if record.exists() or place not in uploaded:
                copy_atomically(file, place)


def publish_folder(folder: Path, target: Location) -> None:
    """Upload a checkpoint, its record last, unless the store has the same one."""
    record = json.loads((folder / RECORD).read_text())
    if _record(target) == record:
        return
    (target / RECORD).unlink(missing_ok=True)  # unfinished until the new record is uploaded
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / RECORD]
    for file in files:
        copy_atomically(file, target / file.relative_to(folder).as_posix())
    names = {file.relative_to(folder).as_posix() for file in files}
    for uploaded in files_below(target):
        if name_below(uploaded, target) not in names:
            uploaded.unlink()
    copy_atomically(folder / RECORD, target / RECORD)


def _record(checkpoint: Location) -> dict[str, Any] | None:
    try:
        return read_json(checkpoint / RECORD)
    except FileNotFoundError:
        return None
