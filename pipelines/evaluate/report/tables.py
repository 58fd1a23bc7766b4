"""The tables of metrics, in one order for page and LaTeX: VBench's dimensions, then one table for each subject."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from ...pages.layout import Section, show
from ..catalogue import METRICS, Metric
from ..families.entry import ARROWS
from ..summary import covered, shortfall
from .results import ALL_PAIRS, MOTION, Result

NON_COMMERCIAL = "non-commercial"
_VBENCH, _FURTHER = "VBench-I2V, with the amount of motion", "Further scores"
_SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "Pose following": ("pose",),
    "Against the ground truth": ("truth", "lpips-vgg", "lpips-alex"),
    "Distances between sets": ("inception", "i3d", "i3d-videogpt"),
    "First frame": ("first_frame",),
    "Identity over time": ("face", "person-crop"),
    "Background": ("background",),
    "Change from frame to frame": ("pixels",),
    "ImageNet backbone from a package": ("efficientnet",),
}
TEXTS = {
    _VBENCH: "A repeated reference image wins six of the eight dimensions: read motion_ratio (1 is right) or "
    "dynamic_degree beside them.",
    "Pose following": "The ceiling is the driving clip against its own coded copy: the limit of the estimator.",
    "Distances between sets": "N is the number of features. A Fréchet distance falls with N; KID and KVD do not.",
}


class Column(NamedTuple):
    """A method, where its numbers come from, and of which program or table."""

    method: str
    origin: str
    source: str

    @property
    def title(self) -> str:
        """Heading of the column."""
        mark = "" if self.origin == "measured" else f" ({self.origin}: {self.source})"
        return f"{self.method or 'render'}{mark}"


def tables_of(metrics: Iterable[str]) -> dict[str, list[str]]:
    """Return title → metrics. A ceiling stands beside its metric; motion stands beside VBench's dimensions, too."""
    out: dict[str, list[str]] = {title: [] for title in (_VBENCH, *_SUBJECTS, _FURTHER)}
    for name in metrics:
        metric = METRICS.get(name)
        if metric is None or not metric.ceiling_of:
            out[_subject(metric)].append(name)
    if out[_VBENCH]:
        also = [name for each in out.values() for name in each if name in METRICS and "vbench" in METRICS[name].tables]
        out[_VBENCH] = [name for name in METRICS if name in also and name not in MOTION]
        out[_VBENCH] += [name for name in MOTION if name in also]
    return {title: each for title, each in out.items() if each}


def _subject(metric: Metric | None) -> str:
    if metric is None:
        return _FURTHER
    if metric.level == "set" and metric.group == "efficientnet":
        return "Distances between sets"
    return next((title for title, groups in _SUBJECTS.items() if metric.group in groups), _VBENCH)


def columns_of(results: Iterable[Result]) -> list[Column]:
    """Return the methods in the order of their first result."""
    return list(dict.fromkeys(Column(one.method, one.origin, one.source) for one in results))


def metric_sections(results: Sequence[Result], kind: str = ALL_PAIRS) -> list[Section]:
    """Build the tables of the pairs of a kind: a row for each metric, a column for each method."""
    own = [one for one in results if one.kind == kind and one.origin != "published"]
    names = [name for name in dict.fromkeys(one.metric for one in own) if not _lacks_weights(own, name)]
    return [
        Section(title, TEXTS.get(title, ""), head=head_of(own), rows=rows_of(own, names))
        for title, names in tables_of(names).items()
    ]


def _lacks_weights(results: Iterable[Result], name: str) -> bool:
    """Check whether a metric has no value of any method but for its weights; such metrics have a table of their own."""
    return all(one.value is None and set(one.missing) == {"weights_missing"} for one in results if one.metric == name)


def kind_section(results: Sequence[Result], kind: str) -> Section:
    """Build one table of all metrics of the pairs of a kind."""
    own = [one for one in results if one.kind == kind]
    some = [one for one in own if one.n or one.value is not None]
    names = [name for each in tables_of(dict.fromkeys(one.metric for one in some)).values() for name in each]
    return Section(f"Pairs of kind {kind}", head=head_of(own), rows=rows_of(own, dict.fromkeys(names)), is_folded=True)


def head_of(results: Iterable[Result]) -> list[str]:
    """Return the headings of a table of metrics."""
    return ["metric", "", "unit", *(column.title for column in columns_of(results)), "judges", "meaning"]


def rows_of(results: Sequence[Result], names: Iterable[str]) -> list[list[object]]:
    """Return the rows of a table of metrics."""
    at = {(one.metric, Column(one.method, one.origin, one.source)): one for one in results}
    columns = columns_of(results)
    rows: list[list[object]] = []
    for name in names:
        found = [at.get((name, column)) for column in columns]
        some = next(one for one in found if one is not None)
        cells = ["" if one is None else cell(one) for one in found]
        meaning = METRICS[name].meaning if name in METRICS else ""
        rows.append([name, direction(some), some.unit, *cells, judges_text(found), meaning])
    return rows


def cell(result: Result) -> Markup:
    """Format value, interval, N, ceiling, reasons of nulls and warnings; the best value is bold."""
    number = escape(show(None if result.value is None else float(result.value)))
    value = Markup("<b>{}</b>").format(number) if result.is_best else number
    has_interval = result.low is not None  # then the share that it covers stands beside it
    warnings = [one for one in result.warnings if not (has_interval and one == shortfall(result.clusters))]
    lines = [facts(result), result.without_value, *warnings]
    small = [Markup('<span class="dim">{}</span>').format(line) for line in lines if line]
    return Markup("<br>").join([value, *small])


def facts(result: Result) -> str:
    """Return interval, N and ceiling in a line."""
    parts = [
        "" if result.low is None or result.high is None else interval(result.low, result.high),
        "" if result.low is None else covered(result.clusters),
        "" if result.n is None or result.value is None else f"N {result.n}",
        "" if result.ceiling is None else f"ceiling {show(float(result.ceiling))}",
    ]
    if result.spread:
        between = [show(float(one)) for one in result.spread if one is not None]
        parts.append(f"variance {' between seeds, '.join(between)}{' between clips' if len(between) > 1 else ''}")
    return ", ".join(part for part in parts if part)


def interval(low: float, high: float) -> str:
    """Format an interval."""
    return f"[{show(float(low))}, {show(float(high))}]"


def direction(result: Result) -> str:
    """Return an arrow to the better values, or nothing."""
    return ARROWS.get(result.better, "")


def judges_text(results: Iterable[Result | None]) -> str:
    """Name the networks of a metric with their licences; those that forbid commercial use are marked."""
    judges = dict.fromkeys(judge for one in results if one is not None for judge in one.judges)
    return "; ".join(
        f"{one.name} ({one.licence}{f', {NON_COMMERCIAL}' if one.non_commercial else ''})" for one in judges
    )


def is_share(metric: Metric) -> bool:
    """Check whether papers print a metric as a percentage: VBench's dimensions."""
    return "vbench" in metric.tables and metric.unit in ("0..1", "share")


def printed(name: str, unit: str) -> tuple[float, str]:
    """Return the factor by which papers print a metric, and its unit: VBench's dimensions are percentages."""
    metric = METRICS.get(name)
    if metric is not None and unit != "%" and is_share(metric):
        return 100.0, "%"
    return 1.0, "%" if name == "imaging_quality" else unit
