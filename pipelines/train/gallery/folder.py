"""Find the galleries of a run: which exist, which are missing, and why one failed. Nothing heavy is loaded.

OUT/gallery/clips/KEY-{reference.png,pose.mp4,truth.mp4}   what every gallery is looked at beside
OUT/gallery/step-NNNNNN/KEY.mp4, run.json                  one gallery, there only when it is whole
OUT/gallery/failed-NNNNNN.json                             why the gallery of that step could not be made
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

OF_EACH_CLIP = ("reference.png", "pose.mp4", "truth.mp4")
_NOT_SEEN = {"every_steps", "num_gpus", "max_seconds"}  # settings that no video depends on


def gallery_name(steps: int) -> str:
    """Where in the run's folder the gallery of the weights after so many steps lies."""
    return f"gallery/step-{steps:06d}"


def clip_name(key: str, name: str) -> str:
    """Where in the run's folder one of `OF_EACH_CLIP` lies."""
    return f"gallery/clips/{key}-{name}"


def trained_folder(out: Path, steps: int) -> Path:
    """Where the trained weights after so many steps are kept."""
    return out / "trained" / f"step-{steps:06d}"


def checkpoint_folders(out: Path) -> dict[int, Path]:
    """The run's checkpoints by their steps: its last one, and those that were picked or continued."""
    folders = [*out.glob("checkpoint-[0-9]*"), out / "checkpoint"]
    return {read_json(place / RECORD)["steps"]: place for place in folders if (place / RECORD).exists()}


def trained_steps(out: Path) -> list[int]:
    """Steps whose trained weights are kept, in order."""
    return sorted(_steps_of(record.parent) for record in (out / "trained").glob(f"step-*/{RECORD}"))


def gallery_settings(config: TrainConfig) -> dict[str, Any]:
    """What decides a gallery's videos, beside the weights."""
    return config.gallery.model_dump(mode="json", exclude=_NOT_SEEN)


def gallery_records(out: Location, steps: list[int]) -> dict[int, dict[str, Any]]:
    """Records of those galleries of these steps that are there."""
    records = {step: out / gallery_name(step) / RECORD for step in steps}
    return {step: json.loads(file.read_text()) for step, file in records.items() if file.is_file()}


def missing_galleries(out: Path, config: TrainConfig, attempt: str = "") -> list[int]:
    """Steps whose weights are there and whose gallery, with the present settings, is not.

    What this `attempt` at the run could not make is left out: it is told, and the next attempt tries it again.
    """
    if config.gallery.num_clips == 0:
        return []
    steps = sorted({*trained_steps(out), *checkpoint_folders(out)})
    earlier = absent_fields(GalleryConfig)
    there = {
        step
        for step, record in gallery_records(out, steps).items()
        if with_absent(record["settings"], gallery_settings(config), earlier) == gallery_settings(config)
    }
    given_up = {step for step, failure in gallery_failures(out).items() if failure["attempt"] == attempt}
    return [step for step in steps if step not in there | given_up]


def gallery_failures(out: Location) -> dict[int, dict[str, Any]]:
    """`reason` and `attempt` of the galleries that could not be made, by their steps."""
    files = sorted(file for file in files_in(out / "gallery") if fnmatch(file.name, "failed-*.json"))
    return {int(file.stem.removeprefix("failed-")): json.loads(file.read_text()) for file in files}


def record_failure(out: Path, steps: int, reason: str, attempt: str) -> None:
    """Keep why a gallery could not be made; a disk that takes no note either is no reason to stop."""
    _log.warning("the gallery of %d steps could not be made: %s", steps, reason)
    with contextlib.suppress(OSError):
        write_json(_failure_file(out, steps), {"reason": reason, "attempt": attempt})


def clear_failure(out: Path, steps: int) -> None:
    """The gallery is there now."""
    _failure_file(out, steps).unlink(missing_ok=True)


def _failure_file(out: Path, steps: int) -> Path:
    return out / "gallery" / f"failed-{steps:06d}.json"


def _steps_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))
