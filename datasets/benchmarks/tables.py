"""Tables of pairs: which row is a pair, and what a table states about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from ..file_names import file_stem
from ..manifest import read_manifest
from ..pairs import BENCHMARK_COLUMNS, PAIR_COLUMNS
from ..storage import Location, join, relative
from ..text import strip_text
from .file_lists import is_image, is_video
from .layouts import TRUTH_FOLDERS, Draft
from .listing import Entry
from .pairs import KINDS, BenchmarkError

_COLUMNS = {
    **PAIR_COLUMNS,
    "image": (*PAIR_COLUMNS["image"], "image_file_name"),
    "driving": (*PAIR_COLUMNS["driving"], "video", "video_path", "video_file_name"),
    "truth": ("gt", "ground_truth", "truth_video"),
}


def read_table(folder: Location, table: str, names: Sequence[str]) -> tuple[list[Entry], dict[str, str]]:
    """Return the pairs of a table, or, if it names no driving videos, its prompts by the names of its files."""
    place = folder / table
    # `file_name` is an image or a video, by its suffix.
    rows = read_manifest(
        place, (), ("image", "driving", "prompt", "id", "truth", "file_name"), _COLUMNS, BENCHMARK_COLUMNS
    )
    entries, texts = [], {}
    for number, row in enumerate(rows, 1):
        file = row.get("file_name") or ""
        image = row.get("image") or (file if is_image(file) else None)
        driving = row.get("driving") or (file if is_video(file) else None)
        prompt = row.get("prompt") or ""
        if image and driving:
            entries.append(_entry(folder, place, row, (image, driving), names))
        elif image or driving:
            texts[PurePosixPath((image or driving or "").strip()).name] = prompt
        else:
            raise BenchmarkError(f"{place}, row {number}: no image and no driving (columns: {', '.join(row)})")
    if entries and texts:
        raise BenchmarkError(
            f"{place}: {len(texts)} of {len(rows)} rows lack an image or a driving video, first {next(iter(texts))}"
        )
    return entries, texts


def _entry(
    folder: Location, table: Location, row: dict[str, Any], files: tuple[str, str], names: Sequence[str]
) -> Entry:
    image, driving = (_relative(folder, table, file) for file in files)
    name = strip_text(row.get("id")) or f"{PurePosixPath(image).stem}-{PurePosixPath(driving).stem}"
    top = PurePosixPath(relative(table.parent, folder))
    beside = [str(top / one / f"{file_stem(name)}.mp4").removeprefix("./") for one in TRUTH_FOLDERS]
    truth = (
        _relative(folder, table, row["truth"]) if row.get("truth") else next((t for t in beside if t in names), None)
    )
    kinds = row.get("kinds") or row.get("kind") or ()
    kinds = kinds.replace(";", ",").replace(" ", "").split(",") if isinstance(kinds, str) else kinds
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise BenchmarkError(f"{table}, pair {name}: unknown kind {unknown[0]!r}; choose some of {', '.join(KINDS)}")
    draft = Draft(name, image, driving, None, truth)
    return Entry(draft, row.get("prompt") or "", tuple(kinds), row.get("measured") or {})


def _relative(folder: Location, table: Location, name: str) -> str:
    """Return a name in a table relative to the benchmark's folder if the file is in it, else absolute."""
    place = join(table.parent, name.strip())
    path = relative(place.absolute(), folder.absolute())
    return str(place.absolute()) if path.startswith("..") else path
