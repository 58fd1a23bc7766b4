"""Find the galleries of a run: which exist, which are missing, and why one failed. Nothing heavy is loaded.

OUT/gallery/clips/KEY-{reference.png,pose.mp4,truth.mp4}   inputs and ground truth, the same for every gallery
OUT/gallery/step-NNNNNN/KEY.mp4, run.json                  one gallery, present only when it is complete
OUT/gallery/failed-NNNNNN.json                             why the gallery of that step could not be rendered
"""

from __future__ import annotations

import contextlib
import json
import logging
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ....datasets.artifact import RECORD
from ....datasets.rules import with_absent
from ....datasets.storage import Location
from ....datasets.storage.atomic import write_json
from ....datasets.storage.files import files_in
from ...common.older_versions import absent_fields
from ..config import GalleryConfig, TrainConfig
from ..run_folder import read_json

_log = logging.getLogger(__name__)

REFERENCE_MEDIA = ("reference.png", "pose.mp4", "truth.mp4")
_EXCLUDED = {"every_steps", "num_gpus", "max_seconds"}  # settings that do not affect the videos


def gallery_name(steps: int) -> str:
    """Return the path, below the run's folder, of the gallery after `steps`."""
    return f"gallery/step-{steps:06d}"


def clip_name(key: str, name: str) -> str:
    """Return the path, below the run's folder, of one of the `REFERENCE_MEDIA` of a clip."""
    return f"gallery/clips/{key}-{name}"


def trained_folder(out: Path, steps: int) -> Path:
    """Return the folder of the trained weights after `steps`."""
    return out / "trained" / f"step-{steps:06d}"


def checkpoint_folders(out: Path) -> dict[int, Path]:
    """Map steps to the run's checkpoint folders: the last one, picked ones, and those that were continued."""
    folders = [*out.glob("checkpoint-[0-9]*"), out / "checkpoint"]
    return {read_json(place / RECORD)["steps"]: place for place in folders if (place / RECORD).exists()}


def trained_steps(out: Path) -> list[int]:
    """List the steps whose trained weights are kept, in order."""
    return sorted(_steps_of(record.parent) for record in (out / "trained").glob(f"step-*/{RECORD}"))


def gallery_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that affect a gallery's videos, apart from the weights."""
    return config.gallery.model_dump(mode="json", exclude=_EXCLUDED)


def gallery_records(out: Location, steps: list[int]) -> dict[int, dict[str, Any]]:
    """Read the records of the finished galleries among these steps."""
    records = {step: out / gallery_name(step) / RECORD for step in steps}
    return {step: json.loads(file.read_text()) for step, file in records.items() if file.is_file()}


def missing_galleries(out: Path, config: TrainConfig, attempt: str = "") -> list[int]:
    """List the steps that have weights but no gallery with the current settings.

    Galleries that failed in this `attempt` are logged and skipped; the next start retries them.
    """
    if config.gallery.num_clips == 0:
        return []
    steps = sorted({*trained_steps(out), *checkpoint_folders(out)})
    earlier = absent_fields(GalleryConfig)
    finished = {
        step
        for step, record in gallery_records(out, steps).items()
        if with_absent(record["settings"], gallery_settings(config), earlier) == gallery_settings(config)
    }
    failed = {step for step, failure in gallery_failures(out).items() if failure["attempt"] == attempt}
    return [step for step in steps if step not in finished | failed]


def gallery_failures(out: Location) -> dict[int, dict[str, Any]]:
    """Map steps to `reason` and `attempt` of the galleries that could not be rendered."""
    files = sorted(file for file in files_in(out / "gallery") if fnmatch(file.name, "failed-*.json"))
    return {int(file.stem.removeprefix("failed-")): json.loads(file.read_text()) for file in files}


def record_failure(out: Path, steps: int, reason: str, attempt: str) -> None:
    """Log and store why a gallery could not be rendered; errors in writing the file are ignored."""
    _log.warning("the gallery at step %d could not be rendered: %s", steps, reason)
    with contextlib.suppress(OSError):
        write_json(_failure_file(out, steps), {"reason": reason, "attempt": attempt})


def clear_failure(out: Path, steps: int) -> None:
    """Remove the stored failure of a gallery that is now rendered."""
    _failure_file(out, steps).unlink(missing_ok=True)


def _failure_file(out: Path, steps: int) -> Path:
    return out / "gallery" / f"failed-{steps:06d}.json"


def _steps_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
