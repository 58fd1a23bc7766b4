"""The evaluation report: one static page with metrics, and reference, render and ground truth of each video."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ...datasets.artifact import Artifact
from ...datasets.artifact_lookup import find_artifact
from ...datasets.schema import Row
from ...datasets.storage import Location
from ..common.outcomes import NO_REASON, format_counts, format_reasons, format_truths
from ..pages.layout import Section, path_from_page, write_page
from .steps import METRICS

PAGE = "report.html"
MAX_LISTED = 200


def metric_section(record: dict[str, Any], text: str = "") -> Section:
    """Build the table of metrics with unit, direction, meaning, and counts of videos without a value by reason."""
    rows = []
    for name, (unit, better, meaning) in METRICS.items():
        mean = record["means"].get(name, {"mean": None, "videos": 0})
        without = format_reasons(Counter(record.get("missing", {}).get(name, {})))
        rows.append(
            [name, mean["mean"], unit, mean["videos"], without, f"{better} is better" if better else "", meaning]
        )
    head = ["metric", "mean", "unit", "videos", "without a value", "", "meaning"]
    return Section("Metrics", text, head=head, rows=rows)


def unscored_section(rows: Sequence[Row]) -> Section:
    """Build the table of missing values, one row per video and metric, with reasons."""
    listed = [
        [row["id"], row["metric"] or "every metric", row["reason"] or NO_REASON, row["detail"] or ""]
        for row in rows
        if row["value"] is None
    ]
    text = "" if listed else "Every metric of every video has a value."
    if len(listed) > MAX_LISTED:
        text = f"The first {MAX_LISTED} of {len(listed)}; the metrics table has all of them."
    return Section("Without a value", text, head=["video", "metric", "reason", "detail"], rows=listed[:MAX_LISTED])


def write_report(path: Location, metrics: Artifact) -> None:
    """Write the page of a finished evaluation."""
    record, rows = metrics.record(), metrics.read().to_pylist()
    videos = {row["id"]: row for row in rows}
    groups = [
        [("reference", path_from_page(row["image"], path)), (f"render {name}", path_from_page(row["video"], path)),
         ("truth", path_from_page(row["truth"], path))]
        for name, row in sorted(videos.items())
    ]  # fmt: skip
    counts = format_counts(record["counts"])
    text = f"Protocol {record['config']['protocol']}; {counts}. {format_truths(record.get('truths'))}"
    sections = [metric_section(record, text), unscored_section(rows), Section("Videos", media=groups)]
    write_page(path, "Evaluation", sections)


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
