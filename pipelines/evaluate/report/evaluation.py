"""A finished evaluation in memory: its record, the values of all videos, and why others have none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ....datasets.artifact import Artifact
from ....datasets.schema import Row
from ..catalogue import GROUPS, METRICS
from ..protocols import PROTOCOLS, Protocol, recorded_protocol
from ..summary import summarise
from ..values import Table


class Null(NamedTuple):
    """A video of a method without a value, and why; `id` is None for a metric of the set."""

    method: str
    id: str | None
    reason: str
    detail: str


class Shown(NamedTuple):
    """Files of one video, and its number in the table; paths are as in the table of metrics."""

    number: int
    video: str | None
    image: str | None
    driving: str | None
    truth: str | None


@dataclass
class Evaluation:
    """What the reports read.

    Args:
        record: of the finished version.
        table: all values.
        nulls: video → metrics without a value; empty: all of them.
        pairs: id → (method, seed) → files.
        pose_sources: where poses came from: names of estimators, or `supplied`.
    """

    record: Mapping[str, Any]
    table: Table
    nulls: dict[Null, list[str]] = field(default_factory=dict)
    pairs: dict[str, dict[tuple[str, int | None], Shown]] = field(default_factory=dict)
    pose_sources: set[str] = field(default_factory=set)

    @property
    def metrics(self) -> list[str]:
        """The metrics of the table in the catalogue's order; a version without a list is of an earlier program."""
        names = self.record.get("metrics", self.record["means"])
        return [name for name in METRICS if name in names]

    @property
    def methods(self) -> list[str]:
        """The methods in the order in which they were given; a single one may have no name."""
        return self.table.methods() or list(self.record.get("methods", {}))

    @property
    def kinds(self) -> list[str]:
        """The kinds of misalignment that the benchmark states."""
        return list(self.record.get("kinds", {}))

    @property
    def protocol(self) -> Protocol:
        """The protocol; of an earlier version, which stored its name only, the rules that it has now."""
        return recorded_protocol(self.record) or PROTOCOLS["all"]

    def summaries(self, kind: str = "") -> Mapping[str, Mapping[str, Any]]:
        """Return method → metric → summary, of all pairs or of one kind."""
        if kind:
            found: Mapping[str, Any] = self.record["kinds"][kind]
            return found
        stored: Mapping[str, Any] = self.record.get("methods", {})
        return stored or summarise(self.table, self.metrics, self.protocol)


def read_evaluation(metrics: Artifact) -> Evaluation:
    """Read a finished evaluation part by part.

    Raises:
        ArtifactError: it is not finished.
    """
    record = metrics.record()
    out = Evaluation(record, Table(order=list(record.get("methods", {}))))
    names = out.metrics
    for part in metrics.parts():
        rows = [{"method": None, **row} for row in metrics.read_part(part).to_pylist()]
        out.table.add(rows, names)
        for row in rows:
            _add(out, row)
    return out


def _add(out: Evaluation, row: Row) -> None:
    method, seed = row["method"] or "", row.get("seed")
    if row["id"] is not None and (method, seed) not in out.pairs.setdefault(row["id"], {}):
        number = out.table.videos[method, row["id"], seed]
        files = (row.get(name) for name in ("video", "image", "driving", "truth"))
        out.pairs[row["id"]][method, seed] = Shown(number, *files)
    metric = METRICS.get(row["metric"] or "")
    if metric is not None and GROUPS[metric.group].estimator and row["value"] is not None and row["detail"]:
        out.pose_sources.add(row["detail"].partition(";")[0])
    if row["value"] is None:
        label = row["id"] if seed is None or row["id"] is None else f"{row['id']}, seed {seed}"
        null = Null(method, label, row["reason"] or "unknown", row["detail"] or "")
        out.nulls.setdefault(null, []).extend([row["metric"]] if row["metric"] else [])
