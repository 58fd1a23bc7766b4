"""Finished files in a second place, without reading them where that can be helped."""

import os
import shutil
from pathlib import Path

from .atomic import atomic_write
from .files import Location
from .s3 import ObjectPath, copy, get, put


def copy_whole(source: Location, target: Location) -> None:
    """Make `target` of `source`, so that it appears whole: a hard link, a copy, or the store's own copy."""
    if isinstance(target, ObjectPath) and isinstance(source, ObjectPath):
        copy(source, target)
    elif isinstance(target, ObjectPath):
        assert isinstance(source, Path)
        put(source, target)
    else:
        with atomic_write(target) as aside:
            if isinstance(source, ObjectPath):
                get(source, aside)
            else:
                link_or_copy(source, aside)


def fetch_if_remote(place: Location, folder: Path) -> Path:
    """Return a local file itself, or a copy of an object in `folder` that nothing else keeps."""
    if isinstance(place, Path):
        return place
    get(place, folder / place.name)
    return folder / place.name


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Make `target` a hard link to `source`, or a copy where the file system has no links. Replaces what is there."""
    Path(target).unlink(missing_ok=True)  # of a process of the same number that was killed: it may be a link
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
