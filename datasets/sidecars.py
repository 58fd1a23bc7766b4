"""Sidecars: which file next to a video or an image is its caption, and which its keypoints.

A sidecar with the full name (`dance.mp4.txt`) belongs only to that file. A sidecar with the stem (`dance.txt`) belongs
to the file called `dance`. If there are several, a video takes precedence over a GIF (a preview), and a GIF over an
image (a cover); a file that has a sidecar by its full name does not claim another one. If two files of the same kind
claim a sidecar, neither gets it, and `sidecar_note` reports it for both. Suffixes may be in upper case.
"""

import errno
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeVar

from .storage.files import is_another_file, listing_mark, names_in
from .storage.s3 import ObjectPath

CAPTION, KEYPOINTS = ".txt", ".pose.safetensors"
SIDECARS = (CAPTION, KEYPOINTS)

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in "mp4 m4v mov mkv webm avi gif mpg mpeg ts mts wmv flv 3gp ogv".split()  # noqa: SIM905
)
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in "png jpg jpeg jpe jfif webp bmp dib tif tiff avif heic heif jp2 ppm pgm".split()  # noqa: SIM905
)

Place = Path | ObjectPath
AnyPlace = TypeVar("AnyPlace", Path, ObjectPath, Place)

# Earlier versions of `demo` wrote a clip, its first frame, and keypoints for both into one folder.
_CLIP_ID = re.compile("[0-9a-f]{16}")


def sidecar(place: AnyPlace, kind: str) -> AnyPlace | None:
    """Return the caption or keypoints file of a video or image; None if there is none or it may belong to another.

    Args:
        place: the video or image.
        kind: one of `SIDECARS`.
    """
    found, rivals = find(place, kind)
    return None if rivals else found


def sidecar_note(place: Place, kinds: Iterable[str] = SIDECARS) -> str | None:
    """Describe the sidecars of a file that exist but were ignored; None if there are none."""
    notes = []
    for kind in kinds:
        found, rivals = find(place, kind)
        if found is not None and rivals:
            foremost = min(map(_rank, rivals))
            # Do not name the other file: a row must not name a file that may be removed by `forget`.
            why = f"it belongs to the {('video', 'GIF', 'image')[foremost]} of that name"
            if foremost == _rank(place.name):
                why = f"several files in the folder are named {place.stem}"
            notes.append(f"{found.name} was ignored: {why}; to assign it to this file, name it {place.name}{kind}")
    return "; ".join(notes) or None


def candidates(place: AnyPlace) -> list[AnyPlace]:
    """Return all possible paths of a file's sidecars, in order of precedence."""
    return [place.with_name(name) for kind in SIDECARS for names in _names(place, kind) for name in names]


def file_exists(place: Place) -> bool:
    """Check whether a file exists; a name that is too long for the file system does not exist."""
    try:
        return place.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def find(
    place: AnyPlace, kind: str, is_file: Callable[[AnyPlace], bool] = file_exists
) -> tuple[AnyPlace | None, list[str]]:
    """Return the sidecar next to a file, and the names of other files in the folder that may claim it."""
    by_full_name, by_stem = _names(place, kind)
    for name in by_full_name:
        if is_file(place.with_name(name)):
            return place.with_name(name), []
    for name in by_stem:
        if is_file(place.with_name(name)):
            return place.with_name(name), _rivals(place, kind)
    return None, []


def media_with_stem(place: Place) -> list[str]:
    """List other videos and images in a file's folder that have its stem, or whose full name is its stem."""
    names = [name for name in _media(place.parent).get(place.stem, ()) if name != place.name]
    if _looks_like_media(place.stem) and place.with_name(place.stem).is_file():
        names.append(place.stem)
    return [name for name in names if is_another_file(place, place.with_name(name))]


def _rivals(place: Place, kind: str) -> list[str]:
    if _rank(place.name) == 2 and _CLIP_ID.fullmatch(place.stem):
        return []
    others = media_with_stem(place)
    before = [name for name in others if _rank(name) <= _rank(place.name) and not _has_its_own(place, name, kind)]
    # For a file whose full name is the stem, this sidecar has the full name.
    return [name for name in others if name == place.stem] or before


def _has_its_own(place: Place, name: str, kind: str) -> bool:
    other = place.with_name(name)
    return any(file_exists(other.with_name(own)) for own in _names(other, kind)[0])


def _names(place: Place, kind: str) -> tuple[list[str], list[str]]:
    """Return the names of a file's sidecar: by the full name, and by the stem."""
    suffixes = (kind, kind.upper())
    return [place.name + end for end in suffixes], [place.stem + end for end in suffixes]


def _rank(name: str) -> int:
    suffix = PurePosixPath(name).suffix.lower()
    return 2 if suffix in IMAGE_SUFFIXES else 1 if suffix == ".gif" else 0


def _looks_like_media(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _media(folder: Place) -> dict[str, tuple[str, ...]]:
    """Map stems to the names of the videos and images in a folder, for stems that several files have."""
    try:
        mark = listing_mark(folder)
        return _by_stem(names_in(folder)) if mark is None else _listed(folder, mark)
    except PermissionError:  # a folder may be accessible but not listable
        return {}


@lru_cache(maxsize=128)
def _listed(folder: Place, mark: int) -> dict[str, tuple[str, ...]]:
    return _by_stem(names_in(folder))


def _by_stem(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    stems = defaultdict[str, list[str]](list)
    for name in names:
        if _looks_like_media(name):
            stems[PurePosixPath(name).stem].append(name)
    # Most stems belong to one file. Keep only the others, as a folder may contain a million files.
    return {stem: tuple(sorted(several)) for stem, several in stems.items() if len(several) > 1}
