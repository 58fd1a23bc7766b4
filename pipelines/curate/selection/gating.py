"""Apply gates to many rows at once: columns in, a few numbers per row out.

`GateResults` take about 40 bytes per row, so a selection keeps those of a million clips in memory while it reads the
scores part by part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.arrays import Floats64, Mask
from ..config import SHAPES, SQUARE_RATIO, CurateConfig
from ..gates import CHEAP_GATES, SCORES, SIDE_PX, Gates, bound_text, failure_detail, is_beyond, score_of

SIZE_COLUMNS = tuple(name for side in SIDE_PX.columns for name in side)


@dataclass(frozen=True)
class Bounds:
    """Thresholds of the gates that are on for any shape of picture, in the order of application.

    Attributes:
        gates: their names.
        columns: the score that each reads, by its name in `SCORES`.
        sides: "min" or "max".
        values: [gates, shapes], NaN where a gate is off for a shape.
    """

    gates: tuple[str, ...]
    columns: tuple[str, ...]
    sides: tuple[str, ...]
    values: Floats64

    @classmethod
    def of(cls, config: CurateConfig, without: Iterable[str] = ()) -> "Bounds":
        """Return the gates of a configuration, optionally `without` some of them."""
        by_shape: list[dict[str, Any]] = [
            {gate: rest for gate, *rest in config.gates_for(shape).bounds()} for shape in SHAPES
        ]
        on = [g for g in Gates.model_fields if any(g in one for one in by_shape) and g not in set(without)]
        known = {gate: one[gate] for one in by_shape for gate in one}
        values = [[one[gate][2] if gate in one else np.nan for one in by_shape] for gate in on]
        return cls(
            tuple(on),
            tuple(known[gate][0] for gate in on),
            tuple(known[gate][1] for gate in on),
            np.array(values, np.float64).reshape(len(on), len(SHAPES)),
        )

    def rejects(self, index: int, values: Floats64, shapes: npt.NDArray[np.int8]) -> Mask:
        """Return a mask of the rows that gate `index` rejects; NaN (not measured) passes."""
        bounds = self.values[index]
        bound = bounds[0] if np.ptp(bounds) == 0 else bounds[shapes]
        out: Mask = is_beyond(values, self.sides[index], bound)
        return out

    def details(self, index: int, values: Floats64, shapes: npt.NDArray[np.int8]) -> list[str]:
        """Return the details of rows that gate `index` rejects."""
        words = [bound_text(self.sides[index], bound) for bound in self.values[index]]
        column = self.columns[index]
        return [
            failure_detail(column, value, words[k]) for value, k in zip(values.tolist(), shapes.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class GateResults:
    """Results of the gates for rows [n].

    Attributes:
        first: the first gate that rejects a row, as an index into the bounds; −1 if none does.
        value: the score that this gate read.
        num_rejected: number of gates that reject the row.
        unmeasured: bit k: gate k is on and its score is null.
        shape: of the picture inside its borders, index into `SHAPES`.
        early: the cheap gate that rejected the row when it was measured, so that no pose was estimated: an index into
            the fields of `Gates`; −1 if none did.
        ranking_scores: [n, a] scores of the gates in `along`, NaN where null; a = 0 if not requested.
    """

    first: npt.NDArray[np.int8]
    value: Floats64
    num_rejected: npt.NDArray[np.int8]
    unmeasured: npt.NDArray[np.uint64]
    shape: npt.NDArray[np.int8]
    early: npt.NDArray[np.int8]
    ranking_scores: Floats64

    @classmethod
    def concatenate(cls, parts: Sequence["GateResults"]) -> "GateResults":
        """Concatenate the results of all parts, in order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def columns_for(gates: Iterable[str]) -> set[str]:
    """Return the columns of a table that gates read."""
    return {name for gate in gates for side in score_of(gate).columns for name in side} | set(SIZE_COLUMNS)


def values_of(table: pa.Table, score: str) -> Floats64:
    """Return a score of all rows [n]; NaN where it was not measured."""
    values: Floats64 = SCORES[score].of(lambda column: numbers(table[column]))
    return values


def numbers(column: pa.ChunkedArray) -> Floats64:
    """Convert a column to float64 [n]; NaN for null."""
    out: Floats64 = pc.cast(column, pa.float64()).to_numpy()
    return out


def content_sizes(table: pa.Table) -> tuple[Floats64, Floats64]:
    """Return height and width [n] inside the borders in pixels; NaN where the source could not be read."""
    height, width = (numbers(pc.coalesce(*(table[name] for name in side))) for side in SIDE_PX.columns)
    return height, width


def shapes_of(table: pa.Table) -> npt.NDArray[np.int8]:
    """Return the shape [n] of the picture inside its borders, as an index into `SHAPES`."""
    height, width = content_sizes(table)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = width / height
    return np.where(ratio < 1 / SQUARE_RATIO, 0, np.where(ratio > SQUARE_RATIO, 1, 2)).astype(np.int8)


def apply_gates(
    table: pa.Table, bounds: Bounds, measured_gates: Gates | None = None, ranking_columns: Sequence[str] = ()
) -> GateResults:
    """Apply gates to rows.

    Args:
        table: with `columns_for` the gates.
        bounds: of the gates.
        measured_gates: the gates of the measuring run, if different: rows that its cheap gates rejected have no further
            scores.
        ranking_columns: scores to return as `ranking_scores`.
    """
    shape, n = shapes_of(table), len(table)
    first, value = np.full(n, -1, np.int8), np.full(n, np.nan)
    num_rejected, unmeasured = np.zeros(n, np.int8), np.zeros(n, np.uint64)
    for index, column in enumerate(bounds.columns):
        values = values_of(table, column)
        rejected = bounds.rejects(index, values, shape)
        new = rejected & (first < 0)
        first[new], value[new] = index, values[new]
        num_rejected += rejected
        is_on = ~np.isnan(bounds.values[index])[shape]
        unmeasured |= (np.isnan(values) & is_on).astype(np.uint64) << np.uint64(index)
    wanted = [values_of(table, column) for column in ranking_columns]
    columns = np.stack(wanted, axis=1) if wanted else np.zeros((n, 0))
    return GateResults(first, value, num_rejected, unmeasured, shape, _early(table, measured_gates), columns)


def _early(table: pa.Table, gates: Gates | None) -> npt.NDArray[np.int8]:
    """Return the cheap gate that rejected each row when measured, an index into the fields of `Gates`; else −1."""
    out = np.full(len(table), -1, np.int8)
    names: list[Any] = list(Gates.model_fields)
    for gate, score, side, bound in gates.bounds() if gates else []:
        if gate in CHEAP_GATES:
            rejected = is_beyond(values_of(table, score), side, bound)
            out[rejected & (out < 0)] = names.index(gate)
    return out
