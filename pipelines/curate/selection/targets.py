"""Find thresholds that accept a given number of clips: the ranking gates move together by one number, the strictness.

A gate that rejects the share q of the clips with its score rejects q (1 + s) of them at strictness s ≤ 0, and
q + s (1 − q) at s ≥ 0: none at −1, as configured at 0, all at 1. Each threshold is thus a quantile of its column. A
clip's **margin** is the largest strictness at which it passes all of these gates. The N clips with the largest margins
are those that the thresholds at the N-th margin accept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....datasets.arrays import Floats64, Integers, Mask
from ..config import SHAPES, CurateConfig, Shape, Target
from .copies import over_quota

# Margin of a clip that lacks a score which other clips have. It passes the gate, but its quality is unknown: it ranks
# after all clips that pass the configured threshold (0 and more) and before all others.
UNMEASURED = float(np.nextafter(0, -1))


@dataclass(frozen=True)
class MovingGates:
    """The gates that move: names, columns, sides and configured thresholds."""

    gates: tuple[str, ...]
    columns: tuple[str, ...]
    sides: tuple[str, ...]
    bounds: tuple[float, ...]

    @classmethod
    def of(cls, config: CurateConfig) -> "MovingGates":
        """Return the gates of `quotas.along` that are on."""
        moved = [one for one in config.gates.bounds() if one[0] in config.quotas.along]
        gates, columns, sides, bounds = zip(*moved, strict=True) if moved else ((), (), (), ())
        return cls(gates, columns, sides, bounds)


@dataclass(frozen=True)
class Scale:
    """How one gate's threshold depends on the strictness: the column's distinct values, and the margin of each."""

    values: Floats64
    margins: Floats64

    @classmethod
    def of(cls, values: Floats64, side: str, bound: float) -> "Scale":
        """Build from the values [n] of a column (NaN: not measured), sorted from worst to best."""
        sign = 1.0 if side == "min" else -1.0
        known = np.sort(sign * values[~np.isnan(values)])
        each = np.unique(known)
        worse = np.searchsorted(known, each) / max(1, len(known))
        rejected = np.searchsorted(known, sign * bound) / max(1, len(known))
        with np.errstate(divide="ignore", invalid="ignore"):
            below, above = (worse - rejected) / rejected, (worse - rejected) / (1 - rejected)
        return cls(each, np.where(worse < rejected, below, above))

    def margin(self, values: Floats64, side: str) -> Floats64:
        """Return the largest strictness at which each value passes; `UNMEASURED` for NaN."""
        if not len(self.values):
            return np.ones(len(values))
        sign = 1.0 if side == "min" else -1.0
        place = np.clip(np.searchsorted(self.values, sign * np.nan_to_num(values)), 0, len(self.values) - 1)
        return np.where(np.isnan(values), UNMEASURED, self.margins[place])

    def bound(self, strictness: float, side: str) -> float | None:
        """Return the worst value that passes; None if no clip has the score."""
        if not len(self.values):
            return None
        place = int(np.searchsorted(self.margins, strictness))
        value = self.values[place] if place < len(self.values) else np.nextafter(self.values[-1], np.inf)
        return float(value if side == "min" else -value)


def scales(ranking_scores: Floats64, moving: MovingGates) -> list[Scale]:
    """Build one scale per gate from the scores [n, gates] of all rows."""
    return [Scale.of(ranking_scores[:, k], moving.sides[k], moving.bounds[k]) for k in range(len(moving.gates))]


def lacks_ranking_score(ranking_scores: Floats64, each: Sequence[Scale]) -> Mask:
    """Return a mask of rows [n] that lack a score by which others are ranked; a score that no clip has is ignored."""
    ranks = np.array([len(scale.values) > 0 for scale in each], bool)
    return np.asarray(np.isnan(ranking_scores[:, ranks]).any(axis=1), bool)


def margins(ranking_scores: Floats64, moving: MovingGates, each: Sequence[Scale]) -> Floats64:
    """Compute the margin [n] of every row, −1..1; 0 or more if it passes the gates as configured."""
    out = np.ones(len(ranking_scores))
    for k, scale in enumerate(each):
        out = np.minimum(out, scale.margin(ranking_scores[:, k], moving.sides[k]))
    return out


@dataclass
class MixPart:
    """A part of the mix: its shapes, the wanted number of clips, and the result of the search.

    Attributes:
        strictness: at which the gates accept that many clips; None if there is no threshold to move.
        accepted: clips by shape; ties beyond `wanted` are not counted.
        available: clips that pass when the moving gates reject none.
        unmeasured: accepted clips that lack a score by which others were ranked.
    """

    shapes: tuple[Shape, ...]
    wanted: int
    strictness: float | None = None
    available: int = 0
    unmeasured: int = 0
    accepted: dict[Shape, int] = field(default_factory=dict)


def mix_parts(target: Target) -> list[MixPart]:
    """Split the target into whole clips per part of the mix, largest remainders first; unnamed shapes form one part."""
    rest = tuple(shape for shape in SHAPES if shape not in target.mix)
    shares: list[tuple[tuple[Shape, ...], float]] = [((shape,), share) for shape, share in target.mix.items()]
    if rest:
        shares.append((rest, max(0.0, 1 - sum(target.mix.values()))))
    exact = [share * target.num_clips for _, share in shares]
    counts = [int(number + 1e-9) for number in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: (counts[k] - exact[k], k))
    for k in by_remainder[: target.num_clips - sum(counts)]:
        counts[k] += 1
    return [MixPart(shapes, count) for (shapes, _), count in zip(shares, counts, strict=True)]


def find_strictness(
    parts: Sequence[MixPart],
    candidates: Mask,
    margin: Floats64,
    shape: Integers,
    position: Integers,
    keep: Callable[[Mask], Mask],
    lacks_ranking_score: Mask,
) -> None:
    """Set every part's `strictness` to the largest at which it has the clips that are wanted, by bisection.

    Args:
        parts: of the mix.
        candidates: rows [n] that pass all gates that do not move.
        margin: of the rows [n]; infinite for rows accepted by hand.
        shape: of the rows [n].
        position: rank of the rows [n] in path order, which decides between equal margins.
        keep: removes duplicates and clips over quota from a mask of rows.
        lacks_ranking_score: rows [n] without a score by which others are ranked.
    """
    part_of = np.full(len(SHAPES), -1)
    for k, part in enumerate(parts):
        part_of[[SHAPES.index(one) for one in part.shapes]] = k
    owner = part_of[shape]
    ranked = candidates & np.isfinite(margin)
    levels = [np.unique(margin[ranked & (owner == k)]) for k in range(len(parts))]

    def kept(at: Sequence[int]) -> Mask:
        cuts = np.array([one[k] if len(one) else np.inf for one, k in zip(levels, at, strict=True)])
        return keep(candidates & (margin >= cuts[owner]))

    def counts(at: Sequence[int]) -> Integers:
        return np.bincount(owner[kept(at)], minlength=len(parts))

    low, high = [0] * len(parts), [max(0, len(one) - 1) for one in levels]
    for part, number in zip(parts, counts(low), strict=True):
        part.available = int(number)
    while any(a < b for a, b in zip(low, high, strict=True)):
        middle = [(a + b + 1) // 2 for a, b in zip(low, high, strict=True)]
        for k, number in enumerate(counts(middle)):
            if number >= parts[k].wanted:
                low[k] = middle[k]
            else:
                high[k] = max(low[k], middle[k] - 1)
    # Duplicates of another shape were removed at another strictness of their part: relax parts that are now short.
    for _ in range(64):
        short = {k: parts[k].wanted - number for k, number in enumerate(counts(low)) if number < parts[k].wanted}
        if not any(low[k] for k in short):
            break
        low = [max(0, at - int(short.get(k, 0))) for k, at in enumerate(low)]
    left = kept(low)
    left &= ~over_quota(left, owner, np.array([part.wanted for part in parts]), margin, position, np.isinf(margin))
    for k, part in enumerate(parts):
        level = float(levels[k][low[k]]) if len(levels[k]) else None
        part.strictness = 0.0 if level == UNMEASURED else level  # the configured thresholds
        part.unmeasured = int((left & lacks_ranking_score & (owner == k)).sum())
        part.accepted = {one: int((left & (shape == SHAPES.index(one))).sum()) for one in part.shapes}


def apply_found_bounds(
    config: CurateConfig, parts: Sequence[MixPart], moving: MovingGates, each: Sequence[Scale]
) -> CurateConfig:
    """Return the configuration with the found thresholds and without a target; it selects the same clips."""
    by_shape: dict[Shape, dict[str, float | None]] = {shape: dict(v) for shape, v in config.gates_by_shape.items()}
    for part in parts:
        for shape in part.shapes if part.strictness is not None else ():
            found = {
                gate: scale.bound(part.strictness or 0.0, side)
                for gate, side, scale in zip(moving.gates, moving.sides, each, strict=True)
            }
            by_shape[shape] = by_shape.get(shape, {}) | {g: b for g, b in found.items() if b is not None}
    limits = {shape: part.accepted.get(shape, 0) for part in parts for shape in part.shapes}
    given = config.quotas.max_accepted_by_shape
    limits = {shape: min(number, given.get(shape, number)) for shape, number in limits.items()}
    quotas = config.quotas.model_copy(update={"max_accepted_by_shape": limits})
    return config.model_copy(update={"gates_by_shape": by_shape, "quotas": quotas, "target": None})


def target_record(target: Target, parts: Sequence[MixPart], config: CurateConfig) -> dict[str, Any]:
    """Return the record of a target: what was requested and reached, and a preset that repeats it."""
    got = sum(sum(part.accepted.values()) for part in parts)
    fields = {"gates_by_shape", "quotas", "target"}
    return {
        "asked": target.num_clips,
        "reached": all(sum(part.accepted.values()) >= part.wanted for part in parts),
        "accepted": got,
        "parts": [
            {"shapes": list(part.shapes), "asked": part.wanted, "accepted": sum(part.accepted.values()),
             "unmeasured": part.unmeasured, "available": part.available, "strictness": part.strictness}
            for part in parts
        ],
        "preset": {"curate": config.model_dump(mode="json", include=fields)},
    }  # fmt: skip
