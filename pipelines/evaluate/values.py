"""All values of an evaluation in memory, by method and metric, and why videos have none."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...datasets.arrays import Floats64
from ...datasets.schema import Row
from .catalogue import METRICS


@dataclass
class Table:
    """Values of all videos, in little memory: one array for each method and metric.

    Args:
        videos: (method, id, seed) → number of the video.
        rows: one row for each video, without metrics.
        values: (method, metric) → number of the video → value.
        reasons: (method, metric) → number of the video → why it has no value.
        sets: (method, metric) → row of a set metric.
        excluded: method → ids of the clips whose motion cannot be measured.
        order: methods in the order in which they were given; others follow.
        compared: number of a video that was compared with ground truth, by any metric → number of frames.
    """

    videos: dict[tuple[str, str, Any], int] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    reasons: dict[tuple[str, str], dict[int, str]] = field(default_factory=dict)
    sets: dict[tuple[str, str], Row] = field(default_factory=dict)
    excluded: dict[str, list[str]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    compared: dict[int, int] = field(default_factory=dict)

    def add(self, rows: Iterable[Row], metrics: Sequence[str]) -> None:
        """Add rows of the metrics table; a row without a metric counts as a null of each metric of a video."""
        per_video = [name for name in metrics if METRICS[name].level == "video"]
        for row in rows:
            method = row.get("method") or ""
            if row.get("id") is None:
                self.sets[method, row["metric"]] = dict(row)
                continue
            number = self._number(method, row)
            if row["value"] is not None and row["metric"] in METRICS and "truth" in METRICS[row["metric"]].needs:
                count = row.get("frames_compared") or 0
                self.compared[number] = min(self.compared.get(number, count), count)
            for name in [row["metric"]] if row["metric"] else per_video:
                if row["value"] is not None:
                    self.values.setdefault((method, name), {})[number] = row["value"]
                else:
                    self.reasons.setdefault((method, name), {})[number] = row["reason"] or "unknown"
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

    def without_value(self, method: str, metric: str, kind: str | None = None) -> Counter[str]:
        """Count the videos of a method without a value by reason."""
        found = self.reasons.get((method, metric), {})
        counts = Counter(reason for number, reason in found.items() if self._is_of(number, kind))
        row = self.sets.get((method, metric))
        if row is not None and row["value"] is None and kind is None:
            return Counter({row["reason"]: sum(one == method for one, _, _ in self.videos)})
        return counts

    def _is_of(self, number: int, kind: str | None) -> bool:
        return kind is None or kind in (self.rows[number]["kinds"] or "").split(",")

    def of(self, method: str, metric: str, kind: str | None = None) -> "Values":
        """Return the values of a method, averaged over seeds."""
        by_id: dict[str, list[int]] = {}
        found = self.values.get((method, metric), {})
        for number in found:
            if self._is_of(number, kind):
                by_id.setdefault(self.rows[number]["id"], []).append(number)
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
