"""Parse paths and `s3://` addresses that users give, and make their content available as local files.

A local path becomes a plain `Path`. `s3://…` becomes an `ObjectPath`, which has the same methods; functions that work
on both are in `files`. Code that needs a local file calls `local_copy` or `local_folder`; code that writes a folder of
results calls `working_folder`.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from ..sidecars import SIDECARS, AnyPlace, candidates, file_exists, find
from .cache import cached_entry, scratch
from .files import Location, relative_path, total_bytes
from .requests import StorageError
from .s3 import Entry, ObjectPath, describe, entry, get, listing, put

__all__ = ["Location", "ObjectPath", "StorageError", "format_location", "is_address", "join", "local_copy",
           "local_folder", "location", "publish", "relative", "state_folder", "total_bytes",
           "working_folder"]  # fmt: skip

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
    return name if _is_utf8(name) else Path(name).absolute().as_uri()


def _is_utf8(name: str) -> bool:
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
    return scratch() / "state" / sha256(str(out).encode()).hexdigest()[:16]


def working_folder(out: Location) -> Path:
    """Return the local folder in which to produce the results for `out`: `out` itself, or its `state_folder`.

    If they differ, upload the finished results to `out` (see `publish`).
    """
    return out if isinstance(out, Path) else state_folder(out)


@contextlib.contextmanager
def local_copy(place: str | os.PathLike[str] | ObjectPath) -> Iterator[Path]:
    """Yield a local copy of a file with its caption and keypoints beside it; a local file is yielded as it is.

    A local file whose name is not UTF-8 is yielded through a link, because video libraries fail or crash on such
    names. Copies are cached (see `cache`) and fetched again if the object changes. If the object does not exist, the
    path yielded does not exist either, and readers report a missing file as usual.

    Raises:
        StorageError: the store denies access or cannot be reached.
    """
    where = location(place)
    if isinstance(where, Path):
        with contextlib.nullcontext(where) if _is_utf8(str(where)) else _linked(where) as local:
            yield local
        return
    existing = {info.path: entry(info) for info in describe([where, *candidates(where)]) if info.is_file}
    if where.place not in existing:
        yield scratch() / "missing" / where.name
        return
    beside, stand_ins = _beside(where, lambda one: one.place in existing)
    found = [existing[where.place], *(existing[one.place] for one in beside.values())]
    names = [where.name, *beside]
    key = _key(found) if names == [one.path.name for one in found] and not stand_ins else _key(found, names, stand_ins)

    def fetch(folder: Path) -> None:
        _fetch(found, where.parent, folder)
        for one, name in zip(found, names, strict=True):
            (folder / one.path.name).rename(folder / name)
        for name in stand_ins:
            (folder / name).touch()

    with cached_entry(key, fetch) as folder:
        yield folder / where.name


def _beside(place: AnyPlace, is_file: Callable[[Any], bool]) -> tuple[dict[str, AnyPlace], list[str]]:
    """Return the sidecars to place beside a copy of a file, by name, and the names of empty stand-in files.

    They make the rule of `sidecars` give the same result beside the copy: empty files stand in for others that may
    claim a sidecar by its stem, and a sidecar that belongs to this file despite them gets the full name.
    """
    found = {kind: find(place, kind, is_file) for kind in SIDECARS}
    stand_ins = sorted({name for _, rivals in found.values() for name in rivals})
    beside = {}
    for kind, (one, rivals) in found.items():
        if one is not None:
            beside[place.name + kind if stand_ins and not rivals else one.name] = one
    return beside, stand_ins


@contextlib.contextmanager
def _linked(path: Path) -> Iterator[Path]:
    """Yield a link to a file with an ASCII stem, with links to its caption and keypoints beside it."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        link = Path(folder) / f"video{path.suffix if _is_utf8(path.suffix) else ''}"
        link.symlink_to(path)
        beside, stand_ins = _beside(path, file_exists)
        for name, one in beside.items():
            link.with_name(_renamed(name, path, link)).symlink_to(one)
        for name in stand_ins:
            link.with_name(_renamed(name, path, link)).touch()
        yield link


def _renamed(name: str, path: Path, link: Path) -> str:
    """Return the name beside `link` for the file `name` beside `path`."""
    if name.startswith(path.name):
        return link.name + name.removeprefix(path.name)
    return link.stem + name.removeprefix(path.stem)


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
    view = scratch() / "views" / _key([one for found in parts.values() for one in found])
    view.mkdir(parents=True, exist_ok=True)
    for name, found in parts.items():
        key = _key(found)
        if key not in _view_folders:
            _view_folders[key] = _open_entries.enter_context(cached_entry(key, partial(_fetch, found, folder)))
        with contextlib.suppress(FileExistsError):
            (view / name).symlink_to(_view_folders[key] / name)
    return view


def publish(folder: Path, target: Location, last: str) -> None:
    """Upload a finished folder, the file `last` at the end: once it exists, all files do."""
    assert isinstance(target, ObjectPath), target
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    for file in sorted(files, key=lambda file: file == folder / last):
        put(file, target / file.relative_to(folder).as_posix())


def _key(found: list[Entry], *more: list[str]) -> str:
    """Return a cache key from the path, size and modification time of some objects."""
    listed: list[object] = [(str(one.path), one.size, one.modified_ns) for one in found]
    return sha256(repr([*listed, *more]).encode()).hexdigest()


def _fetch(found: list[Entry], base: ObjectPath, folder: Path) -> None:
    for one in found:
        target = folder / one.path.key.removeprefix(f"{base.key}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        get(one.path, target)
        if target.stat().st_size != one.size:
            raise StorageError(errno.EIO, "the object changed while it was read: run the command again", str(one.path))
