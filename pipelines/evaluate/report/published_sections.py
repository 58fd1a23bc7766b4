"""Tables of the paper's published rows, with the methods of an evaluation above them in the same units."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ....datasets.benchmarks import PublishedRow
from ...pages.layout import Section, show
from ..catalogue import METRICS
from .published_results import TITLES, general_tables, source_of
from .results import ALL_PAIRS, MOTION, Result
from .tables import Column, columns_of, direction, interval, printed

TEXT = (
    "Rows marked “published” are printed in the paper and are not measured here: frames, sizes, pairs and definitions "
    "may differ. Where the paper does not state the variant of a metric, no value of this evaluation stands under it."
)


def published_sections(record: Mapping[str, Any], results: Sequence[Result]) -> list[Section]:
    """Build a table for each published table of the benchmark, and the tables that are of no benchmark, folded."""
    published = [one for one in results if one.origin == "published"]
    sources = dict.fromkeys(one.source for one in published)
    ours = [one for one in results if one.origin != "published" and one.kind == ALL_PAIRS]
    sections = [_beside(source, ours, [one for one in published if one.source == source]) for source in sources]
    sections += [_general(table, rows) for table, rows in general_tables(record).items()]
    return [*sections[:1], *(replace(section, is_folded=True) for section in sections[1:])]


def _beside(source: str, ours: Sequence[Result], published: Sequence[Result]) -> Section:
    names = list(dict.fromkeys(one.metric for one in published))
    names += [name for name in MOTION if name not in names and any(one.metric == name for one in ours)]
    first = {name: next(one for one in (*published, *ours) if one.metric == name) for name in names}
    head = ["method", "", *(f"{name} {direction(first[name])}".strip() for name in names), "remarks"]
    rows: list[list[object]] = []
    for group in (ours, published):
        for column in columns_of(group):
            own = {one.metric: one for one in group if Column(one.method, one.origin, one.source) == column}
            mark = column.origin if column.origin == "measured" else f"{column.origin}, {column.source}"
            cells = [_printed(own.get(name)) for name in names]
            if any(cells):
                rows.append([column.method or "render", mark, *cells, _remarks(own, names)])
    number = source.removeprefix("the paper, Table ")
    return Section(f"Published: {source}, {TITLES.get(number, '')}".rstrip(", "), TEXT, head=head, rows=rows)


def _printed(result: Result | None) -> str:
    if result is None:
        return ""
    if result.value is None:
        return f"not measured ({result.without_value})" if result.without_value else "not measured"
    factor, unit = printed(result.metric, result.unit)
    ends = ""
    if result.low is not None and result.high is not None:
        ends = f" {interval(factor * result.low, factor * result.high)}"
    count = f" N {result.n}" if result.n is not None else ""
    return f"{show(float(factor * result.value))}{' %' if unit == '%' else ''}{ends}{count}"


def _remarks(own: Mapping[str, Result], names: Sequence[str]) -> str:
    if all(one.origin == "published" for one in own.values()):
        return ""
    unknown = [name for name in names if name not in own and name not in METRICS]
    return f"{', '.join(unknown)}: the published variant is not stated" if unknown else ""


def _general(table: str, rows: Sequence[PublishedRow]) -> Section:
    names = list(dict.fromkeys(row.metric for row in rows))
    at = {(row.method, row.metric): row for row in rows}
    units = {row.metric: row.unit for row in rows}
    lines = [
        [method, "published", *(_text(at.get((method, name))) for name in names)]
        for method in dict.fromkeys(row.method for row in rows)
    ]
    head = ["method", "", *(f"{name}, {units[name]}" if units[name] else name for name in names)]
    return Section(
        f"Published: {source_of(table)}, {TITLES[table]}".removesuffix(", the paper's text"), head=head, rows=lines
    )


def _text(row: PublishedRow | None) -> str:
    return "" if row is None else row.text
