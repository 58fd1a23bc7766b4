"""Recognise folders that this program wrote, so that curation does not read them as source videos.

An artifact, finished or not, is recognised by its record or plan. A few other folders (galleries of a training run,
outputs of the demo) are recognised by the files next to them. Names alone are not enough: a user's own folder `renders`
or `clips` is a source.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from .artifact import PLAN, RECORD
from .storage import Location

# Values of `kind` in the record of a finished artifact.
KINDS = frozenset({"clips", "latents", "checkpoint", "renders", "metrics", "export", "forgotten", "conversion"})
# Fields of a plan → kind of the artifact; the first match counts.
_PLANS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"config", "sources", "num_sources"}), "clips"),
    (frozenset({"selection", "parent", "decisions"}), "clips"),
    (frozenset({"config", "clips", "components", "encodings"}), "latents"),
    (frozenset({"config", "checkpoint", "pairs", "components"}), "renders"),
    (frozenset({"config", "renders", "truths"}), "metrics"),
    (frozenset({"config", "clips", "packet_size"}), "export"),
    (frozenset({"request", "forgotten"}), "forgotten"),
    (frozenset({"parent", "forgotten"}), "clips"),
)
_TRAINING = frozenset({"config", "latents", "base", "parent"})  # fields of a training run's start.json
_OF_OURS = frozenset({"version", "code_version", "stage"})  # every record has at least one of these fields
_GALLERY = frozenset({"steps", "clips", "settings"})
_OF_A_CLIP = re.compile(r"clips/[0-9a-f]{16}\.mp4")


def kind_of_folder(folder: Location, is_file: Callable[[Location], bool] = lambda place: place.is_file()) -> str | None:
    """Return the kind of the artifact in a folder, finished or not; None if this program did not write it.

    Args:
        folder: local or in a store.
        is_file: checks whether a location is a file.
    """
    record = _read(folder / RECORD, is_file)
    if record is not None:
        kind = record.get("kind")
        return kind if kind in KINDS and record.keys() & _OF_OURS else None
    plan = _read(folder / PLAN, is_file)
    return next((kind for fields, kind in _PLANS if plan is not None and fields <= plan.keys()), None)


class GeneratedOutputs:
    """Folders below a given one that this program wrote (products).

    The given folder itself never counts as a product: a user who gives an export or rendered videos wants to use them.

    Args:
        top: the folder that the user gave.
        is_file: checks whether a location below `top` is a file.
        is_meant: checks whether the user named a folder below `top` explicitly, which makes it a source.
    """

    def __init__(
        self,
        top: Location,
        is_file: Callable[[Location], bool],
        is_meant: Callable[[Location], bool] = lambda folder: False,
    ) -> None:
        self._top, self._is_file, self._is_meant = top, is_file, is_meant
        self._found: dict[Location, Location | None] = {top: None}

    def without(self, places: Iterable[Location]) -> tuple[list[Location], dict[str, int]]:
        """Return the places outside all products, and the number of places in each outermost product."""
        outside, left_out = list[Location](), Counter[str]()
        for place in places:
            product = self._above(place.parent)
            if product is None:
                outside.append(place)
            else:
                left_out[str(product)] += 1
        return outside, dict(sorted(left_out.items()))

    def _above(self, folder: Location) -> Location | None:
        """Return the outermost product below the top that is, or contains, a folder."""
        if folder not in self._found:
            # A link may point outside the top, but its own path is always below it.
            above = self._above(folder.parent) if folder != folder.parent else None
            is_ours = above is None and not self._is_meant(folder) and self._is_product(folder)
            self._found[folder] = folder if is_ours else above
        return self._found[folder]

    def _is_product(self, folder: Location) -> bool:
        if kind_of_folder(folder, self._is_file) is not None:
            return True
        beside = folder.parent
        match folder.name:
            case ".engine":
                return True
            case "pose_videos":
                return kind_of_folder(beside, self._is_file) == "export"
            case "gallery":
                return _has(_read(beside / "start.json", self._is_file), _TRAINING)
            case "pairs":
                return self._are_pairs_of_clips(folder)
            case "report":
                return self._is_demo(beside)
            case "dancers":  # the demo's source videos, which a user may give to another curation
                return self._is_demo(beside) and beside != self._top
        return _has(_read(folder / RECORD, self._is_file), _GALLERY)

    def _is_demo(self, folder: Location) -> bool:
        inputs = _read(folder / "inputs.json", self._is_file)
        return inputs is not None and set(inputs) == {"clips"}

    def _are_pairs_of_clips(self, folder: Location) -> bool:
        """Check whether pairs were made from a curation's clips, as the demo does."""
        table = folder / "pairs.jsonl"
        try:
            first = json.loads(table.read_text().partition("\n")[0]) if self._is_file(table) else None
        except (OSError, ValueError):
            return False
        return isinstance(first, dict) and bool(_OF_A_CLIP.fullmatch(str(first.get("driving"))))


def _has(value: dict[str, Any] | None, fields: frozenset[str]) -> bool:
    return value is not None and fields <= value.keys()


def _read(file: Location, is_file: Callable[[Location], bool]) -> dict[str, Any] | None:
    """Read a JSON object; None if the file is missing or is not a readable JSON object."""
    try:
        value = json.loads(file.read_text()) if is_file(file) else None
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
