"""Parse paths and `s3://` addresses that users give, and make their content available as local files.

A local path becomes a plain `Path`. `s3://…` becomes an `ObjectPath`, which has the same methods; functions that work
on both are in `files`. Code that needs local files calls `local_copy` or `local_folder`; code that writes a folder of
results calls `working_folder`.
"""

import contextlib
import errno
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote_to_bytes

from .cache import cached_entry, scratch_dir
from .files import Location, relative_path
from .requests import StorageError
from .s3 import Entry, ObjectPath, download_file, listing, upload_file

FILE_SCHEME = "file://"

_open_entries = contextlib.ExitStack()
_view_folders: dict[str, Path] = {}


def is_address(place: object) -> bool:
    """Return whether a location, as a user writes it, is an address and not a local path."""
    return "://" in str(place)


def location(place: str | os.PathLike[str] | ObjectPath) -> Location:
    """Parse a path, `s3://BUCKET/KEY`, or `file:///PATH` with percent-encoded bytes.

    Raises:
        SteadyDancerError: the address has another scheme, or contains credentials or settings.
    """
    if isinstance(place, ObjectPath):
        return place
    if str(place).startswith(f"{FILE_SCHEME}/"):
        return Path(os.fsdecode(unquote_to_bytes(str(place).removeprefix(FILE_SCHEME))))
    return ObjectPath.parse(str(place)) if is_address(place) else Path(place)


def format_location(place: Location) -> str:
    """Format a location for a table: its path, or `file:///…%XX…` if the path is not valid UTF-8."""
    name = str(place)
    return name if is_utf8(name) else Path(name).absolute().as_uri()


named = format_location  # the name under which other programs import it


def is_utf8(name: str) -> bool:
    """Return whether a file name is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:  # Python represents bytes that are not UTF-8 as surrogates
        return False
    return True


def join(folder: Location, name: str) -> Location:
    """Resolve a name from a file in `folder`: relative to the folder, absolute, or an address."""
    if is_address(name) or Path(name).is_absolute():
        return location(name)
    return folder / name


def relative(place: Location, folder: Location) -> str:
    """Return the name of a location for a file in `folder`, such that `join` resolves it.

    Local locations get a relative path, so both can be moved together; in a store, only direct children of `folder` do.
    """
    if isinstance(place, Path) and (path := relative_path(place, folder)) is not None:
        return path
    return place.name if place.parent == folder else str(place.absolute())


def state_folder(out: Location) -> Path:
    """Return the folder for a run's local files (logs, a private Ray): within a local `out`, otherwise in scratch."""
    if isinstance(out, Path):
        return out / ".engine"
    return scratch_dir() / "state" / sha256(str(out).encode()).hexdigest()[:16]


def working_folder(out: Location) -> Path:
    """Return the local folder in which to produce the results for `out`: `out` itself, or its `state_folder`.

    If they differ, upload the finished results to `out` (see `publish`).
    """
    return out if isinstance(out, Path) else state_folder(out)


def local_folder(folder: Location, patterns: Iterable[str]) -> Path:
    """Return a local folder with the files below `folder` whose names match a pattern (`*` also matches slashes).

    A local folder is returned as it is. Copies, one for each top-level name, are cached at least as long as this
    process is alive, and fetched again if their content changes.

    Raises:
        StorageError: the store denies access or cannot be reached.
    """
    if isinstance(folder, Path):
        return folder
    patterns, parts = list(patterns), dict[str, list[Entry]]()
    for one in listing(folder):
        name = one.path.key.removeprefix(f"{folder.key}/")
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            parts.setdefault(name.split("/")[0], []).append(one)
    view = scratch_dir() / "views" / entries_key([one for found in parts.values() for one in found])
    view.mkdir(parents=True, exist_ok=True)
    for name, found in parts.items():
        key = entries_key(found)
        if key not in _view_folders:
            _view_folders[key] = _open_entries.enter_context(cached_entry(key, partial(fetch_entries, found, folder)))
        with contextlib.suppress(FileExistsError):
            (view / name).symlink_to(_view_folders[key] / name)
    return view


def publish(folder: Path, target: Location, last: str) -> None:
    """Upload a finished folder, the file `last` at the end: once it exists, all files do."""
    assert isinstance(target, ObjectPath), target
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    for file in sorted(files, key=lambda file: file == folder / last):
        upload_file(file, target / file.relative_to(folder).as_posix())


def entries_key(found: list[Entry], *more: list[str]) -> str:
    """Return a cache key from the path, size and modification time of some objects."""
    listed: list[object] = [(str(one.path), one.size, one.modified_ns) for one in found]
    return sha256(repr([*listed, *more]).encode()).hexdigest()


def fetch_entries(found: list[Entry], base: ObjectPath, folder: Path) -> None:
    """Download objects below `base` into a folder, under their names.

    Raises:
        StorageError: an object changed while it was read, or the store cannot be reached.
    """
    for one in found:
        target = folder / one.path.key.removeprefix(f"{base.key}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        download_file(one.path, target)
        if target.stat().st_size != one.size:
            raise StorageError(errno.EIO, "the object changed while it was read: run the command again", str(one.path))
