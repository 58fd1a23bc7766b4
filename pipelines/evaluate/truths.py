"""Which file of a folder is the truth of which render: found by the render's id, and never guessed."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ... import SteadyDancerError
from ...datasets.file_names import file_stem
from ...datasets.storage import Location, named
from ...datasets.storage.files import files_in, folders_in
from ...datasets.video.info import VIDEO_SUFFIXES

MAX_NAMED = 3  # names of each kind in a message; a record holds `MAX_RECORDED`
MAX_RECORDED = 20
NOT_GIVEN = ("no_truth", "no truth was given")


@dataclass(frozen=True)
class Truths:
    """What was found in a folder of truths.

    Args:
        folder: that was searched; None where none was given.
        found: id of a render → place of its truth, as tables hold it.
        missing: id of a render → (reason, detail) why it has none.
        unused: names of videos in the folder that fit no render.
    """

    folder: str | None
    found: dict[str, str]
    missing: dict[str, tuple[str, str]]
    unused: list[str]

    def to_record(self) -> dict[str, Any]:
        """What the record says of them."""
        reasons: dict[str, list[str]] = defaultdict(list)
        for name, (reason, _) in sorted(self.missing.items()):
            reasons[reason].append(name)
        return {
            "folder": self.folder,
            "asked": len(self.found) + len(self.missing),
            "found": len(self.found),
            "not_found": {reason: names[:MAX_RECORDED] for reason, names in reasons.items()},
            "unused": self.unused[:MAX_RECORDED],
            "num_unused": len(self.unused),
        }


def find_truths(ids: Iterable[str], folder: Location | None) -> Truths:
    """Look for the truth of every id among the videos that lie in `folder`.

    A truth is called `ID.mp4`. Where there is no such file, the id is compared with the names of the others, without
    their suffix: as they are, then as a render's id is written (`file_stem`), then whatever the case. A file is the
    truth of one render; two files that fit one id equally well are named and neither is taken.

    Raises:
        SteadyDancerError: `folder` is none, or holds no truth of any of them.
    """
    wanted = sorted(ids)
    if folder is None:
        return Truths(None, {}, dict.fromkeys(wanted, NOT_GIVEN), [])
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise SteadyDancerError(f"{folder} {what}: --truth takes a folder with ID.mp4 for renders with a truth")
    videos = _videos(folder)
    found, ambiguous = _match(wanted, videos)
    missing = {
        name: ("ambiguous_truth", f"{' and '.join(ambiguous[name])} in {folder} fit it equally well")
        if name in ambiguous
        else ("no_truth", f"{folder} holds no video called {name}")
        for name in wanted
        if name not in found
    }
    unused = sorted(name for name in videos if name not in found.values() and not name.startswith("."))
    if wanted and not found:
        raise SteadyDancerError(_none_fits(folder, wanted, ambiguous, unused))
    places = {name: named(videos[file].absolute()) for name, file in found.items()}
    return Truths(str(folder.absolute()), places, missing, [_printable(name) for name in unused])


def _videos(folder: Location) -> dict[str, Location]:
    """Name → place of what is named like a video and lies in the folder itself."""
    return {file.name: file for file in files_in(folder) if file.suffix.lower() in VIDEO_SUFFIXES}


def _match(ids: list[str], videos: dict[str, Any]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Match by the closest kind of fit: id → name of its file, id → names of several that fit equally well."""
    found: dict[str, str] = {}
    ambiguous: dict[str, list[str]] = {}
    for level in range(4):
        fits: dict[str, list[str]] = defaultdict(list)
        for name in sorted(set(videos) - set(found.values())):
            for spelling in _spellings(name, level):
                fits[spelling].append(name)
        requests: dict[str, list[str]] = defaultdict(list)
        for name in ids:
            if name not in found and name not in ambiguous:
                requests[unicodedata.normalize("NFC", name).casefold() if level == 3 else name].append(name)
        for key, names in requests.items():
            files = fits.get(key, [])
            if len(files) > 1:
                ambiguous |= dict.fromkeys(names, files)
            elif files and len(names) == 1 and files[0] not in found.values():
                found[names[0]] = files[0]
    return found, ambiguous


def _spellings(name: str, level: int) -> set[str]:
    """Ids that a file's name may mean, the closest kind at level 0."""
    if level == 0:
        return {name.removesuffix(".mp4")} if name.endswith(".mp4") else set()
    plain = {PurePath(name).stem, name}
    if level == 1:
        return plain
    written = {spelling for one in plain for spelling in possible_ids(one)}
    return written if level == 2 else {one.casefold() for one in written}


def possible_ids(text: str) -> set[str]:
    """How the ids of renders spell a name, today and before; composed letters as one sign or as several."""
    forms = {text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))}
    return {file_stem(form) for form in forms} | {re.sub(r"[^\w.-]+", "_", form) for form in forms}


def _none_fits(folder: Location, ids: list[str], ambiguous: dict[str, list[str]], unused: list[str]) -> str:
    if ambiguous:
        name = min(ambiguous)
        return (
            f"{folder} holds no truth that is clear: {' and '.join(map(_printable, ambiguous[name]))} fit the render {name} "
            "equally well. Leave one file a render there, called ID.mp4"
        )
    there = f"which holds {_list_names(unused)}" if unused else "in which no video lies"
    if below := sorted(one.name for one in folders_in(folder)):
        there += f" (folders in it are not searched: {_list_names(below)})"
    return (
        f"no truth fits: {_list_names([f'{name}.mp4' for name in ids])} were looked for in {folder}, {there}. Name each "
        "truth after its render's id, or leave --truth out"
    )


def _list_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(_printable(name) for name in names[:MAX_NAMED]) + more


def _printable(name: str) -> str:
    """A name whose bytes are no UTF-8, so that messages and records can hold it."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
