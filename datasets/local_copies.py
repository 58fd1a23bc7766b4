"""Yield a local copy of a file, wherever it is stored, with its caption and keypoints next to it."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .sidecars import SIDECARS, AnyPlace, candidates, file_exists, find
from .storage.cache import cached_entry, scratch_dir
from .storage.locations import entries_key, fetch_entries, is_utf8, location
from .storage.s3 import ObjectPath, describe, entry


@contextlib.contextmanager
def local_copy(place: str | os.PathLike[str] | ObjectPath) -> Iterator[Path]:
    """Yield a local copy of a file with its caption and keypoints next to it; a local file is yielded as it is.

    A local file whose name is not UTF-8 is yielded through a link, because video libraries fail or crash on such
    names. Copies are cached (see `cache`) and fetched again if the object changes. If the object does not exist, the
    path yielded does not exist either, and readers report a missing file as usual.

    Raises:
        StorageError: the store denies access or cannot be reached.
    """
    where = location(place)
    if isinstance(where, Path):
        with contextlib.nullcontext(where) if is_utf8(str(where)) else _linked(where) as local:
            yield local
        return
    existing = {info.path: entry(info) for info in describe([where, *candidates(where)]) if info.is_file}
    if where.place not in existing:
        yield scratch_dir() / "missing" / where.name
        return
    beside, stand_ins = _beside(where, lambda one: one.place in existing)
    found = [existing[where.place], *(existing[one.place] for one in beside.values())]
    names = [where.name, *beside]
    key = (
        entries_key(found)
        if names == [one.path.name for one in found] and not stand_ins
        else entries_key(found, names, stand_ins)
    )

    def fetch(folder: Path) -> None:
        fetch_entries(found, where.parent, folder)
        for one, name in zip(found, names, strict=True):
            (folder / one.path.name).rename(folder / name)
        for name in stand_ins:
            (folder / name).touch()

    with cached_entry(key, fetch) as folder:
        yield folder / where.name


def _beside(place: AnyPlace, is_file: Callable[[Any], bool]) -> tuple[dict[str, AnyPlace], list[str]]:
    """Return the sidecars to place next to a copy of a file, by name, and the names of empty stand-in files.

    They make the rule of `sidecars` give the same result next to the copy: empty files stand in for others that may
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
    """Yield a link to a file with an ASCII stem, with links to its caption and keypoints next to it."""
    with tempfile.TemporaryDirectory(dir=scratch_dir()) as folder:
        link = Path(folder) / f"video{path.suffix if is_utf8(path.suffix) else ''}"
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
