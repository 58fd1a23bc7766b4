"""Pairs to render: an image, a driving video, a prompt, and an id after which the files are called."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ... import SteadyDancerError
from ...datasets.file_names import file_stem
from ...datasets.manifest import as_text, read_manifest
from ...datasets.schema import Row
from ...datasets.storage import Location, location
from ...datasets.text import spoken

# Column of a table of pairs → other names under which it is taken.
PAIR_COLUMNS = {
    "image": ("image_path", "ref", "reference", "ref_image", "reference_image", "ref_image_path", "reference_path",
              "reference_image_path", "ref_path", "source_image", "input_image"),
    "driving": ("driving_video", "driving_path", "driving_video_path", "driver", "motion", "motion_video"),
    "prompt": ("caption", "text"),
    "id": ("pair_id",),
}  # fmt: skip
_MAX_NAMED = 8


def pair(image: Location | str, driving: Location | str, prompt: Any = "", name: Any = None) -> Row:
    """One pair; its id is the given name, or the two files' stems, as a name of files (`file_stem`).

    Raises:
        SteadyDancerError: prompt or name is no text and no number.
    """
    image, driving = location(image), location(driving)
    given = spoken(_text("id", name))
    prompt = _text("prompt", prompt)
    # Absolute: workers, and the evaluation later, may run in other folders.
    return {
        "id": file_stem(given or f"{image.stem}-{driving.stem}"),
        "image": str(image.absolute()),
        "driving": str(driving.absolute()),
        "prompt": prompt if spoken(prompt) else "",
    }


def _text(name: str, value: Any) -> str | None:
    try:
        return as_text(value)
    except ValueError as error:
        raise SteadyDancerError(f"a pair's {name} {error}") from None


def read_pairs(path: Location) -> list[Row]:
    """Pairs of a csv, jsonl or parquet with the columns `image` and `driving` and, if wanted, `prompt` and `id`.

    Raises:
        SteadyDancerError: the table cannot be read, or two of its pairs have one id.
    """
    rows = read_manifest(path, ("image", "driving"), ("prompt", "id"), PAIR_COLUMNS)
    pairs = [pair(row["image"], row["driving"], row.get("prompt"), row.get("id")) for row in rows]
    require_unique(pairs, f"rows of {path}", [row.get("id") for row in rows])
    return pairs


def require_unique(pairs: Sequence[Row], what: str = "pairs", given: Sequence[str | None] = ()) -> None:
    """Refuse pairs of one id: their videos would have one name.

    Args:
        pairs: all of them.
        what: they are called in the message, which counts them from 1.
        given: ids as they were asked for, which may have differed.

    Raises:
        SteadyDancerError: it names the ids and the pairs.
    """
    numbers = Counter(row["id"] for row in pairs)
    wrong = []
    for name in [name for name, number in numbers.items() if number > 1]:
        places = [k for k, row in enumerate(pairs) if row["id"] == name]
        asked = {given[k] or "" for k in places} if given else {name}
        becomes = "" if asked in ({name}, {""}) else f" ({', '.join(map(repr, sorted(asked)))} as a name of files)"
        numbered = " and ".join(str(k + 1) for k in places[:_MAX_NAMED])
        wrong.append(f"two pairs have one id, {name}{becomes}: {what} {numbered}")
    if wrong:
        more = f"\n  and {len(wrong) - _MAX_NAMED} more" if len(wrong) > _MAX_NAMED else ""
        raise SteadyDancerError(
            "\n  ".join(wrong[:_MAX_NAMED])
            + f"{more}\ngive each pair its own (column `id`; without it, it is made of the names of both files)"
        )
