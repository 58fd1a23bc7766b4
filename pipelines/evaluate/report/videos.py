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
CAPTION_METRICS = ("psnr", "pck_10", "velocity_correlation")


def videos_section(evaluation: Evaluation, page: Location) -> Section:
    """Build the section of all pairs in the order of their ids."""
    return Section("Videos", TEXT, players=list(_rows(evaluation, page)), is_smooth=True)


def _rows(evaluation: Evaluation, page: Location) -> Iterator[list[tuple[str, str | None]]]:
    given = any(shown.driving for methods in evaluation.pairs.values() for shown in methods.values())
    for name, methods in sorted(evaluation.pairs.items()):
        first = next(iter(methods.values()))
        yield [
            (f"{name}: reference", path_from_page(first.image, page)),
            *([("driving", path_from_page(first.driving, page))] if given else []),
            ("truth", path_from_page(first.truth, page)),
            *(
                (_caption(evaluation, method, seed, shown.number), path_from_page(shown.video, page))
                for (method, seed), shown in methods.items()
            ),
        ]


def _caption(evaluation: Evaluation, method: str, seed: int | None, number: int) -> str:
    """Name the method, and below it the values of a few metrics that most readers know."""
    values = evaluation.table.values
    named = [
        f"{name} {values[method, name][number]:.3g}"
        for name in CAPTION_METRICS
        if number in values.get((method, name), {})
    ]
    return "\n".join([f"{method or 'render'}{'' if seed is None else f', seed {seed}'}", *named])
