"""Operations on files and folders that work the same for local paths and object stores.

A location is a `Path` or an `ObjectPath`. Both have `pathlib`'s methods (`/`, `is_file`, `read_text`, `unlink`, …);
the functions of this module cover the remaining differences. Code outside the storage package calls them and does not
check the type of a location.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .requests import call_with_retries, translated_errors
from .s3 import ObjectPath, children, describe, listing, prefixes

Location = Path | ObjectPath
RangeReader = Callable[[int, int], bytes]

_SETTLED_S = 2.0  # after this age, any further change of a folder changes its modification time
_LISTED_S = 60  # how long a listing of a store's folder is reused


def needs_download(place: Location) -> bool:
    """Return whether a location must be downloaded before a local program can read it."""
    return isinstance(place, ObjectPath)


def exists_locally(place: Location) -> bool:
    """Return whether a local file or folder exists. Sends no request to a store."""
    return isinstance(place, Path) and place.exists()


def sizes(places: Iterable[Location]) -> dict[Location, int | None]:
    """Return the size of each file in bytes, None if it does not exist. Objects of one bucket share a request."""
    places = list(places)
    objects = [place for place in places if isinstance(place, ObjectPath)]
    found: dict[Location, int | None] = {
        place: int(info.size or 0) if info.is_file else None
        for place, info in zip(objects, describe(objects), strict=True)
    }
    found |= {place: place.stat().st_size if place.is_file() else None for place in places if isinstance(place, Path)}
    return found


def size(place: Location) -> int | None:
    """Return the size of a file in bytes; None if it does not exist."""
    return sizes([place])[place]


def changed_ns(place: Location, and_status: bool = False) -> int | None:
    """Return the modification time of a file, with `and_status` also its status change; None if it does not exist."""
    if isinstance(place, ObjectPath):
        info = describe([place])[0]
        return info.mtime_ns if info.is_file else None
    try:
        status = place.stat()
    except OSError:
        return None
    return max(status.st_mtime_ns, status.st_ctime_ns if and_status else 0)


def is_another_file(place: Location, other: Location) -> bool:
    """Return whether `other`, listed in the folder of `place`, is a file and not another name for the same file."""
    if isinstance(place, Path) and isinstance(other, Path):
        return other.is_file() and not (place.exists() and place.samefile(other))
    return place != other


def blocking_file(folder: Location) -> Location | None:
    """Return the file that prevents creating a folder: at its path or above it. None in a store."""
    if isinstance(folder, ObjectPath):
        return None
    nearest = next((one for one in (folder, *folder.parents) if one.exists()), None)
    return nearest if nearest is not None and not nearest.is_dir() else None


def relative_path(place: Location, folder: Location) -> str | None:
    """Return the relative path from a folder to a location; None if only one is in a store or the buckets differ."""
    if isinstance(place, Path) and isinstance(folder, Path):
        return os.path.relpath(place.absolute(), folder.absolute())
    if isinstance(place, ObjectPath) and isinstance(folder, ObjectPath) and place.bucket == folder.bucket:
        return os.path.relpath(place.place, folder.place)
    return None


def name_below(place: Location, folder: Location) -> str:
    """Return the path of a location relative to a parent folder, with forward slashes."""
    if isinstance(place, ObjectPath) and isinstance(folder, ObjectPath):
        return place.key.removeprefix(folder.key).lstrip("/")
    assert isinstance(place, Path) and isinstance(folder, Path)
    return place.relative_to(folder).as_posix()


def names_in(folder: Location) -> list[str]:
    """Return the names of a folder's direct entries (in a store: its objects); empty if it does not exist."""
    if isinstance(folder, ObjectPath):
        return children(folder)
    try:
        with os.scandir(folder) as entries:
            return [one.name for one in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def listing_mark(folder: Location) -> int | None:
    """Return a value that changes when `names_in` may change; None if it cannot be relied on yet."""
    if isinstance(folder, ObjectPath):
        return int(time.monotonic() / _LISTED_S)
    changed_ns = folder.stat().st_mtime_ns
    return None if time.time() - changed_ns / 1e9 < _SETTLED_S else changed_ns


def files_in(folder: Location) -> list[Location]:
    """Return a folder's direct files; empty if it does not exist."""
    if isinstance(folder, ObjectPath):
        return [folder / name for name in children(folder)]
    return [entry for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []


def folders_in(folder: Location) -> list[Location]:
    """Return a folder's direct subfolders; empty if it does not exist."""
    if isinstance(folder, ObjectPath):
        return list(prefixes(folder))
    return [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []


def folders_with(folder: Location, names: Iterable[str]) -> set[Location]:
    """Return the direct subfolders that contain a file with one of these names."""
    if isinstance(folder, ObjectPath):
        found = [one.path for one in listing(folder)]
        names = set(names)
        return {one.parent for one in found if one.name in names and one.parent.parent == folder}
    return {file.parent for name in names for file in folder.glob(f"*/{name}")}


def files_below(folder: Location) -> list[Location]:
    """Return every file below a folder, including hidden ones, sorted."""
    if isinstance(folder, ObjectPath):
        return [one.path for one in listing(folder)]
    return sorted(file for file in folder.rglob("*") if file.is_file())


def total_bytes(folder: Location, suffix: str = "") -> int:
    """Return the total size in bytes of the finished (not hidden) files below a folder whose names end in `suffix`."""
    if isinstance(folder, ObjectPath):
        return sum(one.size for one in listing(folder) if one.path.name.endswith(suffix))
    files = (file for file in folder.rglob(f"*{suffix}") if file.is_file() and not file.name.startswith("."))
    return sum(file.stat().st_size for file in files)


def is_not_empty(place: Location) -> bool:
    """Return whether a location is a file or a non-empty folder; hidden claims of runs in a store are ignored."""
    if isinstance(place, ObjectPath):
        return place.is_file() or any(not one.path.name.startswith(".") for one in listing(place))
    return place.exists() and (not place.is_dir() or any(place.iterdir()))


def remove_folder(folder: Location, first: str) -> None:
    """Remove a folder, its file `first` before the others, so that a half-removed folder does not look finished."""
    (folder / first).unlink(missing_ok=True)
    if isinstance(folder, ObjectPath):
        for one in listing(folder):
            one.path.unlink(missing_ok=True)
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
    if folder.is_dir():
        folder.rmdir()


@contextlib.contextmanager
def opened(place: Location) -> Iterator[Any]:
    """Yield a binary file to read from; errors of a store in the block are raised as `StorageError`."""
    if isinstance(place, ObjectPath):
        with place.open() as stream, translated_errors(place):
            yield stream
    else:
        with place.open("rb") as file:
            yield file


@contextlib.contextmanager
def range_reader(place: Location) -> Iterator[RangeReader]:
    """Yield a function `(offset, size) → bytes` that reads a file; of an object it fetches only those ranges."""
    if isinstance(place, ObjectPath):
        with place.open() as stream:
            yield lambda offset, size: bytes(call_with_retries(place, lambda: stream.read_at(size, offset)))
    else:
        with place.open("rb") as file:
            yield lambda offset, size: os.pread(file.fileno(), size, offset)


def store_errors(place: Location) -> AbstractContextManager[None]:
    """Translate errors of a store in the block to `StorageError`; do nothing for a local path."""
    return translated_errors(place) if isinstance(place, ObjectPath) else contextlib.nullcontext()


def arrow_source(place: Location) -> Any:
    """Return a file that Arrow's readers accept; use it within `store_errors`."""
    return place.open() if isinstance(place, ObjectPath) else place
