"""Read a benchmark from a local copy: find its layout, list its files once in `benchmark.json`, then check them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from ..file_names import file_stem
from ..schema import Row
from ..storage import Location, location
from ..storage.files import files_below, name_below
from ..storage.locations import is_utf8
from ..text import TextError, read_text, strip_text
from . import layouts
from .file_lists import describe
from .layouts import Draft, Found
from .listing import FILE, Entry, read_listing, write_listing
from .pairs import Benchmark, BenchmarkError
from .prepared import FOLDER as PREPARED
from .prepared import first_frame, humanvid_reference, prepare
from .tables import read_table

ENVIRONMENT = "STEADYDANCER_BENCHMARKS"
"""Folder that holds benchmarks by name."""

NAMES: dict[str, tuple[str, ...]] = {
    "tiktok": ("frames", "clips", "table"),
    "tiktok-humanvid": ("frames", "clips"),
    "realisdance-val": ("realisdance", "table"),
    "x-dance": ("table", "stems"),
}
"""Name of a benchmark → the layouts in which it is published."""

_SPELLINGS = {"xdance": "x-dance", "realisdance": "realisdance-val"}
# At the end of a copy's name, as in "TikTok_dataset". "realisdance-own" is no published benchmark: it has other pairs.
_USUAL_WORDS = ("dataset", "data", "benchmark", "val")
_MEASURED = "measured"
"""Folder that `xdance build` writes beside the pairs."""
_OWN_FOLDERS = (PREPARED, _MEASURED)
_HUMANVID_CLIPS, _TIKTOK_CLIPS = 40, 340
_EXPECTED = (
    "expected one of: a table pairs.* or metadata.* with columns image and driving; ref/ beside gt/ "
    "(RealisDance-Val); NAME/images/*.png, NAME/*.png or NAME.mp4 with NAME_reference.png (TikTok); images and "
    "videos of equal names, or a folder for each video with its images (X-Dance)"
)


def read_benchmark(
    name_or_folder: str | os.PathLike[str] | Location, folder: Location | str | None = None
) -> Benchmark:
    """Read a benchmark by name or folder.

    The first reading writes `benchmark.json` into the folder: name, layout, pairs, and size and sha256 of each file.
    Later ones check the files against it. Folders of frames become videos in `prepared/` first.

    Args:
        name_or_folder: one of `NAMES`, which is looked for in the folder that the environment variable
            `STEADYDANCER_BENCHMARKS` names; or a folder, whose layout is detected; or `NAME=FOLDER`.
        folder: local copy of the named benchmark.

    Raises:
        BenchmarkError: no folder, no known layout (the message lists what was found), two files or pairs of one name,
            or files that changed since they were listed.
    """
    name, place = _find(str(name_or_folder), None if folder is None else location(folder))
    seen = _names(place)
    file = place / (f"benchmark-{name}.json" if name == "tiktok-humanvid" else FILE)
    if not file.is_file():
        _list(name, place, file, seen)
    benchmark = read_listing(place, file, seen)
    if name is not None and benchmark.layout not in NAMES[name]:
        raise BenchmarkError(
            f"{place} is listed as {benchmark.name} in the layout {benchmark.layout}, which is not one of {name}: "
            f"{', '.join(NAMES[name])}"
        )
    return benchmark


def _find(text: str, folder: Location | None) -> tuple[str | None, Location]:
    """Return (name or None, folder)."""
    before, equals, after = text.partition("=")
    if folder is None and equals and _spelled(before) in NAMES:
        text, folder = before, location(after)
    name = _spelled(text)
    if folder is None and (name not in NAMES or location(text).is_dir()):
        name, folder = ("" if name not in NAMES else name), location(text)
    if folder is not None:
        if name and name not in NAMES:
            raise BenchmarkError(f"unknown benchmark {text}: choose {', '.join(NAMES)}, or pass only a folder")
        if not folder.is_dir():
            what = "is a file" if folder.is_file() else "does not exist"
            raise BenchmarkError(f"{folder} {what}: pass the folder of a benchmark, or one of {', '.join(NAMES)}")
        return name or None, folder
    if not (top := os.environ.get(ENVIRONMENT)):
        raise BenchmarkError(
            f"no copy of {name} is known: set {ENVIRONMENT} to the folder that contains {name}/, or pass its folder"
        )
    place = location(top) / name
    if not place.is_dir():
        raise BenchmarkError(f"{place} does not exist: put a copy of {name} there, or pass its folder")
    return name, place


def _names(folder: Location) -> list[str]:
    """Return the relative names of a benchmark's own files.

    Raises:
        BenchmarkError: a name is not UTF-8.
    """
    names = [name_below(file, folder) for file in files_below(folder)]
    own = [
        name
        for name in names
        if not any(part.startswith(".") for part in name.split("/"))
        and name.split("/")[0] not in _OWN_FOLDERS
        and not (name.startswith("benchmark") and name.endswith(".json"))
    ]
    if odd := [name for name in own if not is_utf8(name)]:
        raise BenchmarkError(f"{folder}: {len(odd)} names are not UTF-8, as {odd[0]!a}: rename these files")
    return own


def _list(name: str | None, folder: Location, file: Location, names: Sequence[str]) -> None:
    """Detect the layout, prepare videos, and write the list.

    Raises:
        BenchmarkError: no layout fits, or names repeat.
    """
    known, found, entries = _detected(name, folder, names)
    drafts = prepare(found, folder, known, humanvid_reference if known == "tiktok-humanvid" else first_frame)
    if entries is None:
        entries = [Entry(draft, _prompt(folder, draft)) for draft in drafts]
    entries = [Entry(_renamed(one.draft), one.prompt, one.kinds, one.measured) for one in entries]
    write_listing(
        folder, file, known, found.layout, entries, sequences=found.sequences, seen=names, remarks=found.remarks
    )


def list_pairs(name_or_folder: str | os.PathLike[str] | Location) -> list[Row]:
    """Return the pairs of a benchmark for a plan: nothing is written, prepared or checked, and prompts are not read.

    Raises:
        BenchmarkError: as `read_benchmark`, except for changed files.
    """
    name, place = _find(str(name_or_folder), None)
    _, found, _ = _detected(name, place, _names(place))
    return [
        {"id": file_stem(draft.name), "image": draft.image or "", "driving": draft.driving or "", "prompt": ""}
        for draft in found.drafts
    ]


def _detected(name: str | None, folder: Location, names: Sequence[str]) -> tuple[str, Found, list[Entry] | None]:
    """Return the benchmark's name, its pairs, and their entries if a table states them."""
    found, entries = _detect(name, folder, names)
    known = name or _name_of(folder, found.layout)
    if known == "tiktok-humanvid":
        found = _last_forty(found, folder)
    _require_unique(folder, [_renamed(draft) for draft in found.drafts])
    return known, found, entries


