"""Files that readers see whole or not at all, on this machine or on an object store."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .file_names import aside_of
from .files import Location
from .node_cache import scratch
from .object_store import ObjectPath, put
from .storage import location


@contextlib.contextmanager
def written_aside(path: str | os.PathLike[str] | ObjectPath) -> Iterator[Path]:
    """Yield a hidden path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    For an object the hidden path is a file of this machine, and the renaming its upload.
    """
    path = location(path)
    if isinstance(path, ObjectPath):
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            aside = Path(folder) / path.name
            yield aside
            put(aside, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        if error.filename is None:  # Arrow and full disks name no file
            error.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def written_in_order(folder: Location, names: Sequence[str]) -> Iterator[Path]:
    """Yield a folder of this machine in which to write these files, each whole and in this order.

    It is `folder` itself; for one on a store, it is a temporary one whose files are uploaded when the block ends well.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with tempfile.TemporaryDirectory(dir=scratch()) as here:
        yield Path(here)
        for name in names:
            put(Path(here) / name, folder / name)


def begin_folder(folder: Location) -> None:
    """Make a folder, and remove what killed processes have left half written in it; a store has neither."""
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.rglob(".*.tmp*"):
            leftover.unlink()


def write_json(path: str | os.PathLike[str] | ObjectPath, value: Any) -> None:
    """Write a JSON file so that readers see all of it or none.

    Raises:
        ValueError: NaN or infinity, which JSON does not have; what was not measured is None.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with written_aside(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")
