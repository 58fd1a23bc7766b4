"""Which file beside a video or an image is its caption, and which its keypoints: one rule, in one place.

By the full name (`dance.mp4.txt`) a sidecar is that file's and nobody else's. By the stem (`dance.txt`) it belongs to
the file that is called `dance`. Where several are, it goes to the foremost kind: a video before a GIF (a preview)
before an image (a cover); a file that has a sidecar by its full name lays no claim to another. Two of one kind share
nothing: neither gets it, and both are told (`sidecar_note`). Suffixes may be in capitals.
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
from .video.info import VIDEO_SUFFIXES

CAPTION, KEYPOINTS = ".txt", ".pose.safetensors"
SIDECARS = (CAPTION, KEYPOINTS)

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in "png jpg jpeg jpe jfif webp bmp dib tif tiff avif heic heif jp2 ppm pgm".split()  # noqa: SIM905
)

Place = Path | ObjectPath
AnyPlace = TypeVar("AnyPlace", Path, ObjectPath, Place)

# What earlier versions of `demo` laid side by side: a clip, its first frame, and keypoints for both.
_CLIP_ID = re.compile("[0-9a-f]{16}")


def sidecar(place: AnyPlace, kind: str) -> AnyPlace | None:
    """The caption or the keypoints of a file; None if there are none, or if they may be another's.

    Args:
        place: of the video or image.
        kind: one of `SIDECARS`.
    """
    found, rivals = find(place, kind)
    return None if rivals else found


def sidecar_note(place: Place, kinds: Iterable[str] = SIDECARS) -> str | None:
    """What to say of sidecars that lie there and were not taken; None where there are none."""
    notes = []
    for kind in kinds:
        found, rivals = find(place, kind)
        if found is not None and rivals:
            foremost = min(map(_rank, rivals))
            # The other file is not named: a row must not name a file that may be forgotten.
            why = f"it counts as that of the {('video', 'GIF', 'image')[foremost]} of that name"
            if foremost == _rank(place.name):
                why = f"several files here are called {place.stem}"
            notes.append(f"{found.name} was not taken: {why}; one that belongs here is called {place.name}{kind}")
    return "; ".join(notes) or None


def candidates(place: AnyPlace) -> list[AnyPlace]:
    """Every name under which a sidecar of a file may lie, those that count first."""
    return [place.with_name(name) for kind in SIDECARS for names in _names(place, kind) for name in names]


def file_exists(place: Place) -> bool:
    """Whether there is a file of a name, which may be longer than names can be: then there is none."""
    try:
        return place.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def find(
    place: AnyPlace, kind: str, is_file: Callable[[AnyPlace], bool] = file_exists
) -> tuple[AnyPlace | None, list[str]]:
    """The sidecar that lies beside a file, and who else may claim it: other files in the folder, by name."""
    by_full_name, by_stem = _names(place, kind)
    for name in by_full_name:
        if is_file(place.with_name(name)):
            return place.with_name(name), []
    for name in by_stem:
        if is_file(place.with_name(name)):
            return place.with_name(name), _rivals(place, kind)
    return None, []


def media_called(place: Place) -> list[str]:
    """Names of the other videos and images in a file's folder that have its stem, or whose whole name is its stem."""
    names = [name for name in _media(place.parent).get(place.stem, ()) if name != place.name]
    if _looks_like_media(place.stem) and place.with_name(place.stem).is_file():
        names.append(place.stem)
    return [name for name in names if is_another_file(place, place.with_name(name))]


def _rivals(place: Place, kind: str) -> list[str]:
    if _rank(place.name) == 2 and _CLIP_ID.fullmatch(place.stem):
        return []
    others = media_called(place)
    before = [name for name in others if _rank(name) <= _rank(place.name) and not _has_its_own(place, name, kind)]
    # To a file whose whole name is the stem the sidecar is one by its full name.
    return [name for name in others if name == place.stem] or before


def _has_its_own(place: Place, name: str, kind: str) -> bool:
    other = place.with_name(name)
    return any(file_exists(other.with_name(own)) for own in _names(other, kind)[0])


def _names(place: Place, kind: str) -> tuple[list[str], list[str]]:
    """Names of a sidecar, by the file's full name and by its stem."""
    spelled = (kind, kind.upper())
    return [place.name + end for end in spelled], [place.stem + end for end in spelled]


def _rank(name: str) -> int:
    suffix = PurePosixPath(name).suffix.lower()
    return 2 if suffix in IMAGE_SUFFIXES else 1 if suffix == ".gif" else 0


def _looks_like_media(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def _media(folder: Place) -> dict[str, tuple[str, ...]]:
    """Stem → names of the videos and images in a folder, where there are several."""
    try:
        mark = listing_mark(folder)
        return _by_stem(names_in(folder)) if mark is None else _listed(folder, mark)
    except PermissionError:  # one that may be entered and not listed
        return {}


@lru_cache(maxsize=128)
def _listed(folder: Place, mark: int) -> dict[str, tuple[str, ...]]:
    return _by_stem(names_in(folder))


def _by_stem(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    stems = defaultdict[str, list[str]](list)
    for name in names:
        if _looks_like_media(name):
            stems[PurePosixPath(name).stem].append(name)
    # Most stems are one file's: what a folder of a million holds is forgotten, but for the rest.
    return {stem: tuple(sorted(several)) for stem, several in stems.items() if len(several) > 1}
