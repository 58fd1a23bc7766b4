"""Atomic writes: readers see a complete file or folder, or none. Files may also be in an object store."""

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
from .cache import scratch_dir
from .disk import sync, temporary_file
from .files import Location
from .locations import location
from .s3 import ObjectPath, upload_file


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str] | ObjectPath, keeps_suffix: bool = True) -> Iterator[Path]:
    """Yield a hidden path beside `path`; rename it to `path` if the block succeeds, remove it otherwise.

    For an object, the hidden path is a local file that is uploaded instead of renamed. `keeps_suffix`: see `aside_of`.
    """
    path = location(path)
    if isinstance(path, ObjectPath):
        with tempfile.TemporaryDirectory(dir=scratch_dir()) as folder:
            aside = Path(folder) / path.name
            yield aside
            upload_file(aside, path)
        return
    aside = aside_of(path, keeps_suffix)
    with temporary_file(aside, path):
        yield aside
        sync(aside)
        aside.replace(path)


@contextlib.contextmanager
def ordered_write(folder: Location, names: Sequence[str]) -> Iterator[Path]:
    """Yield a local folder to write these files in, each atomically and in this order.

    This is `folder` itself. For a folder in a store it is a temporary one, uploaded if the block succeeds.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with tempfile.TemporaryDirectory(dir=scratch_dir()) as temporary:
        yield Path(temporary)
        for name in names:
            upload_file(Path(temporary) / name, folder / name)


def begin_folder(folder: Location) -> None:
    """Make a folder and remove incomplete files of killed processes. Does nothing for a store."""
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.rglob(".*.tmp*"):
            leftover.unlink()


def write_json(path: str | os.PathLike[str] | ObjectPath, value: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        ValueError: `value` contains NaN or infinity, which JSON does not support; use None for unmeasured values.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def write_once(path: Path, data: bytes) -> None:
    """Write a local file atomically unless it exists. Several machines may call this at the same time."""
    # Not `aside_of`: machines that share the folder can have processes with the same id.
    aside = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    with temporary_file(aside, path), contextlib.suppress(FileExistsError):
        aside.write_bytes(data)
        sync(aside)
        os.link(aside, path)


@contextlib.contextmanager
def atomic_folder(
    path: Path, *, aside: Path | None = None, retire: Callable[[], object] | None = None, flush: bool = True
) -> Iterator[Path]:
    """Yield a new hidden folder beside `path`; rename it to `path` if the block succeeds, remove it otherwise.

    Args:
        path: the local folder to create.
        aside: the hidden folder; None means `.NAME.tmp`. Leftovers of a killed process in it are removed first.
        retire: called just before the rename, to move or remove the folder that `path` replaces.
        flush: whether to flush the files to disk before the rename.
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
