"""Find the ground truth of each render in a folder, by the render's id. Ambiguous matches are reported, not guessed."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ... import SteadyDancerError
from ...datasets.file_names import file_stem
from ...datasets.sidecars import VIDEO_SUFFIXES
from ...datasets.storage import Location, format_location
from ...datasets.storage.files import files_in, folders_in

MAX_NAMED = 3  # names of each kind in a message; `MAX_RECORDED` is the limit in a record
MAX_RECORDED = 20
NOT_GIVEN = ("no_truth", "no ground truth was given")


@dataclass(frozen=True)
class GroundTruth:
    """Ground-truth videos found in a folder.

    Args:
        folder: folder that was searched; None if none was given.
        found: id of a render → path of its ground truth, as stored in tables.
        missing: id of a render without ground truth → (reason, detail).
        unused: names of videos in the folder that match no render.
    """

    folder: str | None
    found: dict[str, str]
    missing: dict[str, tuple[str, str]]
    unused: list[str]

    def to_record(self) -> dict[str, Any]:
        """Return the counts and names for the record."""
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


def find_ground_truth(ids: Iterable[str], folder: Location | None) -> GroundTruth:
    """Find the ground truth of every id among the videos in `folder`.

    A truth is named `ID.mp4`. Without such a file, the id is compared with the other names without their suffix: first
    unchanged, then converted like a render's id (`file_stem`), then ignoring case. A file is the truth of one render
    only; if two files match one id equally well, both are reported and neither is used.

    Raises:
        SteadyDancerError: `folder` is not a folder, or has no truth for any id.
    """
    wanted = sorted(ids)
    if folder is None:
        return GroundTruth(None, {}, dict.fromkeys(wanted, NOT_GIVEN), [])
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise SteadyDancerError(
            f"--truth: {folder} {what}: pass a folder of ground-truth videos, one ID.mp4 per render"
        )
    videos = _videos(folder)
    found, ambiguous = _match(wanted, videos)
    missing = {
        name: ("ambiguous_truth", f"{' and '.join(ambiguous[name])} in {folder} match it equally well")
        if name in ambiguous
        else ("no_truth", f"{folder} has no video named {name}")
        for name in wanted
        if name not in found
    }
    unused = sorted(name for name in videos if name not in found.values() and not name.startswith("."))
    if wanted and not found:
        raise SteadyDancerError(_none_fits(folder, wanted, ambiguous, unused))
    places = {name: format_location(videos[file].absolute()) for name, file in found.items()}
    return GroundTruth(str(folder.absolute()), places, missing, [_printable(name) for name in unused])


def _videos(folder: Location) -> dict[str, Location]:
    """List files with a video's suffix directly in the folder: name → path."""
    return {file.name: file for file in files_in(folder) if file.suffix.lower() in VIDEO_SUFFIXES}


def _match(ids: list[str], videos: dict[str, Any]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Match ids and files at the closest level: id → file name, and id → names of files that match equally well."""
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
    """Return the ids that a file's name matches at a level; level 0 is the closest match."""
    if level == 0:
        return {name.removesuffix(".mp4")} if name.endswith(".mp4") else set()
    plain = {PurePath(name).stem, name}
    if level == 1:
        return plain
    written = {spelling for one in plain for spelling in possible_ids(one)}
    return written if level == 2 else {one.casefold() for one in written}


def possible_ids(text: str) -> set[str]:
    """Return the ids that a name may have had, in this and earlier versions, with composed and decomposed letters."""
    forms = {text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))}
    return {file_stem(form) for form in forms} | {re.sub(r"[^\w.-]+", "_", form) for form in forms}


def _none_fits(folder: Location, ids: list[str], ambiguous: dict[str, list[str]], unused: list[str]) -> str:
    if ambiguous:
        name = min(ambiguous)
        return (
            f"--truth: every match in {folder} is ambiguous: {' and '.join(map(_printable, ambiguous[name]))} match "
            f"the render {name} equally well. Keep one file per render, named ID.mp4"
        )
    content = f"which has {_list_names(unused)}" if unused else "which has no videos"
    if below := sorted(one.name for one in folders_in(folder)):
        content += f" (subfolders are not searched: {_list_names(below)})"
    return (
        f"--truth: no video matches a render: expected {_list_names([f'{name}.mp4' for name in ids])} in {folder}, "
        f"{content}. Name each ground-truth video after its render's id, or omit --truth"
    )


def _list_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(_printable(name) for name in names[:MAX_NAMED]) + more


def _printable(name: str) -> str:
    """Replace bytes of a name that are not UTF-8 by escape sequences, for messages and records."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
