"""Search the files below a folder: a local folder is scanned on each call, a store is listed once."""

import fnmatch
import glob
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePath

from .files import Location, files_below, name_below
from .s3 import ObjectPath


class LocalTree:
    """Files below a local folder."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def is_file(self, place: Location) -> bool:
        """Check whether a location below the folder is a file."""
        return place.is_file()

    def files(self) -> list[Location]:
        """Return every file below the folder; links to folders are not followed."""
        return files_below(self.top)

    def find(self, suffixes: Container[str], wanted: Sequence[str] = ()) -> Iterator[Path]:
        """Find entries with one of the suffixes, and folders that cannot be read.

        An entry may be something else than a file (a folder, a pipe, a broken link); opening it reports the error.

        Args:
            suffixes: in lower case.
            wanted: components of a glob that the path below the folder must match; empty: everything.

        Raises:
            OSError: the folder cannot be read.
        """
        if wanted and "**" not in wanted:
            # The pattern may be absolute, which Path.glob rejects.
            matches = map(Path, glob.iglob(str(Path(glob.escape(str(self.top)), *wanted))))  # noqa: PTH207
            return (one for one in matches if one.suffix.lower() in suffixes)
        # `glob` with `**` would follow a link to a parent folder endlessly.
        below = _scan(self.top, suffixes) if self.top.is_dir() else iter(())
        if not wanted:
            return below
        return (one for one in below if one.suffix.lower() in suffixes and _fits(one, self.top, wanted))


class StoreTree:
    """Objects below a folder of a store."""

    def __init__(self, top: ObjectPath) -> None:
        self.top = top

    @cached_property
    def _listed(self) -> dict[Location, None]:
        return dict.fromkeys(files_below(self.top))

    def is_file(self, place: Location) -> bool:
        """Check whether a location below the folder is an object, by the listing."""
        return place in self._listed

    def files(self) -> list[Location]:
        """Return every object below the folder."""
        return list(self._listed)

    def find(self, suffixes: Container[str], wanted: Sequence[str] = ()) -> Iterable[Location]:
        """Find the objects with one of the suffixes that match the components of a glob, if there are any."""
        matching = (one for one in self._listed if one.suffix.lower() in suffixes)
        return (one for one in matching if not wanted or _fits(one, self.top, wanted))


def tree_of(folder: Location) -> LocalTree | StoreTree:
    """Return the tree of a folder; nothing is read yet."""
    return StoreTree(folder) if isinstance(folder, ObjectPath) else LocalTree(folder)


def matches_glob(parts: list[str], wanted: list[str]) -> bool:
    """Check whether path components match those of a glob (`*`, `?`, `[…]` within a name, `**` for any folders)."""
    if not wanted:
        return not parts
    is_visible = bool(parts) and not parts[0].startswith(".")  # a wildcard does not match a leading dot
    if wanted[0] == "**":
        return matches_glob(parts, wanted[1:]) or (is_visible and matches_glob(parts[1:], wanted))
    if not parts or not (is_visible or wanted[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], wanted[0]) and matches_glob(parts[1:], wanted[1:])


def _fits(place: Location, folder: Location, wanted: Sequence[str]) -> bool:
    return matches_glob(name_below(place, folder).split("/"), list(wanted))


def _scan(top: Path, suffixes: Container[str]) -> Iterator[Path]:
    """Scan each folder once, by its real path rather than through a link where possible."""
    folders, links = [top], list[Path]()
    seen = set[tuple[int, int]]()
    while folders or links:
        # Linked folders come last, so that a link to a parent folder leads to one that was already scanned.
        folder = folders.pop() if folders else links.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda one: one.name, reverse=True)
        except OSError:
            if folder == top:
                raise
            yield folder
            continue
        for one in inside:
            if PurePath(one.name).suffix.lower() in suffixes:
                yield folder / one.name
            if one.is_dir(follow_symlinks=False):
                folders.append(folder / one.name)
            elif one.is_symlink() and (folder / one.name).is_dir():
                links.append(folder / one.name)
