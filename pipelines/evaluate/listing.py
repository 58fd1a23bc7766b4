"""The catalogue of metrics as lines: what each metric needs, and which weights are here, under which licence."""

from collections.abc import Iterator

from ...models.weights import lookup
from ...models.weights.catalogue import Weight
from .catalogue import GROUPS, METRICS, TABLES, Group, Metric
from .judges import availability, is_non_commercial
from .protocols import PROTOCOLS


def catalogue_lines() -> list[str]:
    """Return the lines of `evaluate --list`."""
    lines: list[str] = []
    for group in GROUPS.values():
        lines += [*_group_lines(group), ""]
    tables = ", ".join(f"{name} ({words.lower()})" for name, words in TABLES.items())
    protocols = (f"  {name:20} {protocol.description}" for name, protocol in PROTOCOLS.items())
    return [*lines, f"tables for --metrics: {tables}", "", "protocols", *protocols]


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
    needs = ["truth" if "truth" in metric.needs else "no truth", *(need for need in metric.needs if need != "truth")]
    needs = ["driving video or truth" if need == "driving" else need for need in needs]
    unit = f"{metric.unit}{f', {metric.better} is better' if metric.better else ''}".strip(", ")
    level = "set" if metric.level == "set" else "per video"
    return f"  {metric.name:34} {level:9}  needs {', '.join(needs):42}  {metric.meaning}{f' ({unit})' if unit else ''}"
