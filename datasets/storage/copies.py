"""Copy finished files: by hard link or server-side copy where possible."""

import os
import shutil
from pathlib import Path

from .atomic import atomic_write
from .files import Location, files_in, remove_folder
from .s3 import ObjectPath, copy, download_file, upload_file


def copy_atomically(source: Location, target: Location) -> None:
    """Copy `source` to `target` atomically: by hard link, copy, upload, download or server-side copy."""
    if isinstance(target, ObjectPath) and isinstance(source, ObjectPath):
        copy(source, target)
    elif isinstance(target, ObjectPath):
        assert isinstance(source, Path)
        upload_file(source, target)
    else:
        with atomic_write(target) as aside:
            if isinstance(source, ObjectPath):
                download_file(source, aside)
            else:
                link_or_copy(source, aside)


def move_folder(source: Location, target: Location, last: str) -> None:
    """Move a folder of files to a path that does not exist: by renaming, or in a store by copies, the file `last` last.

    A copy that was interrupted is repeated by the next call; the source then still has the file `last`.
    """
    if isinstance(source, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        return
    for file in sorted(files_in(source), key=lambda file: file.name == last):
        copy_atomically(file, target / file.name)
    remove_folder(source, last)


def fetch_if_remote(place: Location, folder: Path) -> Path:
    """Return a local path unchanged; download an object into `folder`, without using the cache."""
    if isinstance(place, Path):
        return place
    download_file(place, folder / place.name)
    return folder / place.name


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make `target` a hard link to `source`, or a copy where links are not supported. Replaces an existing file."""
    Path(target).unlink(missing_ok=True)  # leftover of a killed process with the same id, possibly a link
    try:
        os.link(source, target)
    except OSError:  # a different file system, or one without hard links
        shutil.copyfile(source, target)
