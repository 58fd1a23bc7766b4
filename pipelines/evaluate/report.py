"""The evaluation report: one static page with metrics, and reference, render and ground truth of each video."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ...datasets.artifact import Artifact
from ...datasets.artifact_lookup import find_artifact
from ...datasets.schema import Row
from ...datasets.storage import Location
from ..common.outcomes import NO_REASON, format_counts, format_reasons, format_truths
from ..pages.layout import Section, path_from_page, show, write_page
from .catalogue import GROUPS, METRICS, Metric
from .summary import FEW_CLUSTERS

PAGE = "report.html"
MAX_LISTED = 200
_UNKNOWN = Metric("", "", "", "", "")


def metric_section(record: Mapping[str, Any], text: str = "", metrics: Sequence[str] | None = None) -> Section:
    """Build the table of metrics: a column of each method, unit, direction, meaning, and why videos have no value.

    Args:
        record: of a finished evaluation, also of an earlier version.
        text: text above the table.
        metrics: those to show; None: all whose weights were here.
    """
    unmeasured = {name for names in record.get("weights_missing", {}).values() for name in names}
    names = [name for name in record["means"] if name not in unmeasured] if metrics is None else list(metrics)
    methods = record.get("methods", {})
    if len(methods) > 1:
        return _of_methods(record, text, names)
    (own,) = methods.values() if methods else ({},)
    rows = []
    for name in names:
        metric, mean = METRICS.get(name, _UNKNOWN), record["means"].get(name, {"mean": None, "videos": 0})
        without = format_reasons(Counter(record.get("missing", {}).get(name, {})))
        rows.append([name, mean["mean"], _interval(own.get(name)), metric.unit, mean["videos"], without,
                     _direction(metric), metric.meaning])  # fmt: skip
    head = ["metric", "mean", "95 %", "unit", "videos", "without a value", "", "meaning"]
    return Section("Metrics", text, head=head, rows=rows)


def _of_methods(record: Mapping[str, Any], text: str, names: Sequence[str]) -> Section:
    """Build the table of several methods: mean, interval and N of each."""
    methods = record["methods"]
    rows = []
    for name in names:
        metric = METRICS.get(name, _UNKNOWN)
        without = "; ".join(
            f"{method}: {words}"
            for method in methods
            if (words := format_reasons(Counter(record["missing_by_method"][method].get(name, {}))))
        )
        cells = [_cell(methods[method].get(name)) for method in methods]
        rows.append([name, *cells, metric.unit, _direction(metric), without, metric.meaning])
    head = ["metric", *methods, "unit", "", "without a value", "meaning"]
    return Section("Metrics", text, head=head, rows=rows)


def _cell(summary: Mapping[str, Any] | None) -> str | None:
    if not summary or summary["mean"] is None:
        return None
    interval = _interval(summary)
    number = "" if summary["n"] is None else f" (N {summary['n']})"
    return f"{show(float(summary['mean']))}{f' {interval}' if interval else ''}{number}"


def _interval(summary: Mapping[str, Any] | None) -> str:
    if not summary or summary.get("low") is None:
        return ""
    return f"[{show(float(summary['low']))}, {show(float(summary['high']))}]"


def _direction(metric: Metric) -> str:
    if metric.ceiling_of:
        return f"ceiling of {metric.ceiling_of}"
    return f"{metric.better} is better" if metric.better else ""


def unscored_section(rows: Sequence[Row]) -> Section:
    """Build the table of missing values, one row per video and metric, with reasons; not those of missing weights."""
    listed = [
        [row["id"] or "all videos", row["metric"] or "every metric", row["reason"] or NO_REASON, row["detail"] or ""]
        for row in rows
        if row["value"] is None and row["reason"] != "weights_missing"
    ]
    text = "" if listed else "Every metric of every video has a value."
    if len(listed) > MAX_LISTED:
        text = f"The first {MAX_LISTED} of {len(listed)}; the metrics table has all of them."
    return Section("Without a value", text, head=["video", "metric", "reason", "detail"], rows=listed[:MAX_LISTED])


def _weights_section(record: Mapping[str, Any], rows: Sequence[Row]) -> list[Section]:
    """List the groups whose weights were missing, with the remedy."""
    details = {row["metric"]: row["detail"] for row in rows if row["reason"] == "weights_missing"}
    listed = [
        [GROUPS[group].title if group in GROUPS else group, ", ".join(names), details.get(names[0], "")]
        for group, names in record.get("weights_missing", {}).items()
    ]
    text = "`steadydancer evaluate` again measures these once their weights are here."
    head = ["group", "metrics", "weights"]
    return [Section("Weights missing", text, head=head, rows=listed)] if listed else []


def _kind_sections(record: Mapping[str, Any]) -> list[Section]:
    """Build the tables of the pairs of each kind of misalignment."""
    sections = []
    for kind, methods in record.get("kinds", {}).items():
        names = [name for name in record["metrics"] if any(one.get(name, {}).get("n") for one in methods.values())]
        rows = [[name, *(_cell(methods[method].get(name)) for method in methods)] for name in names]
        sections.append(Section(f"Pairs of kind {kind}", head=["metric", *methods], rows=rows))
    return sections


def _comparison_sections(record: Mapping[str, Any]) -> list[Section]:
    """Build the tables of every method against the first one."""
    sections = []
    for one in record.get("comparisons", []):
        rows = [
            [name, found["difference"], _interval(found), found["n"], found["p"], found["p_holm"]]
            for name, found in one["metrics"].items()
        ]
        head = ["metric", f"{one['b']} − {one['a']}", "95 %", "N", "p", "p (Holm)"]
        text = "Pairs that both have; driving videos are drawn as clusters where pairs share one."
        sections.append(Section(f"{one['b']} against {one['a']}", text, head=head, rows=rows))
    return sections


def _text(record: Mapping[str, Any]) -> str:
    """Describe protocol, counts, truths, excluded clips, and the limits of the intervals."""
    protocol = record.get("protocol") or {"name": record["config"]["protocol"]}
    digest = f" (digest {protocol['digest'][:12]})" if "digest" in protocol else ""
    parts = [f"Protocol {protocol['name']}{digest}; {format_counts(record['counts'])}. "
             f"{format_truths(record.get('truths'))}"]  # fmt: skip
    for method, ids in record.get("not_measurable", {}).items():
        parts.append(
            f"{method}: {len(ids)} clips are excluded from the metrics of motion, because the estimator does not see "
            f"the motion of their driving video ({', '.join(ids[:8])}{', …' if len(ids) > 8 else ''})."
        )
    summaries = [one for each in record.get("methods", {}).values() for one in each.values()]
    clusters = [one["clusters"] for one in summaries if one.get("clusters")]
    if clusters and min(clusters) < FEW_CLUSTERS:
        parts.append(
            f"Intervals are 95 % intervals by the bootstrap over clips, or over driving videos where several pairs "
            f"share one. With fewer than {FEW_CLUSTERS} of them, as here, they are too short."
        )
    return "\n".join(parts)


def write_report(path: Location, metrics: Artifact) -> None:
    """Write the page of a finished evaluation."""
    record, rows = metrics.record(), metrics.read().to_pylist()
    sections = [
        metric_section(record, _text(record)),
        *_comparison_sections(record),
        *_kind_sections(record),
        *_weights_section(record, rows),
        unscored_section(rows),
        Section("Videos", media=_media(rows, path)),
    ]
    write_page(path, "Evaluation", sections)


def _media(rows: Sequence[Row], path: Location) -> list[list[tuple[str, str | None]]]:
    """Return for each pair the reference, every method's video, and the truth."""
    videos: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["id"] is not None:
            seed = "" if row.get("seed") is None else f" {row['seed']}"
            videos.setdefault(row["id"], {})[f"{row.get('method') or 'render'}{seed}"] = row
    groups = []
    for name, methods in sorted(videos.items()):
        first = next(iter(methods.values()))
        named = {(f"{method} {name}" if len(methods) > 1 else f"render {name}"): row for method, row in methods.items()}
        groups.append(
            [
                ("reference", path_from_page(first["image"], path)),
                *((label, path_from_page(row["video"], path)) for label, row in named.items()),
                ("truth", path_from_page(first["truth"], path)),
            ]
        )
    return groups


def rebuild_report(out: Location) -> Location:
    """Write the page of a finished evaluation again from its rows; return the page's path.

    Args:
        out: folder given to `evaluate --out`, or the artifact in it.

    Raises:
        ArtifactError: the evaluation is not finished.
    """
    metrics = find_artifact(out, "metrics")
    page = metrics.path.parent / PAGE
    write_report(page, metrics)
    return page
