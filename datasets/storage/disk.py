"""Writes to the local disk: flushing, temporary files, and errors that name their file."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def sync(path: Path) -> None:
    """Write a file's bytes or a folder's entries to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Set the file name of an `OSError` that lacks one, such as those of Arrow and of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            with contextlib.suppress(AttributeError):  # errors of PyAV do not accept a name
                error.filename = str(path)
        raise


@contextlib.contextmanager
def temporary_file(aside: Path, path: Path) -> Iterator[None]:
    """Make the folder of `path`, name `path` in errors, and remove the temporary file `aside` at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with errors_name(path):
            yield
    finally:
        aside.unlink(missing_ok=True)
