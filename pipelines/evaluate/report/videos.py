"""The videos of all methods, one row for each pair, which play in step."""

from collections.abc import Iterator

from ....datasets.storage import Location
from ...pages.layout import Section, path_from_page
from .evaluation import Evaluation

TEXT = (
    "Each row is a pair: the reference image, the driving video, the ground truth, and the video of each method. All "
    "videos have one clock; space plays and pauses, the arrow keys step. Videos are loaded near the window only. "
    "No pair is left out."
)
INPUTS = {"image": "reference", "driving": "driving", "truth": "truth"}
"""What a pair is rendered from and compared with -> its caption. What no pair has gets no column."""
CAPTION_METRICS = ("psnr", "pck_10", "velocity_correlation")


def videos_section(evaluation: Evaluation, page: Location) -> Section:
    """Build the section of all pairs in the order of their ids."""
    return Section("Videos", TEXT, players=list(_rows(evaluation, page)), is_smooth=True)


def _rows(evaluation: Evaluation, page: Location) -> Iterator[list[tuple[str, str | None]]]:
    every = [shown for methods in evaluation.pairs.values() for shown in methods.values()]
    given = [kind for kind in INPUTS if any(getattr(shown, kind) for shown in every)]
    place = {method: number for number, method in enumerate(evaluation.methods)}
    for name, methods in sorted(evaluation.pairs.items()):
        first = next(iter(methods.values()))
        # Packets end in any order; the columns have that of the tables.
        ordered = sorted(methods, key=lambda key: (place.get(key[0], len(place)), key[0], key[1] or 0))
        columns = [(INPUTS[kind], path_from_page(getattr(first, kind), page)) for kind in given]
        columns += [
            (_caption(evaluation, *key, methods[key].number), path_from_page(methods[key].video, page))
            for key in ordered
        ]
        (caption, file), *others = columns
        yield [(f"{name}: {caption}", file), *others]


def _caption(evaluation: Evaluation, method: str, seed: int | None, number: int) -> str:
    """Name the method, and below it the values of a few metrics that most readers know."""
    values = evaluation.table.values
    named = [
        f"{name} {values[method, name][number]:.3g}"
        for name in CAPTION_METRICS
        if number in values.get((method, name), {})
    ]
    return "\n".join([f"{method or 'render'}{'' if seed is None else f', seed {seed}'}", *named])
