"""The table: values of rows over seeds and pairs, paired differences with intervals, and what they say in words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...datasets.arrays import Floats64
from ...models.metrics import Interval, crossed_interval
from .packet import RESULT, Packet, subsets_of
from .paper import CHOICES, CLAIMS, COLUMNS, DATASETS, TABLE_3, Claim
from .rows import ROWS

AGREES, DISAGREES, SAME, UNKNOWN = "agrees", "does not agree", "cannot be told apart", "not measured"
NOTHING_CLAIMED = "no difference printed"
Record = dict[str, Any]
_NOT_MEASURED = Interval(math.nan, math.nan, math.nan, 0)


class Compared(NamedTuple):
    """A comparison: what was claimed, the difference with its interval, and the words that follow from it."""

    claim: Claim
    difference: Interval
    words: str


@dataclass(frozen=True)
class Results:
    """The results of all finished packets.

    Args:
        by_packet: result of each.
        subsets: subset -> its pairs.
    """

    by_packet: Mapping[Packet, Record]
    subsets: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, out: Path, packets: Iterable[Packet], gaps: Mapping[str, float]) -> Results:
        """Read the results of the packets that are finished."""
        done = {packet: json.loads((packet.folder(out) / RESULT).read_text())
                for packet in packets if packet.is_done(out)}  # fmt: skip
        return cls(done, subsets_of(gaps))

    @property
    def rows(self) -> list[str]:
        """Rows with a result, in the table's order."""
        found = {packet.row for packet in self.by_packet}
        return [name for name in ROWS if name in found]

    def seeds(self, *rows: str) -> list[int]:
        """Return the seeds at which all of these rows are finished."""
        return sorted(set.intersection(*({p.seed for p in self.by_packet if p.row == row} for row in rows)))

    @property
    def metrics(self) -> list[str]:
        """All metrics of videos and sets that any row has a value of, in the order in which they are first met."""
        names: dict[str, None] = {}
        for result in self.by_packet.values():
            for values in result["videos"].values():
                names |= dict.fromkeys(name for name, value in values.items() if value is not None)
            names |= dict.fromkeys(
                name for name, by in result["sets"].items() if any(v is not None for v in by.values())
            )
        return list(names)

    def values(self, row: str, seeds: Sequence[int], metric: str, subset: str) -> Floats64:
        """Return the values of a row [S, P], or of a set [S, 1]; NaN where not measured."""
        results = [self.by_packet[Packet(row, seed)] for seed in seeds]
        if any(metric in result["sets"] for result in results):
            found: list[list[Any]] = [[result["sets"].get(metric, {}).get(subset)] for result in results]
        else:
            names = self.subsets.get(subset, ())
            found = [[result["videos"].get(name, {}).get(metric) for name in names] for result in results]
        return np.array([[math.nan if v is None else v for v in line] for line in found], np.float64)

    def value(self, row: str, metric: str, subset: str = "all") -> Interval:
        """Return the mean of a row over seeds and pairs, with its interval."""
        seeds = self.seeds(row) if row in self.rows else []
        return crossed_interval(self.values(row, seeds, metric, subset)) if seeds else _NOT_MEASURED

    def difference(self, row: str, versus: str, metric: str, subset: str = "all") -> Interval:
        """Return the mean of `row` minus `versus`, on the same pairs and seeds, with its interval."""
        if not {row, versus} <= {*self.rows} or not (seeds := self.seeds(row, versus)):
            return _NOT_MEASURED
        first, second = (self.values(name, seeds, metric, subset) for name in (row, versus))
        return crossed_interval(first - second)

    def claims(self) -> list[Compared]:
        """Compare every claim of the paper's figures with the difference that was measured."""
        return [self._compared(claim) for claim in CLAIMS]

    def table_3(self) -> list[tuple[str, str, str, float, Compared]]:
        """Compare every difference of Table 3: (data set, row, column, printed difference, what was measured)."""
        cells = []
        for dataset, printed in TABLE_3.items():
            for row in printed:
                versus = ROWS[row].versus
                if versus is None:
                    continue
                for column, value in printed[row].items():
                    change = round(value - printed[versus][column], 2)
                    cells.append((dataset, row, column, change, self._cell(dataset, row, versus, column, change)))
        return cells

    def choices(self) -> list[Compared]:
        """Compare the released and the printed form of what differs in the two; the words name the better one."""
        compared = []
        for released, printed, metric in CHOICES:
            direction = "lower" if metric == "start_gap_jump_excess" else "higher"
            subset = "start_gap" if direction == "lower" else "all"
            claim = Claim(ROWS[printed].place, ROWS[printed].title, released, printed, metric, subset, direction)
            found = self._compared(claim)
            words = {AGREES: "the released form is better", DISAGREES: "the printed form is better"}
            if ROWS[printed].name == "stage3_latent":
                words = {AGREES: "frames are better", DISAGREES: "latent frames are better"}
            compared.append(found._replace(words=words.get(found.words, found.words)))
        return compared

    def _cell(self, dataset: str, row: str, versus: str, column: str, change: float) -> Compared:
        metric, direction = COLUMNS[column]
        rises = (change > 0) == (direction == "higher")
        better, worse = (row, versus) if rises else (versus, row)
        claim = Claim(f"Table 3, {dataset}", f"{column} of {ROWS[row].title}", better, worse, metric,
                      DATASETS[dataset], direction)  # fmt: skip
        found = self._compared(claim)
        return found if change else found._replace(words=NOTHING_CLAIMED)

    def _compared(self, claim: Claim) -> Compared:
        found = self.difference(claim.better, claim.worse, claim.metric, claim.subset)
        return Compared(claim, found, words_of(found, claim.direction))


