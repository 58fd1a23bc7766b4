"""Files and folders of either kind: what can be asked of a place, and done with it, wherever it is.

A place is a `Path` or an `ObjectPath`. Both have `pathlib`'s verbs (`/`, `is_file`, `read_text`, `unlink`, …); what
those leave different is answered here, once. Code outside the storage modules takes these functions and never asks
which of the two a place is.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .requests import attempt, translated_errors
from .s3 import ObjectPath, children, describe, listing, prefixes

Location = Path | ObjectPath
RangeReader = Callable[[int, int], bytes]

_SETTLED_S = 2.0  # a folder that was changed so long ago shows every further change by its time
_LISTED_S = 60  # how long a listing of a store's folder is believed


def needs_download(place: Location) -> bool:
    """Whether the content of a place has to be fetched before a program of this machine can read it."""
    return isinstance(place, ObjectPath)


def exists_locally(place: Location) -> bool:
    """Whether a file or folder of this machine is at a place. Never asks a store."""
    return isinstance(place, Path) and place.exists()


def file_url(place: Location) -> str | None:
    """Return the address that a browser opens; None for a store, to which browsers follow no link."""
    return place.absolute().as_uri() if isinstance(place, Path) else None


def sizes(places: Iterable[Location]) -> dict[Location, int | None]:
    """Return the size of each file in bytes, None where there is no file. Objects of one bucket are asked at once."""
    places = list(places)
    objects = [place for place in places if isinstance(place, ObjectPath)]
    found: dict[Location, int | None] = {
        place: int(info.size or 0) if info.is_file else None
        for place, info in zip(objects, describe(objects), strict=True)
    }
    found |= {place: place.stat().st_size if place.is_file() else None for place in places if isinstance(place, Path)}
    return found


def size(place: Location) -> int | None:
    """Return the size of a file in bytes; None if there is no file."""
    return sizes([place])[place]


def changed_ns(place: Location, and_status: bool = False) -> int | None:
    """Return when a file was last written, or with `and_status` put in its place; None if there is none."""
    if isinstance(place, ObjectPath):
        info = describe([place])[0]
        return info.mtime_ns if info.is_file else None
    try:
        status = place.stat()
    except OSError:
        return None
    return max(status.st_mtime_ns, status.st_ctime_ns if and_status else 0)


def is_another_file(place: Location, other: Location) -> bool:
    """Whether `other`, a name out of a listing of the folder of `place`, is a file and not another name of the same."""
    if isinstance(place, Path) and isinstance(other, Path):
        return other.is_file() and not (place.exists() and place.samefile(other))
    return place != other


def blocking_file(folder: Location) -> Location | None:
    """Return the file at which a folder cannot be made, itself or above it; objects are in nobody's way."""
    if isinstance(folder, ObjectPath):
        return None
    there = next((one for one in (folder, *folder.parents) if one.exists()), None)
    return there if there is not None and not there.is_dir() else None


def relative_path(place: Location, folder: Location) -> str | None:
    """Return the relative path from a folder to a place; None if only one is on a store, or the buckets differ."""
    if isinstance(place, Path) and isinstance(folder, Path):
        return os.path.relpath(place.absolute(), folder.absolute())
    if isinstance(place, ObjectPath) and isinstance(folder, ObjectPath) and place.bucket == folder.bucket:
        return os.path.relpath(place.place, folder.place)
    return None


def name_below(place: Location, folder: Location) -> str:
    """Return the name of a place inside a folder above it, with slashes."""
    if isinstance(place, ObjectPath) and isinstance(folder, ObjectPath):
        return place.key.removeprefix(folder.key).lstrip("/")
    assert isinstance(place, Path) and isinstance(folder, Path)
    return place.relative_to(folder).as_posix()


def names_in(folder: Location) -> list[str]:
    """Return the names of what is in a folder itself, of a store's folder the objects; none if there is no folder."""
    if isinstance(folder, ObjectPath):
        return children(folder)
    try:
        with os.scandir(folder) as entries:
            return [one.name for one in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def listing_mark(folder: Location) -> int | None:
    """Return a value that is another as soon as `names_in` may say something else; None: it may at any moment."""
    if isinstance(folder, ObjectPath):
        return int(time.monotonic() / _LISTED_S)
    changed_ns = folder.stat().st_mtime_ns
    return None if time.time() - changed_ns / 1e9 < _SETTLED_S else changed_ns


def files_in(folder: Location) -> list[Location]:
    """Return the files in a folder itself; none if there is no folder."""
    if isinstance(folder, ObjectPath):
        return [folder / name for name in children(folder)]
    return [entry for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []


def folders_in(folder: Location) -> list[Location]:
    """Return the folders in a folder itself; none if there is no folder."""
    if isinstance(folder, ObjectPath):
        return list(prefixes(folder))
    return [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []


def folders_with(folder: Location, names: Iterable[str]) -> set[Location]:
    """Return the folders in a folder that have a file of one of these names."""
    if isinstance(folder, ObjectPath):
        found = [one.path for one in listing(folder)]
        names = set(names)
        return {one.parent for one in found if one.name in names and one.parent.parent == folder}
    return {file.parent for name in names for file in folder.glob(f"*/{name}")}


def files_below(folder: Location) -> list[Location]:
    """Return every file below a folder, hidden ones too, sorted."""
    if isinstance(folder, ObjectPath):
        return [one.path for one in listing(folder)]
    return sorted(file for file in folder.rglob("*") if file.is_file())


def total_bytes(folder: Location) -> int:
    """Return what the finished files below a folder weigh together."""
    if isinstance(folder, ObjectPath):
        return sum(one.size for one in listing(folder))
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


def is_not_empty(place: Location) -> bool:
    """Whether a place is a file, or a folder that is not empty; the hidden claims of runs on a store do not count."""
    if isinstance(place, ObjectPath):
        return place.is_file() or any(not one.path.name.startswith(".") for one in listing(place))
    return place.exists() and (not place.is_dir() or any(place.iterdir()))


def remove_folder(folder: Location, first: str) -> None:
    """Remove a folder, its file `first` before all else: what is half gone does not look finished."""
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
    """Yield a file to read bytes from; what a store answers in the block is raised as `StorageError`."""
    if isinstance(place, ObjectPath):
        with place.open() as stream, translated_errors(place):
            yield stream
    else:
        with place.open("rb") as file:
            yield file


@contextlib.contextmanager
def range_reader(place: Location) -> Iterator[RangeReader]:
    """Yield `(offset, size) → bytes` of a file; of an object only the ranges asked for are fetched."""
    if isinstance(place, ObjectPath):
        with place.open() as stream:
            yield lambda offset, size: bytes(attempt(place, lambda: stream.read_at(size, offset)))
    else:
        with place.open("rb") as file:
            yield lambda offset, size: os.pread(file.fileno(), size, offset)


def store_errors(place: Location) -> AbstractContextManager[None]:
    """Raise as `StorageError` what a store answers in the block."""
    return translated_errors(place) if isinstance(place, ObjectPath) else contextlib.nullcontext()


def arrow_source(place: Location) -> Any:
    """Return what Arrow's readers take for a file; for use in `store_errors`."""
    return place.open() if isinstance(place, ObjectPath) else place
