"""Sections that explain nulls: every video without a value with its reasons, and the weights that are missing."""

from collections.abc import Iterable, Mapping
from typing import Any

from ...pages.layout import Section
from ..catalogue import GROUPS
from .evaluation import Evaluation, Null

MAX_LISTED, MAX_NAMED = 200, 6


def nulls_section(evaluation: Evaluation) -> Section:
    """Build the table of missing values; videos that lack the same metrics for the same reason share a row.

    Missing weights are not listed: they have a table of their own.
    """
    shared: dict[tuple[str, str, str, tuple[str, ...]], list[str]] = {}
    for null, metrics in evaluation.nulls.items():
        if null.reason != "weights_missing":
            key = null.method, null.reason, null.detail, tuple(metrics)
            shared.setdefault(key, []).append(null.id or "all videos")
    several = len(evaluation.methods) > 1
    rows = [
        [*([method] if several else []), _named(ids), _named(metrics) or "every metric", reason, detail]
        for (method, reason, detail, metrics), ids in shared.items()
    ]
    text = "" if rows else "Every metric of every video has a value."
    if len(rows) > MAX_LISTED:
        text = f"The first {MAX_LISTED} of {len(rows)}; the metrics table has all of them."
    head = [*(["method"] if several else []), "videos", "metrics", "reason", "detail"]
    return Section("Without a value", text, head=head, rows=rows[:MAX_LISTED], is_folded=len(rows) > MAX_NAMED)


def weights_section(evaluation: Evaluation) -> list[Section]:
    """List the groups whose weights were missing, with the remedy."""
    missing: Mapping[str, list[str]] = evaluation.record.get("weights_missing", {})
    details = _details(evaluation.nulls.items())
    listed = [
        [GROUPS[group].title if group in GROUPS else group, ", ".join(names), details.get(names[0], "")]
        for group, names in missing.items()
    ]
    text = "`steadydancer evaluate` again measures these once their weights are here."
    head = ["group", "metrics", "weights"]
    return [Section("Weights missing", text, head=head, rows=listed)] if listed else []


def _details(nulls: Iterable[tuple[Null, list[str]]]) -> dict[str, Any]:
    return {metric: null.detail for null, metrics in nulls if null.reason == "weights_missing" for metric in metrics}


def _named(names: Iterable[str]) -> str:
    """Name the first few, and count the others."""
    every = list(names)
    rest = f" and {len(every) - MAX_NAMED} more" if len(every) > MAX_NAMED else ""
    return ", ".join(every[:MAX_NAMED]) + rest
