"""Names of files: which are images or videos, by folder, by stem, and as a short list."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from ..sidecars import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from .pairs import BenchmarkError

_MAX_NAMED = 4


def is_image(name: str) -> bool:
    """Check a name's suffix."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def is_video(name: str) -> bool:
    """Check a name's suffix."""
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES


def by_folder(names: Sequence[str]) -> dict[str, list[str]]:
    """Return folder → names of the files in it."""
    folders: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folders[str(PurePosixPath(name).parent)].append(name)
    return dict(folders)


def by_stem(names: Sequence[str], suffixes: frozenset[str] | set[str]) -> dict[str, list[str]]:
    """Return stem → names, of the files with one of the suffixes."""
    stems: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.suffix.lower() in suffixes:
            stems[path.stem].append(name)
    return dict(stems)


def only(files: list[str], name: str) -> str | None:
    """Return the only file; None without one.

    Raises:
        BenchmarkError: there are several.
    """
    if len(files) > 1:
        raise BenchmarkError(f"several files are called {name}: {listed(files)}; keep one of them")
    return files[0] if files else None


def nearest(files: list[str], image: str) -> str | None:
    """Return the text in the image's folder, else the only one."""
    beside = [file for file in files if PurePosixPath(file).parent == PurePosixPath(image).parent]
    return beside[0] if beside else only(files, PurePosixPath(image).stem)


def describe(names: Sequence[str], most: int = 12) -> str:
    """List what a folder holds, for a refusal: for each folder the number of files and the first names."""
    if not names:
        return "  no files"
    folders = by_folder(names)
    lines = []
    for folder in sorted(folders)[:most]:
        files = sorted(PurePosixPath(name).name for name in folders[folder])
        where = "at the top" if folder == "." else f"{folder}/"
        lines.append(f"  {where}: {len(files)} {'file' if len(files) == 1 else 'files'}: {listed(files)}")
    more = len(folders) - most
    return "\n".join([*lines, *([f"  and {more} more folders"] if more > 0 else [])])


def listed(names: Sequence[str]) -> str:
    """Return the first names, and how many there are."""
    more = f", … ({len(names)} in all)" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
