"""Tables of an evaluation: means with intervals by method, reasons of nulls, and the methods compared pair by pair."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...datasets.arrays import Floats64
from ...datasets.schema import Row
from ...models.metrics.statistics import bootstrap_clusters, holm, paired_bootstrap
from .catalogue import METRICS
from .protocols import Protocol

FEW_CLUSTERS = 100  # below it, intervals by the bootstrap are too short


@dataclass
class Table:
    """Values of all videos, in little memory: one array for each method and metric.

    Args:
        videos: (method, id, seed) → number of the video.
        rows: one row for each video, without metrics.
        values: (method, metric) → number of the video → value.
        reasons: (method, metric) → reason → number of nulls.
        sets: (method, metric) → row of a set metric.
        excluded: method → ids of the clips whose motion cannot be measured.
        order: methods in the order in which they were given; others follow.
        compared: number of videos that were compared with ground truth.
        frames_compared: number of their frames.
    """

    videos: dict[tuple[str, str, Any], int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    reasons: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    sets: dict[tuple[str, str], Row] = field(default_factory=dict)
    excluded: dict[str, list[str]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    compared: int = 0
    frames_compared: int = 0

    def add(self, rows: Iterable[Row], metrics: Sequence[str]) -> None:
        """Add rows of the metrics table; a row without a metric counts as a null of each metric of a video."""
        for row in rows:
            method = row.get("method") or ""
            if row.get("id") is None:
                self.sets[method, row["metric"]] = dict(row)
                continue
            number = self._number(method, row)
            if row["metric"] == "psnr" and row["value"] is not None:
                self.compared += 1
                self.frames_compared += row.get("frames_compared") or 0
            per_video = [name for name in metrics if METRICS[name].level == "video"]
            for name in [row["metric"]] if row["metric"] else per_video:
                if row["value"] is not None:
                    self.values.setdefault((method, name), {})[number] = row["value"]
                else:
                    self.reasons.setdefault((method, name), Counter())[row["reason"] or "unknown"] += 1
                    self._exclude(name, row)

    def methods(self) -> list[str]:
        """List the methods that have videos, in order."""
        found = dict.fromkeys(method for method, _, _ in self.videos)
        return [*(name for name in self.order if name in found), *(name for name in found if name not in self.order)]

    def _number(self, method: str, row: Row) -> int:
        key = method, row["id"], row.get("seed")
        if key not in self.videos:
            self.videos[key] = len(self.rows)
            names = ("id", "seed", "kinds", "num_frames", "driving", "truth")
            self.rows.append({name: row.get(name) for name in names})
        return self.videos[key]

    def _exclude(self, name: str, row: Row) -> None:
        if row["reason"] == "not_measurable" and name == "velocity_correlation":
            self.excluded.setdefault(row.get("method") or "", []).append(row["id"])

    def of(self, method: str, metric: str, kind: str | None = None) -> "Values":
        """Return the values of a method, averaged over seeds."""
        by_id: dict[str, list[int]] = {}
        found = self.values.get((method, metric), {})
        for number in found:
            row = self.rows[number]
            if kind is None or kind in (row["kinds"] or "").split(","):
                by_id.setdefault(row["id"], []).append(number)
        values = [[found[number] for number in numbers] for numbers in by_id.values()]
        first = [self.rows[numbers[0]] for numbers in by_id.values()]
        steps = METRICS[metric].weighted == "steps" if metric in METRICS else False
        return Values(
            list(by_id),
            np.array([np.mean(each) for each in values], np.float64),
            # Pairs that share a driving video depend on each other.
            [row["driving"] or row["truth"] or row["id"] for row in first],
            np.array([max((row["num_frames"] or 1) - steps, 1) for row in first], np.float64),
            values,
        )


@dataclass(frozen=True)
class Values:
    """Values of a metric: ids [N], means over seeds [N], clusters [N], numbers of frames [N], values of each seed."""

    ids: list[str]
    means: Floats64
    clusters: list[str]
    frames: Floats64
    by_seed: list[list[float]]


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
        out[name] = _summary(values, weighted)
    return out


def _summary(values: Values, weighted: bool) -> dict[str, Any]:
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
    out = {}
    for name in metrics:
        counts = table.reasons.get((first, name), Counter())
        row = table.sets.get((first, name))
        if row is not None and row["value"] is None:
            counts = Counter({row["reason"]: sum(one == first for one, _, _ in table.videos)})
        out[name] = dict(counts.most_common())
    return out


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


def compare_values(a: Mapping[str, Values], b: Mapping[str, Values]) -> dict[str, dict[str, Any]]:
    """Compare two results on the pairs that both have: metric → difference b − a, its interval, p, and p by Holm.

    Driving videos are drawn as clusters where several pairs share one. Holm's method adjusts for the number of metrics
    that can be compared; ceilings and descriptions are not counted.
    """
    out: dict[str, dict[str, Any]] = {}
    for name in a.keys() & b.keys():
        one, other = a[name], b[name]
        at = {key: index for index, key in enumerate(other.ids)}
        both = [(index, at[key]) for index, key in enumerate(one.ids) if key in at]
        if not both:
            continue
        first, second = (np.array(index) for index in zip(*both, strict=True))
        found = paired_bootstrap(
            one.means[first], other.means[second], clusters=[one.clusters[index] for index in first]
        )
        out[name] = {
            "n": len(both),
            "n_a": len(one.ids),
            "n_b": len(other.ids),
            "clusters": len({one.clusters[index] for index in first}),
            "mean_a": float(one.means[first].mean()),
            "mean_b": float(other.means[second].mean()),
            "difference": found.mean,
            "low": found.low,
            "high": found.high,
            "p": found.p if len({one.clusters[index] for index in first}) > 1 else None,
        }
    judged = [name for name in METRICS if name in out and METRICS[name].better and out[name]["p"] is not None]
    adjusted = dict(zip(judged, holm([out[name]["p"] for name in judged]), strict=True))
    order = [name for name in METRICS if name in out]
    return {name: {**out[name], "p_holm": _plain(adjusted.get(name))} for name in order}


def _plain(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
