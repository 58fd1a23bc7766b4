"""`benchmark.json`: the list of a benchmark's pairs and files, which the reader writes once and checks from then on."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..sidecars import KEYPOINTS, sidecar
from ..storage import Location, join
from ..storage.atomic import write_json
from ..storage.digests import content_digest, json_digest
from ..storage.files import name_below, sizes
from .file_lists import is_image
from .layouts import Draft
from .pairs import Benchmark, BenchmarkError, BenchmarkPair

FILE = "benchmark.json"
VERSION = 1
PATHS = ("image", "driving", "truth")
_MAX_NAMED = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A pair for the list: its files relative to the folder (or absolute), and what a table states about it."""

    draft: Draft
    prompt: str = ""
    kinds: tuple[str, ...] = ()
    measured: Mapping[str, Any] | None = None


def write_listing(
    folder: Location,
    file: Location,
    name: str,
    layout: str,
    entries: Sequence[Entry],
    *,
    sequences: Mapping[str, Sequence[str]],
    seen: Sequence[str],
    remarks: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the list of pairs, with size and sha256 of each file, and return it.

    Folders of frames, from which videos were prepared, are listed by the number and the sizes of their files.

    Args:
        folder: of the benchmark.
        file: to write.
        name: of the benchmark.
        layout: of the benchmark.
        entries: the pairs.
        sequences: folder of frames → names of its images.
        seen: names of all files of the folder, to find later ones.
        remarks: for the reader of results.
    """
    named = sorted({getattr(entry.draft, role) for entry in entries for role in PATHS} - {None})
    used = [*named, *_keypoints(folder, named)]
    places = {name: join(folder, name) for name in used}
    bytes_of = sizes(places.values())
    files = {
        name: {"bytes": bytes_of[place], "sha256": content_digest(place)}
        for name, place in places.items()
        if bytes_of[place] is not None
    }
    pairs = [
        {
            "id": entry.draft.name,
            **{role: getattr(entry.draft, role) for role in PATHS},
            "prompt": entry.prompt,
            "kinds": list(entry.kinds),
            "measured": dict(entry.measured or {}),
            "problems": list(entry.draft.problems),
        }
        for entry in sorted(entries, key=lambda one: one.draft.name)
    ]
    content = {"pairs": pairs, "files": files}
    listing = {
        "name": name,
        "version": VERSION,
        "layout": layout,
        "digest": json_digest(content),
        "remarks": list(remarks),
        **content,
        "frames": {name: _measured(folder, images) for name, images in sorted(sequences.items())},
        "seen": json_digest(sorted(seen)),
    }
    write_json(file, listing)
    return listing


def read_listing(folder: Location, file: Location, seen: Sequence[str]) -> Benchmark:
    """Read a list, check its files, and return the benchmark; a missing file is a problem of its pair.

    Args:
        folder: of the benchmark.
        file: the list.
        seen: names of all files of the folder today.

    Raises:
        BenchmarkError: the list is damaged or of another version, files have changed, or all of a kind are missing.
    """
    try:
        listing = json.loads(file.read_text())
        version, digest = listing["version"], json_digest({name: listing[name] for name in ("pairs", "files")})
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{file} is damaged ({error}): delete it to list the benchmark again") from None
    if version != VERSION or digest != listing["digest"]:
        what = f"has version {version}, expected {VERSION}" if version != VERSION else "was edited by hand"
        raise BenchmarkError(f"{file} {what}: delete it to list the benchmark again")
    missing, changed = _check(folder, listing, seen)
    if changed:
        also = f"; missing: {_listed(missing)}" if missing else ""
        raise BenchmarkError(
            f"{folder} is not the benchmark that {file.name} lists: changed: {_listed(changed)}{also}\n"
            f"restore these files, or delete {file.name} to accept them as another benchmark"
        )
    remarks = list(listing["remarks"])
    if missing:
        _log.warning("%s: %d files are missing: %s", folder, len(missing), _listed(missing))
        remarks.append(f"{len(missing)} files are missing: {_listed(missing)}")
    elif json_digest(sorted(seen)) != listing["seen"]:
        remarks.append(f"files were added or removed since {file.name} was written; delete it to list them again")
    pairs = tuple(_pair(folder, row, {*missing, *_never_seen(folder, listing)}) for row in listing["pairs"])
    _require_some(folder, pairs, listing, missing)
    return Benchmark(listing["name"], str(folder.absolute()), listing["layout"], digest, pairs, tuple(remarks))


def _check(folder: Location, listing: dict[str, Any], seen: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of missing and of changed files.

    Folders of frames may be removed once their videos are prepared; if they are there, they must be the same.
    """
    files = listing["files"]
    places = {name: join(folder, name) for name in files}
    bytes_of = sizes(places.values())
    missing = [name for name, place in places.items() if bytes_of[place] is None]
    changed = [
        name
        for name, place in places.items()
        if bytes_of[place] is not None
        and (bytes_of[place] != files[name]["bytes"] or content_digest(place) != files[name]["sha256"])
    ]
    for sequence, wanted in listing["frames"].items():
        images = [name for name in seen if name.rpartition("/")[0] == sequence and is_image(name)]
        if images and _measured(folder, images) != wanted:
            changed.append(f"{sequence}/ (frames)")
    return missing, changed


def _never_seen(folder: Location, listing: dict[str, Any]) -> list[str]:
    """Return the files that pairs name and that did not exist when the list was written, unless they do now."""
    named = {row[role] for row in listing["pairs"] for role in PATHS} - {None, *listing["files"]}
    found = sizes(join(folder, name) for name in named)
    return [name for name in named if found[join(folder, name)] is None]


def _pair(folder: Location, row: dict[str, Any], missing: set[str]) -> BenchmarkPair:
    absent = [f"{role} is missing: {row[role]}" for role in PATHS if row[role] in missing]
    place = {role: None if row[role] is None else str(join(folder, row[role]).absolute()) for role in PATHS}
    return BenchmarkPair(
        row["id"],
        # A path without a file gives the pair a verdict when it is rendered; a pair is never dropped.
        place["image"] or str((folder / "missing" / f"{row['id']}.png").absolute()),
        place["driving"] or str((folder / "missing" / f"{row['id']}.mp4").absolute()),
        row["prompt"],
        None if row["truth"] in missing else place["truth"],
        tuple(row["kinds"]),
        row["measured"],
        (*row["problems"], *absent),
    )


def _require_some(
    folder: Location, pairs: Sequence[BenchmarkPair], listing: dict[str, Any], missing: Sequence[str]
) -> None:
    for role in ("image", "driving"):
        named = [row[role] for row in listing["pairs"]]
        if not any(name in listing["files"] and name not in missing for name in named):
            raise BenchmarkError(f"{folder}: the {role} of every one of {len(pairs)} pairs is missing")


def _keypoints(folder: Location, names: Sequence[str]) -> list[str]:
    """Return the keypoints beside images and videos, which a render reads as well."""
    found = [(name, sidecar(join(folder, name), KEYPOINTS)) for name in names]
    return sorted({"".join([*name.rpartition("/")[:2], beside.name]) for name, beside in found if beside is not None})


def _measured(folder: Location, images: Sequence[str]) -> dict[str, Any]:
    """Return number, bytes, and a digest of names and sizes of the images of a sequence; contents are not read."""
    found = sizes(folder / name for name in images)
    by_name = {name_below(place, folder): number for place, number in found.items()}
    return {"files": len(images), "bytes": sum(found[p] or 0 for p in found), "names_and_sizes": json_digest(by_name)}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
