"""Tables of an evaluation: means with intervals by method, reasons of nulls, and the methods compared pair by pair."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...models.metrics.statistics import (
    NUM_RESAMPLES,
    bootstrap_clusters,
    holm,
    interval_coverage,
    paired_bootstrap,
    small_n_remark,
)
from .catalogue import METRICS
from .protocols import Protocol
from .values import Table, Values


def shortfall(clusters: int | None) -> str | None:
    """Return the remark that an interval over few clusters must carry; None if there are enough."""
    if clusters == 1:
        return "one driving video: no interval"
    return small_n_remark(clusters) if clusters else None


def covered(clusters: int | None) -> str:
    """Return how many 95 % intervals over few clusters contain the true value, `covers 87–91 %`; empty for enough."""
    shares = interval_coverage(clusters) if clusters else None
    return f"covers {shares[0] * 100:.0f}–{shares[1] * 100:.0f} %" if shares else ""


def format_p(p: float | None) -> str:
    """Format p; if no resample lies on the other side of 0, it is below what the resamples can tell, not 0."""
    return "" if p is None else f"{p:.3g}" if p > 0 else f"<{2 / NUM_RESAMPLES:g}"


def summarise(table: Table, metrics: Sequence[str], protocol: Protocol) -> dict[str, dict[str, Any]]:
    """Return method → metric → mean, 95 % interval, N, clusters, and the variance between seeds if there are some."""
    return {method: _summaries(table, method, metrics, protocol) for method in table.methods()}


def summarise_kinds(table: Table, metrics: Sequence[str], protocol: Protocol) -> dict[str, dict[str, Any]]:
    """Return kind of misalignment → method → metric → summary; empty without kinds."""
    kinds = sorted({kind for row in table.rows for kind in (row["kinds"] or "").split(",") if kind})
    return {
        kind: {method: _summaries(table, method, metrics, protocol, kind) for method in table.methods()}
        for kind in kinds
    }


def _summaries(
    table: Table, method: str, metrics: Sequence[str], protocol: Protocol, kind: str | None = None
) -> dict[str, Any]:
    out = {}
    for name in metrics:
        if METRICS[name].level == "set":
            if kind is None and (row := table.sets.get((method, name))):
                number, detail = row.get("frames_compared"), row.get("detail")
                out[name] = {"mean": row["value"], "low": None, "high": None, "n": number, "detail": detail}
            continue
        values = table.of(method, name, kind)
        weighted = protocol.aggregation == "frame" and METRICS[name].weighted != ""
        out[name] = summary_of(values, weighted)
    return out


def summary_of(values: Values, weighted: bool = False) -> dict[str, Any]:
    """Return mean, 95 % interval, N and clusters, and the variances if there are several seeds.

    Args:
        values: of one metric.
        weighted: whether videos count by their frames.
    """
    if not values.ids:
        return {"mean": None, "low": None, "high": None, "n": 0, "clusters": 0}
    weights = values.frames if weighted else np.ones(len(values.ids))
    interval = bootstrap_clusters(values.means, values.clusters, weights)
    out: dict[str, Any] = {
        "mean": interval.mean,
        "low": interval.low if interval.n > 1 else None,
        "high": interval.high if interval.n > 1 else None,
        "n": len(values.ids),
        "clusters": interval.n,
    }
    if any(len(each) > 1 for each in values.by_seed):
        within = [float(np.var(each, ddof=1)) for each in values.by_seed if len(each) > 1]
        out["variance_between_seeds"] = float(np.mean(within))
        out["variance_between_clips"] = float(np.var(values.means, ddof=1)) if len(values.ids) > 1 else None
    return out


def means(table: Table, summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the first method's means: metric → mean (null: no value), and number of videos with a value.

    Args:
        table: all values.
        summaries: of `summarise`.
    """
    first = next(iter(table.methods()), "")
    total = sum(method == first for method, _, _ in table.videos)
    out: dict[str, dict[str, Any]] = {}
    for name, one in summaries.get(first, {}).items():
        is_set = METRICS[name].level == "set"
        count = len(table.values.get((first, name), {})) if not is_set else total * (one["mean"] is not None)
        out[name] = {"mean": one["mean"], "videos": count}
    return out


def missing(table: Table, metrics: Sequence[str], method: str | None = None) -> dict[str, dict[str, int]]:
    """Count videos without a value as metric → reason → number; together with those of `means` these are all videos."""
    first = next(iter(table.methods()), "") if method is None else method
    return {name: dict(table.without_value(first, name).most_common()) for name in metrics}


def comparisons(table: Table, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Compare every method with the first one, pair by pair."""
    first, *others = table.methods() or [""]
    return [
        {
            "a": first,
            "b": other,
            "metrics": compare_values(_values(table, first, metrics), _values(table, other, metrics)),
        }
        for other in others
    ]


def _values(table: Table, method: str, metrics: Sequence[str]) -> dict[str, Values]:
    return {name: table.of(method, name) for name in metrics if METRICS[name].level == "video"}


MIN_JUDGED_CLUSTERS = 6  # by signs alone, five pairs cannot give p < .05: 2 · 2⁻⁵ = .0625


def tells_apart(found: Mapping[str, Any]) -> bool:
    """Return whether the interval of a difference excludes 0, over enough driving videos to tell."""
    return found["clusters"] >= MIN_JUDGED_CLUSTERS and not found["low"] <= 0 <= found["high"]


def smallest_p(clusters: int) -> float:
    """Return the p of pairs that all have one sign, which resampling puts at 0 however few they are."""
    return float(2.0 ** (1 - clusters))


def compare_values(a: Mapping[str, Values], b: Mapping[str, Values]) -> dict[str, dict[str, Any]]:
    """Compare two results on the pairs that both have: metric → difference b − a, its interval, p, and p by Holm.

    Driving videos are drawn as clusters where several pairs share one. Holm's method adjusts for the number of metrics
    that can be compared; ceilings and descriptions are not counted. p is never below that of the sign test.
    """
    out: dict[str, dict[str, Any]] = {}
    for name in a.keys() & b.keys():
        one, other = a[name], b[name]
        at = {key: index for index, key in enumerate(other.ids)}
        both = [(index, at[key]) for index, key in enumerate(one.ids) if key in at]
        if not both:
            continue
        first, second = (np.array(index) for index in zip(*both, strict=True))
        clusters = len({one.clusters[index] for index in first})
        found = paired_bootstrap(
            one.means[first], other.means[second], clusters=[one.clusters[index] for index in first]
        )
        out[name] = {
            "n": len(both),
            "n_a": len(one.ids),
            "n_b": len(other.ids),
            "clusters": clusters,
            "mean_a": float(one.means[first].mean()),
            "mean_b": float(other.means[second].mean()),
            "difference": found.mean,
            "low": found.low,
            "high": found.high,
            "p": max(found.p, smallest_p(clusters)) if clusters > 1 else None,
        }
    judged = [name for name in METRICS if name in out and METRICS[name].better and out[name]["p"] is not None]
    adjusted = dict(zip(judged, holm([out[name]["p"] for name in judged]), strict=True))
    order = [name for name in METRICS if name in out]
    return {name: {**out[name], "p_holm": _plain(adjusted.get(name))} for name in order}


def _plain(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
