"""Pairs to render and to score: an image, a driving video, a prompt, and an id that names the output files.

A table of pairs may also say the seed of a pair, its licence, and whether the people it shows consent.
"""

import logging
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
    "seed": ("random_seed",),
    "licence": ("license",),
    "consent": ("consent_given", "has_consent"),
}  # fmt: skip
# Columns of a benchmark's table that a render does not need.
BENCHMARK_COLUMNS = ("kinds", "selected_for", "measured")
SEEDS = 2**64
_YES = frozenset({"yes", "y", "true", "t", "1", "given"})
_NO = frozenset({"no", "n", "false", "f", "0", "refused", "withdrawn", "not given"})
_MAX_NAMED = 8

_log = logging.getLogger(__name__)


def pair(
    image: Location | str,
    driving: Location | str,
    prompt: Any = "",
    name: Any = None,
    *,
    seed: Any = None,
    licence: Any = None,
    consent: Any = None,
) -> Row:
    """Build a pair; its id is `name`, or the two files' stems, converted to a file name (`file_stem`).

    Args:
        image: reference image.
        driving: driving video.
        prompt: text.
        name: the id.
        seed: of its noise; None: the configuration's.
        licence: text that is kept with the video.
        consent: whether the people of both files consent, "yes" or "no" (or true, false, 1, 0); None: not known.

    Returns:
        The row; `seed`, `licence` and `consent` are in it only if they are given.

    Raises:
        SteadyDancerError: prompt or name is neither text nor a number, or seed or consent is something else.
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
        **{name: value for name, value in _terms(seed, licence, consent).items() if value is not None},
    }


def _terms(seed: Any, licence: Any, consent: Any) -> dict[str, Any]:
    return {
        "seed": _seed(strip_text(_text("seed", seed))),
        "licence": strip_text(_text("licence", licence)) or None,
        "consent": _consent(consent),
    }


def _seed(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text) < SEEDS):
        raise SteadyDancerError(f"a pair's seed is {text!r}, but must be a whole number from 0 to 2^64 - 1")
    return int(text)


def _consent(value: Any) -> str | None:
    text = (strip_text(str(value) if isinstance(value, bool) else _text("consent", value)) or "").casefold()
    if text in _YES or not text:
        return "yes" if text else None
    if text in _NO:
        return "no"
    raise SteadyDancerError(
        f"a pair's consent is {text!r}, but must be yes or no, or empty if it is not known; a reference to a form "
        "belongs in the column licence"
    )


def _text(name: str, value: Any) -> str | None:
    try:
        return as_text(value)
    except ValueError as error:
        raise SteadyDancerError(f"a pair's {name} {error}") from None


def read_pairs(path: Location) -> list[Row]:
    """Read pairs from a csv, json, jsonl or parquet with columns `image`, `driving` and optionally the others.

    The others are `prompt`, `id`, `seed`, `licence` and `consent`; see `pair`. Logs how many rows do not say whether
    the people consent.

    Raises:
        SteadyDancerError: the table cannot be read, a row has a value that cannot be, or two pairs have the same id.
    """
    texts = ("prompt", "id", "seed", "licence", "consent")
    rows = read_manifest(path, ("image", "driving"), texts, PAIR_COLUMNS, BENCHMARK_COLUMNS, flags=("consent",))
    pairs = [_pair_of(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    require_unique(pairs, f"rows of {path}", [row.get("id") for row in rows])
    silent = sum("consent" not in row for row in pairs)
    if silent:
        _log.warning(
            "%s: %d of %d pairs do not say whether the people they show consent (column `consent`, yes or no)",
            path, silent, len(pairs),
        )  # fmt: skip
    return pairs


def _pair_of(row: Row, where: str) -> Row:
    terms = {name: row.get(name) for name in ("seed", "licence", "consent")}
    try:
        return pair(row["image"], row["driving"], row.get("prompt"), row.get("id"), **terms)
    except SteadyDancerError as error:
        raise SteadyDancerError(f"{where}: {error}") from None


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
