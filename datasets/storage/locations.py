"""Places by name, on this machine or on an object store: the one opener of all paths that a person gives.

A local place is a `Path` and is used as such; nothing stands between it and the file system. `s3://…` is an
`ObjectPath`, which answers to the same names; what works on either takes the functions of `files`. What needs a real
file takes `local_copy` or `local_folder`, what makes a folder of results `working_folder`.
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

_kept = contextlib.ExitStack()
_kept_folders: dict[str, Path] = {}


def is_address(place: object) -> bool:
    """Whether a place as a person writes it is no path of this machine."""
    return "://" in str(place)


def location(place: str | os.PathLike[str] | ObjectPath) -> Location:
    """A place as a person writes it: a path, `s3://BUCKET/KEY`, or `file:///PATH` with what is odd in it as `%XX`.

    Raises:
        SteadyDancerError: an address of another kind, or one that carries credentials or settings.
    """
    if isinstance(place, ObjectPath):
        return place
    if str(place).startswith(f"{FILE_SCHEME}/"):
        return Path(os.fsdecode(unquote_to_bytes(str(place).removeprefix(FILE_SCHEME))))
    return ObjectPath.parse(str(place)) if is_address(place) else Path(place)


def format_location(place: Location) -> str:
    """A place as tables hold it: its own name, or for a file whose name is not in UTF-8 the address `file:///…%XX…`."""
    name = str(place)
    return name if _is_utf8(name) else Path(name).absolute().as_uri()


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 are stray surrogates in a str
        return False
    return True


def join(folder: Location, name: str) -> Location:
    """A place as a file in `folder` names it: relative to the folder, absolute, or an address."""
    if is_address(name) or Path(name).is_absolute():
        return location(name)
    return folder / name


def relative(place: Location, folder: Location) -> str:
    """How a file in `folder` names a place, so that `join` finds it and both can be moved together.

    Places of this machine go by the way from one to the other; of a store only what lies in `folder` has such a name.
    """
    if isinstance(place, Path) and (path := relative_path(place, folder)) is not None:
        return path
    return place.name if place.parent == folder else str(place.absolute())


def state_folder(out: Location) -> Path:
    """Where a run keeps what is of use on this machine alone (logs, a private Ray): beside its results if it can."""
    if isinstance(out, Path):
        return out / ".engine"
    return scratch() / "state" / sha256(str(out).encode()).hexdigest()[:16]


def working_folder(out: Location) -> Path:
    """Return the folder of this machine in which results for `out` are made: `out` itself, or its `state_folder`.

    What comes back as another place has to be uploaded to `out` when it is finished.
    """
    return out if isinstance(out, Path) else state_folder(out)


@contextlib.contextmanager
def local_copy(place: str | os.PathLike[str] | ObjectPath) -> Iterator[Path]:
    """A file of this machine, with its caption and keypoints beside it; a local one is yielded as it is.

    One whose name is not in UTF-8 is yielded under another name, because video libraries fail or crash on such. Copies
    are kept (see `node_cache`) and fetched again when the object has changed. Where there is no object the path yielded
    has no file: readers then say of it what they say of any missing file.

    Raises:
        StorageError: the store denies it or cannot be reached.
    """
    where = location(place)
    if isinstance(where, Path):
        with contextlib.nullcontext(where) if _is_utf8(str(where)) else _linked(where) as here:
            yield here
        return
    there = {info.path: entry(info) for info in describe([where, *candidates(where)]) if info.is_file}
    if where.place not in there:
        yield scratch() / "missing" / where.name
        return
    beside, stand_ins = _beside(where, lambda one: one.place in there)
    found = [there[where.place], *(there[one.place] for one in beside.values())]
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
    """Sidecars of a file by the names under which they lie beside a copy of it, and what else must lie there.

    The rule of `sidecars` then says beside the copy what it says here: files that may claim a sidecar by its stem are
    stood for by empty ones of their names, and a sidecar that is the file's in spite of such has its full name.
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
    """A link to a file, under a name that everybody can read; links to its caption and keypoints beside it."""
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
    """The name of a file beside `path`, beside `link`."""
    if name.startswith(path.name):
        return link.name + name.removeprefix(path.name)
    return link.stem + name.removeprefix(path.stem)


def local_folder(folder: Location, patterns: Iterable[str]) -> Path:
    """A folder of this machine with what lies below another under names that match (`*` for slashes, too).

    A local one is returned as it is. Copies are kept at least as long as this process lives, one for each name at the
    top, and fetched again when their content has changed.

    Raises:
        StorageError: the store denies it or cannot be reached.
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
        if key not in _kept_folders:
            _kept_folders[key] = _kept.enter_context(cached_entry(key, partial(_fetch, found, folder)))
        with contextlib.suppress(FileExistsError):
            (view / name).symlink_to(_kept_folders[key] / name)
    return view


def publish(folder: Path, target: Location, last: str) -> None:
    """Upload a finished folder, the file `last` at the end: who looks for that sees all of it, or nothing."""
    assert isinstance(target, ObjectPath), target
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    for file in sorted(files, key=lambda file: file == folder / last):
        put(file, target / file.relative_to(folder).as_posix())


def _key(found: list[Entry], *more: list[str]) -> str:
    """Names what a listing says of some objects."""
    told: list[object] = [(str(one.path), one.size, one.modified_ns) for one in found]
    return sha256(repr([*told, *more]).encode()).hexdigest()


def _fetch(found: list[Entry], base: ObjectPath, folder: Path) -> None:
    for one in found:
        target = folder / one.path.key.removeprefix(f"{base.key}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        get(one.path, target)
        if target.stat().st_size != one.size:
            raise StorageError(errno.EIO, "it was changed while it was read: run the same command again", str(one.path))
