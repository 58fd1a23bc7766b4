"""Which of the rows that could be accepted are left out because another shows the same."""

from dataclasses import dataclass

import numpy as np

from .gating import Floats, Integers, Mask


@dataclass(frozen=True)
class Deduplicated:
    """What is left of candidates, and for each row [n] that is not, the row that it gave way to (−1: none).

    Attributes:
        kept: candidates that stay.
        same_as: the accepted row with the same content.
        copy_of: the best copy of what the row shows.
    """

    kept: Mask
    same_as: Integers
    copy_of: Integers


class Copies:
    """Rows that cannot all be accepted.

    Args:
        clip: code of the clip's content [n].
        group: code of what it shows [n], −1 where nothing is known to show the same.
        unit: code of what stays whole when copies are told apart [n]: the source, or the clip.
        quality: the larger, the better the copy [n].
        position: place in path order [n]; the first of equals stays.
        wanted: rows that a person has accepted [n]: they stay before others, and beside better copies.
    """

    def __init__(
        self, clip: Integers, group: Integers, unit: Integers, quality: Floats, position: Integers, wanted: Mask
    ) -> None:
        self.clip, self.group, self.unit, self.wanted = clip, group, unit, wanted
        self.quality, self.position = np.where(wanted, np.inf, quality), position
        # Most rows are nobody's copy: only these need be looked at, however often.
        self.repeated = np.flatnonzero(np.bincount(clip, minlength=1)[clip] > 1)
        in_group = np.flatnonzero(group >= 0)
        self.grouped = in_group[np.bincount(group[in_group], minlength=1)[group[in_group]] > 1]

    def deduplicate(self, candidates: Mask) -> Deduplicated:
        """Of each content the first row; of these, of each group what belongs to its best copy."""
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


def _best(rows: Integers, code: Integers, keys: tuple[Floats | Integers | Mask, ...]) -> Integers:
    """For each of `rows` the one of its code with the smallest keys, the last key first."""
    order = np.lexsort((*keys, code[rows]))
    codes = code[rows[order]]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]]) if len(rows) else np.array([], np.int64)
    out = np.empty(len(rows), np.int64)
    out[order] = np.repeat(rows[order[starts]], np.diff(np.r_[starts, len(rows)]))
    return out


def over_quota(
    kept: Mask, code: Integers, limit: int | Integers, margin: Floats, position: Integers, wanted: Mask
) -> Mask:
    """Rows [n] of `kept` beyond the first `limit` of their code, the largest margin first.

    What a person has accepted counts and stays.
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
