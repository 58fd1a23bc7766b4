"""Files that a benchmark is built from: images and driving videos of two folders, and what a table states of them."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

from ... import SteadyDancerError
from ...datasets.file_names import file_stem
from ...datasets.manifest import read_manifest
from ...datasets.schema import Row
from ...datasets.sidecars import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ...datasets.storage import Location, format_location
from ...datasets.storage.files import files_below, name_below

ROLES = {"image": IMAGE_SUFFIXES, "driving": VIDEO_SUFFIXES}
DYNAMICS = ("high", "low")
_COLUMNS = {
    "file": ("path", "name", "file_name", "image", "driving", "video"),
    "style": ("look",),
    "dynamics": ("motion", "dynamic"),
}
_MAX_NAMED = 5


def read_inputs(images: Location, driving: Location, notes: Location | None = None) -> list[Row]:
    """Return one row per file: id, role, path, and the style and dynamics that `notes` gives.

    The id is `image-NAME` or `driving-NAME`; files of one name in several folders, or with several suffixes, get the
    whole relative name.

    Args:
        images: folder of reference images; subfolders are read as well.
        driving: folder of driving videos.
        notes: table with a column `file` and `style` or `dynamics` (`high` or `low`).

    Raises:
        SteadyDancerError: a folder has no file of its kind, or the table is wrong.
    """
    rows = [*_rows(images, "image"), *_rows(driving, "driving")]
    given = {} if notes is None else _read_notes(notes)
    unknown = set(given)
    for row in rows:
        path = PurePosixPath(row["source_path"])
        keys = [key for key in (row["source_path"], path.name, path.stem) if key in given]
        row |= given[keys[0]] if keys else {"style": None, "dynamics": None}
        unknown -= {str(path), path.name, path.stem}
    if unknown:
        names = ", ".join(sorted(unknown)[:_MAX_NAMED])
        raise SteadyDancerError(f"{notes} names {len(unknown)} files that are in neither folder: {names}")
    return rows


def _rows(folder: Location, role: str) -> list[Row]:
    if not folder.is_dir():
        raise SteadyDancerError(f"{folder} is not a folder: pass a folder of {_words(role)}")
    below = [(name_below(file, folder), file) for file in files_below(folder)]
    names = [(name, file) for name, file in below if not any(part.startswith(".") for part in name.split("/"))]
    fitting = [(name, file) for name, file in names if PurePosixPath(name).suffix.lower() in ROLES[role]]
    if not fitting:
        found = ", ".join(name for name, _ in names[:_MAX_NAMED]) or "nothing"
        raise SteadyDancerError(f"{folder} contains no {_words(role)} (found: {found})")
    stems = Counter(file_stem(PurePosixPath(name).stem) for name, _ in fitting)
    rows = []
    for name, file in sorted(fitting):
        stem = file_stem(PurePosixPath(name).stem)
        own = stem if stems[stem] == 1 else file_stem(name.replace("/", "_").replace(".", "_"))
        rows.append({"id": f"{role}-{own}", "role": role, "source_path": format_location(file.absolute())})
    _require_unique(folder, rows)
    return rows


def _require_unique(folder: Location, rows: list[Row]) -> None:
    repeated = [name for name, number in Counter(row["id"] for row in rows).items() if number > 1]
    if repeated:
        paths = " and ".join(row["source_path"] for row in rows if row["id"] == repeated[0])
        raise SteadyDancerError(f"{folder}: {paths} would both be called {repeated[0]}; rename one")


def _words(role: str) -> str:
    return "images" if role == "image" else "videos"


def _read_notes(table: Location) -> dict[str, Row]:
    """Return file name → style and dynamics."""
    given: dict[str, Row] = {}
    for number, row in enumerate(read_manifest(table, (), ("file", "style", "dynamics"), _COLUMNS), 1):
        file, style, dynamics = ((row.get(name) or "").strip() for name in ("file", "style", "dynamics"))
        if not file or (dynamics and dynamics.lower() not in DYNAMICS) or file in given:
            what = (
                "names no file (column `file`)"
                if not file
                else f"names {file} again"
                if file in given
                else f"has dynamics {dynamics!r}; choose {' or '.join(DYNAMICS)}"
            )
            raise SteadyDancerError(f"{table}, row {number} {what}")
        given[file] = {"style": style.lower() or None, "dynamics": dynamics.lower() or None}
    return given
