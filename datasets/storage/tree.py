"""What is below a folder, searched once: a folder of this machine is walked as it is asked, a store is listed once."""

import fnmatch
import glob
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePath

from .files import Location, files_below, name_below
from .s3 import ObjectPath


class LocalTree:
    """A folder of this machine."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def is_file(self, place: Location) -> bool:
        """Whether there is a file below the folder."""
        return place.is_file()

    def files(self) -> list[Location]:
        """Return every file below the folder; links to folders are not followed."""
        return files_below(self.top)

    def find(self, suffixes: Container[str], wanted: Sequence[str] = ()) -> Iterator[Path]:
        """Find what is named with one of the suffixes, and folders that cannot be read.

        What has the name and is no file (a folder, a pipe, a link into nowhere) is left to who opens it.

        Args:
            suffixes: in small letters.
            wanted: parts of a glob that the name below the folder has to fit; empty: everything.

        Raises:
            OSError: the folder cannot be read.
        """
        if wanted and "**" not in wanted:
            # A pattern may be absolute, which Path.glob refuses.
            matches = map(Path, glob.iglob(str(Path(glob.escape(str(self.top)), *wanted))))  # noqa: PTH207
            return (one for one in matches if one.suffix.lower() in suffixes)
        # Here `glob` would follow a link to a folder above it again and again.
        below = _walk(self.top, suffixes) if self.top.is_dir() else iter(())
        if not wanted:
            return below
        return (one for one in below if one.suffix.lower() in suffixes and _fits(one, self.top, wanted))


class StoreTree:
    """A folder of a store."""

    def __init__(self, top: ObjectPath) -> None:
        self.top = top

    @cached_property
    def _listed(self) -> dict[Location, None]:
        return dict.fromkeys(files_below(self.top))

    def is_file(self, place: Location) -> bool:
        """Whether there is an object below the folder, by its listing."""
        return place in self._listed

    def files(self) -> list[Location]:
        """Return every object below the folder."""
        return list(self._listed)

    def find(self, suffixes: Container[str], wanted: Sequence[str] = ()) -> Iterable[Location]:
        """Find the objects that are named with one of the suffixes, and fit the parts of a glob if there are any."""
        named = (one for one in self._listed if one.suffix.lower() in suffixes)
        return (one for one in named if not wanted or _fits(one, self.top, wanted))


def tree_of(folder: Location) -> LocalTree | StoreTree:
    """Return what is below a folder; nothing is searched yet."""
    return StoreTree(folder) if isinstance(folder, ObjectPath) else LocalTree(folder)


def fits(parts: list[str], wanted: list[str]) -> bool:
    """Whether the parts of a name fit those of a glob (`*`, `?`, `[…]` within a name, `**` for any folders)."""
    if not wanted:
        return not parts
    shown = bool(parts) and not parts[0].startswith(".")  # a star does not stand for a dot at the beginning
    if wanted[0] == "**":
        return fits(parts, wanted[1:]) or (shown and fits(parts[1:], wanted))
    if not parts or not (shown or wanted[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], wanted[0]) and fits(parts[1:], wanted[1:])


def _fits(place: Location, folder: Location, wanted: Sequence[str]) -> bool:
    return fits(name_below(place, folder).split("/"), list(wanted))


def _walk(top: Path, suffixes: Container[str]) -> Iterator[Path]:
    """Each folder once, by its own name if it can be."""
    folders, links = [top], list[Path]()
    seen = set[tuple[int, int]]()
    while folders or links:
        # Linked folders after all others: a link back up then finds that its folder was looked into before.
        folder = folders.pop() if folders else links.pop()
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
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
