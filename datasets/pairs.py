"""Pairs to render and to score: an image, a driving video, a prompt, and an id that names the output files."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .. import SteadyDancerError
from .file_names import file_stem
from .manifest import as_text, read_manifest
from .schema import Row
from .storage import Location, location
from .text import strip_text

# Column of a table of pairs → accepted other names.
PAIR_COLUMNS = {
    "image": ("image_path", "ref", "reference", "ref_image", "reference_image", "ref_image_path", "reference_path",
              "reference_image_path", "ref_path", "source_image", "input_image"),
    "driving": ("driving_video", "driving_path", "driving_video_path", "driver", "motion", "motion_video"),
    "prompt": ("caption", "text"),
    "id": ("pair_id",),
}  # fmt: skip
# Columns of a benchmark's table that a render does not need.
BENCHMARK_COLUMNS = ("kinds", "selected_for", "measured")
_MAX_NAMED = 8


def pair(image: Location | str, driving: Location | str, prompt: Any = "", name: Any = None) -> Row:
    """Build a pair; its id is `name`, or the two files' stems, converted to a file name (`file_stem`).

    Raises:
        SteadyDancerError: prompt or name is neither text nor a number.
    """
    image, driving = location(image), location(driving)
    given = strip_text(_text("id", name))
    prompt = _text("prompt", prompt)
    # Absolute, because workers and a later evaluation may run in other folders.
    return {
        "id": file_stem(given or f"{image.stem}-{driving.stem}"),
        "image": str(image.absolute()),
        "driving": str(driving.absolute()),
        "prompt": prompt if strip_text(prompt) else "",
    }


def _text(name: str, value: Any) -> str | None:
    try:
        return as_text(value)
    except ValueError as error:
        raise SteadyDancerError(f"a pair's {name} {error}") from None


def read_pairs(path: Location) -> list[Row]:
    """Read pairs from a csv, jsonl or parquet with columns `image`, `driving` and optionally `prompt` and `id`.

    Raises:
        SteadyDancerError: the table cannot be read, or two of its pairs have the same id.
    """
    rows = read_manifest(path, ("image", "driving"), ("prompt", "id"), PAIR_COLUMNS, BENCHMARK_COLUMNS)
    pairs = [pair(row["image"], row["driving"], row.get("prompt"), row.get("id")) for row in rows]
    require_unique(pairs, f"rows of {path}", [row.get("id") for row in rows])
    return pairs


def require_unique(pairs: Sequence[Row], what: str = "pairs", given: Sequence[str | None] = ()) -> None:
    """Check that all ids differ: pairs with the same id would write the same video.

    Args:
        pairs: all pairs.
        what: plural noun for the pairs in the message, which counts them from 1.
        given: ids as the user gave them, before their conversion to file names.

    Raises:
        SteadyDancerError: ids repeat; the message names them and their pairs.
    """
    numbers = Counter(row["id"] for row in pairs)
    wrong = []
    for name in [name for name, number in numbers.items() if number > 1]:
        places = [k for k, row in enumerate(pairs) if row["id"] == name]
        asked = {given[k] or "" for k in places} if given else {name}
        becomes = "" if asked in ({name}, {""}) else f" (the file name of {', '.join(map(repr, sorted(asked)))})"
        numbered = " and ".join(str(k + 1) for k in places[:_MAX_NAMED])
        wrong.append(f"several pairs have the id {name}{becomes}: {what} {numbered}")
    if wrong:
        more = f"\n  and {len(wrong) - _MAX_NAMED} more" if len(wrong) > _MAX_NAMED else ""
        raise SteadyDancerError(
            "\n  ".join(wrong[:_MAX_NAMED])
            + f"{more}\ngive each pair its own id (column `id`; the default is the names of both files)"
        )
