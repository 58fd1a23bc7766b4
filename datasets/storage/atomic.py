"""Files and folders that readers see whole or not at all, on this machine or (files) on an object store."""

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..file_names import aside_of
from .cache import scratch
from .files import Location
from .locations import location
from .s3 import ObjectPath, put


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str] | ObjectPath, keeps_suffix: bool = True) -> Iterator[Path]:
    """Yield a hidden path beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    For an object the hidden path is a file of this machine, and the renaming its upload. `keeps_suffix`: as for
    `aside_of`.
    """
    path = location(path)
    if isinstance(path, ObjectPath):
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            aside = Path(folder) / path.name
            yield aside
            put(aside, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path, keeps_suffix)
    try:
        yield aside
        sync(aside)
        aside.replace(path)
    except OSError as error:
        _name_file(error, path)
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def ordered_write(folder: Location, names: Sequence[str]) -> Iterator[Path]:
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
    with atomic_write(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def write_once(path: Path, data: bytes) -> None:
    """Write a file of this machine, whole or not at all, unless it exists; several machines may try at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `aside_of`: processes of several machines, which share the folder, can have the same number.
    aside = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    except OSError as error:
        _name_file(error, path)
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(
    path: Path, *, aside: Path | None = None, retire: Callable[[], object] | None = None, flush: bool = True
) -> Iterator[Path]:
    """Yield a new hidden folder beside `path`; rename it to `path` when the block ends well, remove it otherwise.

    Args:
        path: the folder to make, on this machine.
        aside: the hidden folder; None means `.NAME.tmp`, of which a killed process may have left some.
        retire: called just before the renaming, to move or remove the folder that `path` replaces.
        flush: write the files to the disk before the renaming.
    """
    aside = aside or path.with_name(f".{path.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for file in aside.rglob("*") if flush else ():
            if file.is_file():
                sync(file)
        if retire is not None:
            retire()
        aside.rename(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def sync(path: Path) -> None:
    """Write a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name_file(error: OSError, path: Path) -> None:
    """Arrow and full disks name no file; the errors of PyAV cannot be given one."""
    if error.filename is None:
        with contextlib.suppress(AttributeError):
            error.filename = str(path)
