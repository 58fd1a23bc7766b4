"""The catalogue of metrics as lines: what each metric needs, and which weights are here, under which licence."""

from collections.abc import Iterator

from ...models.weights import lookup
from ...models.weights.catalogue import Weight
from .catalogue import GROUPS, METRICS, TABLES, Group, Metric
from .families.entry import ARROWS
from .judges import availability, is_non_commercial
from .protocols import PROTOCOLS


def catalogue_lines() -> list[str]:
    """Return the lines of `evaluate --list`."""
    lines: list[str] = []
    for group in GROUPS.values():
        lines += [*_group_lines(group), ""]
    tables = (f"  {name:20} {words}" for name, words in TABLES.items())
    protocols = (f"  {name:20} {protocol.description}" for name, protocol in PROTOCOLS.items())
    return [*lines, "tables for --metrics", *tables, "", "protocols", *protocols]


def _group_lines(group: Group) -> Iterator[str]:
    here = availability(group)
    yield f"{group.name}: {group.title}"
    for row in here.rows:
        yield f"  weights {_weights(row)}"
    if group.estimator:
        yield "  or keypoints beside the videos (--preset with evaluate.pose_model `supplied`)"
    if here.missing and not here.rows:
        yield f"  weights missing: {here.missing}"
    for metric in METRICS.values():
        if metric.group == group.name:
            yield _metric(metric)


def _weights(row: Weight) -> str:
    folder = lookup.find(row)
    licence = f"{row.licence}{' (non-commercial)' if is_non_commercial(row) else ''}"
    where = f"present in {folder}" if folder else f"missing, not in {row.search_locations}; {row.remedy}"
    return f"{row.name}, {licence}: {where}"


def _metric(metric: Metric) -> str:
    """Return name, level, unit with an arrow to the better values, what it needs, and its meaning."""
    unit = f"{metric.unit} {ARROWS[metric.better]}".rstrip()
    level = "set" if metric.level == "set" else "per video"
    return f"  {metric.name:40} {level:9}  {unit:12}  needs {_needs(metric):40}  {metric.meaning}"


def _needs(metric: Metric) -> str:
    """Describe whether a metric needs a truth, and what else."""
    if "truth" in metric.needs:
        first = "truth"
    elif "driving" not in metric.needs:
        first = "no truth"
    else:  # without a driving video, the driven pose is the truth's
        first = "driving video, else truth" if GROUPS[metric.group].estimator else "driving video"
    return "; ".join([first, *(need for need in metric.needs if need not in ("truth", "driving"))])