def words_of(difference: Interval, direction: str = "higher") -> str:
    """Return what the interval of (better − worse) says about the claim that the one is better than the other."""
    if math.isnan(difference.mean) or math.isnan(difference.low):
        return UNKNOWN
    low, high = (difference.low, difference.high) if direction == "higher" else (-difference.high, -difference.low)
    if low > 0:
        return AGREES
    return DISAGREES if high < 0 else SAME


def to_record(interval: Interval) -> dict[str, float | int | None]:
    """Return {mean, low, high, num_pairs}, with None for what is not measured: JSON has no NaN."""
    numbers = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {**{name: value if math.isfinite(value) else None for name, value in numbers.items()},
            "num_pairs": interval.n}  # fmt: skip


def table_record(results: Results) -> Record:
    """Return the whole table for `table.json`: values, differences, comparisons, networks."""
    rows: Record = {}
    for name in results.rows:
        row, seeds = ROWS[name], results.seeds(name)
        some = results.by_packet[Packet(name, seeds[0])]
        measured = {
            metric: {subset: to_record(results.value(name, metric, subset)) for subset in results.subsets}
            for metric in results.metrics
        }
        rows[name] = {
            "title": row.title,
            "place": row.place,
            "seeds": seeds,
            "versus": row.versus,
            "network": some["network"],
            "train": some["train"],
            "values": measured,
            "differences": row.versus and {
                metric: {subset: to_record(results.difference(name, row.versus, metric, subset))
                         for subset in results.subsets} for metric in results.metrics
            },
        }  # fmt: skip
    return {
        "rows": rows,
        "claims": [_comparison(one) for one in results.claims()],
        "table_3": [
            {"dataset": dataset, "row": row, "column": column, "printed_difference": change, **_comparison(found)}
            for dataset, row, column, change, found in results.table_3()
        ],
        "choices": [_comparison(one) for one in results.choices()],
        "cpu_seconds": sum(sum(one["cpu_seconds"].values()) for one in results.by_packet.values()),
    }


def _comparison(found: Compared) -> Record:
    claim = found.claim
    return {"place": claim.place, "claim": claim.words, "better": claim.better, "worse": claim.worse,
            "metric": claim.metric, "subset": claim.subset, "direction": claim.direction,
            "better_minus_worse": to_record(found.difference), "words": found.words}  # fmt: skip
