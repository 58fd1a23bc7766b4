"""Rejection of duplicates and of clips over quota."""

from dataclasses import dataclass

import numpy as np

from ....datasets.arrays import Floats64, Integers, Mask


@dataclass(frozen=True)
class Deduplicated:
    """Candidates that are kept, and for each other row [n] the row kept in its place (−1: none).

    Attributes:
        kept: candidates that are kept.
        same_as: the kept row with the same content.
        copy_of: the kept row with the best copy of the same video.
    """

    kept: Mask
    same_as: Integers
    copy_of: Integers


class Copies:
    """Groups of duplicate rows, of which only the best are accepted.

    Args:
        clip: code of the clip's content [n].
        group: code of its group of near-duplicates [n], −1 without one.
        unit: code of what is kept as a whole [n]: the source or the clip.
        quality: higher is better [n].
        position: rank in path order [n]; the first of equals is kept.
        wanted: rows accepted by hand [n]: they are preferred, and kept beside better copies.
    """

    def __init__(
        self, clip: Integers, group: Integers, unit: Integers, quality: Floats64, position: Integers, wanted: Mask
    ) -> None:
        self.clip, self.group, self.unit, self.wanted = clip, group, unit, wanted
        self.quality, self.position = np.where(wanted, np.inf, quality), position
        # Most rows are not duplicates: only these rows need comparing.
        self.repeated = np.flatnonzero(np.bincount(clip, minlength=1)[clip] > 1)
        in_group = np.flatnonzero(group >= 0)
        self.grouped = in_group[np.bincount(group[in_group], minlength=1)[group[in_group]] > 1]

    def deduplicate(self, candidates: Mask) -> Deduplicated:
        """Keep the first row of each content, and of these in each group the unit of the best copy."""
        kept = candidates.copy()
        same_as, copy_of = np.full(len(kept), -1), np.full(len(kept), -1)
        rows = self.repeated[kept[self.repeated]]
        first = _best(rows, self.clip, (self.position[rows], ~self.wanted[rows]))
        out = rows != first
        same_as[rows[out]], kept[rows[out]] = first[out], False
        rows = self.grouped[kept[self.grouped]]
        best = _best(rows, self.group, (self.position[rows], -self.quality[rows]))
        out = (self.unit[rows] != self.unit[best]) & ~self.wanted[rows]
        copy_of[rows[out]], kept[rows[out]] = best[out], False
        return Deduplicated(kept, same_as, copy_of)


def _best(rows: Integers, code: Integers, keys: tuple[Floats64 | Integers | Mask, ...]) -> Integers:
    """Return for each of `rows` the row of its code with the smallest keys; the last key is the primary one."""
    order = np.lexsort((*keys, code[rows]))
    codes = code[rows[order]]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]]) if len(rows) else np.array([], np.int64)
    out = np.empty(len(rows), np.int64)
    out[order] = np.repeat(rows[order[starts]], np.diff(np.r_[starts, len(rows)]))
    return out


def over_quota(
    kept: Mask, code: Integers, limit: int | Integers, margin: Floats64, position: Integers, wanted: Mask
) -> Mask:
    """Return a mask [n] of the rows of `kept` beyond the first `limit` of their code, largest margin first.

    Rows accepted by hand count towards the limit and are kept.
    """
    rows = np.flatnonzero(kept)
    order = np.lexsort((position[rows], -margin[rows], ~wanted[rows], code[rows]))
    codes = code[rows[order]]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]]) if len(rows) else np.array([], np.int64)
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
    allowed = limit if isinstance(limit, int) else limit[codes]
    out = np.zeros(len(kept), bool)
    out[rows[order[rank >= allowed]]] = True
    return out & ~wanted