def _name_of(folder: Location, layout: str) -> str:
    """Name a copy after its folder; only the layout of RealisDance-Val is no other benchmark's.

    What `xdance build` made is never a published benchmark, however its folder is called.
    """
    own = file_stem(folder.absolute().name)
    if (folder / _MEASURED).is_dir():
        return f"{own}-built" if _spelled(own) in NAMES else own
    if layout == "realisdance":
        return "realisdance-val"
    short = own.lower().replace("_", "-")
    for word in _USUAL_WORDS:
        short = short.removesuffix(f"-{word}")
    return _spelled(short) if _spelled(short) in NAMES else own


def _spelled(text: str) -> str:
    """Return a name in lower case, spelled as in `NAMES`."""
    return _SPELLINGS.get(text.lower(), text.lower())


def _detect(name: str | None, folder: Location, names: Sequence[str]) -> tuple[Found, list[Entry] | None]:
    allowed = NAMES[name] if name else (*layouts.LAYOUTS, "table")
    tables = layouts.find_tables(names) if "table" in allowed else []
    entries, texts = list[Entry](), dict[str, str]()
    for table in tables:
        more, prompts = read_table(folder, table, names)
        entries, texts = entries + more, texts | prompts
    if entries:
        return Found("table", tuple(entry.draft for entry in entries), {}), entries
    for layout, detect in layouts.LAYOUTS.items():
        if layout in allowed:
            found = layouts.clips(names, is_named=name is not None) if layout == "clips" else detect(names)
            if found is not None:
                return found, _with_texts(folder, found, texts) if texts else None
    what = f"the layouts of {name} ({', '.join(allowed)})" if name else "any known layout of a benchmark"
    raise BenchmarkError(f"{folder} does not have {what}. Found:\n{describe(names)}\n{_EXPECTED}")


def _with_texts(folder: Location, found: Found, texts: dict[str, str]) -> list[Entry]:
    """Give pairs the prompts that a table states by the names of their images or videos."""
    entries = []
    for draft in found.drafts:
        names = [PurePosixPath(file).name for file in (draft.image, draft.driving) if file]
        prompt = next((texts[name] for name in names if texts.get(name)), "")
        entries.append(Entry(draft, prompt or _prompt(folder, draft)))
    return entries


def _prompt(folder: Location, draft: Draft) -> str:
    """Read the text of a pair.

    Raises:
        BenchmarkError: it is not text in a known encoding.
    """
    if draft.prompt is None:
        return ""
    try:
        return strip_text(read_text(folder / draft.prompt)) or ""
    except TextError as error:
        raise BenchmarkError(str(error)) from error


def _renamed(draft: Draft) -> Draft:
    return Draft(file_stem(draft.name), draft.image, draft.driving, None, draft.truth, False, draft.problems)


def _last_forty(found: Found, folder: Location) -> Found:
    """Select HumanVid's test clips, the last 40 of the 340 of TikTok.

    Raises:
        BenchmarkError: the copy has another number of clips.
    """
    drafts = found.drafts
    if len(drafts) not in (_HUMANVID_CLIPS, _TIKTOK_CLIPS):
        raise BenchmarkError(
            f"{folder} has {len(drafts)} clips ({drafts[0].name} … {drafts[-1].name}), but tiktok-humanvid is the last "
            f"{_HUMANVID_CLIPS} of the {_TIKTOK_CLIPS} of TikTok: pass a copy with all of them, or with these alone"
        )
    kept = drafts[-_HUMANVID_CLIPS:]
    sequences = {draft.driving: found.sequences[draft.driving] for draft in kept if draft.driving in found.sequences}
    return Found(found.layout, kept, sequences, found.remarks)


def _require_unique(folder: Location, drafts: Sequence[Draft]) -> None:
    by_id: dict[str, list[str]] = {}
    for draft in drafts:
        by_id.setdefault(draft.name, []).append(f"{draft.image} with {draft.driving}")
    wrong = [f"{name}: {' and '.join(pairs[:3])}" for name, pairs in by_id.items() if len(pairs) > 1]
    if wrong:
        raise BenchmarkError(
            f"{folder}: {len(wrong)} ids are used by several pairs; give each its own (column id): "
            + "; ".join(wrong[:3])
        )
