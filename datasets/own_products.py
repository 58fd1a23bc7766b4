"""What this program has made, known by what lies in a folder: so that it is not taken for somebody's sources.

A folder is ours if the record or the plan in it is: of artifacts, finished or half made. A few others are known by
what lies beside them: galleries of a training run, and what a demo makes. Names alone say nothing: a person's own
`renders` or `clips` stay a person's.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from .artifact import PLAN, RECORD
from .storage import Location

# What `kind` of a finished artifact's record may be.
KINDS = frozenset({"clips", "latents", "checkpoint", "renders", "metrics", "export", "forgotten", "conversion"})
# Fields that a plan begins with → what is being made; the first that fits.
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
_OF_OURS = frozenset({"version", "code_version", "stage"})  # fields of records, of which each kind has one
_GALLERY = frozenset({"steps", "clips", "settings"})
_OF_A_CLIP = re.compile(r"clips/[0-9a-f]{16}\.mp4")


def kind_of_folder(folder: Location, is_file: Callable[[Location], bool] = lambda place: place.is_file()) -> str | None:
    """The kind of the artifact that lies in a folder, finished or not; None if it is none of ours.

    Args:
        folder: here or on a store.
        is_file: whether there is a file.
    """
    record = _read(folder / RECORD, is_file)
    if record is not None:
        kind = record.get("kind")
        return kind if kind in KINDS and record.keys() & _OF_OURS else None
    plan = _read(folder / PLAN, is_file)
    return next((kind for fields, kind in _PLANS if plan is not None and fields <= plan.keys()), None)


class OwnProducts:
    """Folders below another one in which something lies that this program has made.

    What is given itself is no product, wherever it lies: who gives an export or the videos of an evaluation means them.

    Args:
        top: what was given.
        is_file: whether there is a file, asked of places below `top`.
        is_meant: whether a person has named a folder below `top`, so that it is a source after all.
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
        """The places that lie in no product, and how many do by the outermost product that they lie in."""
        kept, left_out = list[Location](), Counter[str]()
        for place in places:
            product = self._above(place.parent)
            if product is None:
                kept.append(place)
            else:
                left_out[str(product)] += 1
        return kept, dict(sorted(left_out.items()))

    def _above(self, folder: Location) -> Location | None:
        """The outermost product, below the top, that holds a folder or is it."""
        if folder not in self._found:
            # A link may lead out of the top's own path, never its name.
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
            case "dancers":  # what a demo's curation was given: may be given to another with the demo's folder
                return self._is_demo(beside) and beside != self._top
        return _has(_read(folder / RECORD, self._is_file), _GALLERY)

    def _is_demo(self, folder: Location) -> bool:
        inputs = _read(folder / "inputs.json", self._is_file)
        return inputs is not None and set(inputs) == {"clips"}

    def _are_pairs_of_clips(self, folder: Location) -> bool:
        """Whether pairs were cut out of a curation's clips, as the demo does."""
        table = folder / "pairs.jsonl"
        try:
            first = json.loads(table.read_text().partition("\n")[0]) if self._is_file(table) else None
        except (OSError, ValueError):
            return False
        return isinstance(first, dict) and bool(_OF_A_CLIP.fullmatch(str(first.get("driving"))))


def _has(value: dict[str, Any] | None, fields: frozenset[str]) -> bool:
    return value is not None and fields <= value.keys()


def _read(file: Location, is_file: Callable[[Location], bool]) -> dict[str, Any] | None:
    """A JSON object; None if there is none, or none that could be read."""
    try:
        value = json.loads(file.read_text()) if is_file(file) else None
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
