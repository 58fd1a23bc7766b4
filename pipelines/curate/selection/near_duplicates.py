"""Which of many videos show the same: likely pairs by their looks, in bounded memory, then aligned."""

from collections.abc import Iterator, Sequence

import numpy as np

from ....datasets.arrays import Floats32
from ..scores.duplicates import LONG, MIN_CHANGE, MIN_EVENTS, MIN_EVENTS_SHORT, MIN_PLACE, SIDE, align, mirrored, unit
from .gating import Integers, Mask

BLOCK = 2048  # sequences that are compared with as many at once
# Partners of one sequence that are aligned with it. A copy is among the likeliest; a thousand dances in one studio
# need not all be compared with each other.
MOST_CANDIDATES = 64
CHUNK_PRODUCTS = 1 << 21  # products of pictures that are held at once
SLACK = 0.001  # of a correlation: rounding, while many pairs are looked at together


def find_groups(sequences: Sequence[Floats32], min_ratio: float) -> list[int]:
    """For every sequence the index of the first one that it is a copy of (itself, if of none).

    Two are copies when they agree over `min_ratio` of the longer one: a part of a video is no copy of it. Only likely
    pairs are aligned: those of like length whose mean pictures are alike, for each sequence at most `MOST_CANDIDATES`,
    the likeliest ones. Sequences are read one by one, and may lie in a file.
    """
    if not len(sequences):
        return []
    looks, lengths = _looks(sequences)
    parent = list(range(len(sequences)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for pairs in candidate_pairs(looks, lengths, min_ratio):
        longer = np.maximum(*lengths[pairs])
        min_overlap = np.maximum(2, np.ceil(min_ratio * longer).astype(int))
        for begin, stop in _chunks(longer):
            part = slice(begin, stop)
            likely = np.flatnonzero(_may_agree(sequences, pairs[:, part], min_overlap[part])) + begin
            for first, second, overlap in zip(*pairs[:, likely].tolist(), min_overlap[likely].tolist(), strict=True):
                one, other = root(first), root(second)
                if one != other and align(sequences[first], sequences[second], overlap).overlap:
                    parent[max(one, other)] = min(one, other)
    return [root(index) for index in range(len(sequences))]


def _chunks(longer: Integers) -> Iterator[tuple[int, int]]:
    """Runs of pairs whose tables of products fit into memory; sequences of a run are of like length."""
    begin = 0
    while begin < len(longer):
        stop = begin + max(1, int(CHUNK_PRODUCTS // (2 * float(longer[begin]) ** 2)))
        yield begin, min(stop, len(longer))
        begin = stop


def _may_agree(sequences: Sequence[Floats32], pairs: Integers, min_overlap: Integers) -> Mask:
    """Pairs [2, n] that `align` need be asked about: all shifts of all pairs at once, and a little less is asked."""
    used, where = np.unique(pairs, return_inverse=True)
    place, events, length = _padded([sequences[index] for index in used.tolist()])
    first, second = where.reshape(2, -1)
    size = place.shape[1]
    shifts = np.r_[np.arange(size + 1), np.arange(-size, 0)]  # in the order in which `_diagonals` has them
    start = np.maximum(0, -shifts)
    stop = np.minimum(length[first, None], length[second, None] - shifts)
    overlap = stop - start
    power = np.concatenate([np.zeros((len(used), 1)), np.cumsum((events**2).sum(axis=2), axis=1)], axis=1)
    stop = np.maximum(stop, start)
    ends = [
        np.clip(end, 0, power.shape[1] - 1)
        for end in (start + 0 * stop, stop, start + shifts + 0 * stop, stop + shifts)
    ]
    rows = (first[:, None], first[:, None], second[:, None], second[:, None])
    sums = [power[row, end] for row, end in zip(rows, ends, strict=True)]
    energy = (sums[1] - sums[0]) * (sums[3] - sums[2])
    fits = (overlap >= min_overlap[:, None]) & (energy >= 0.99 * (overlap * SIDE**2 * MIN_CHANGE**2) ** 2)
    least = np.where(overlap >= LONG, MIN_EVENTS, MIN_EVENTS_SHORT) - SLACK
    out = np.zeros(pairs.shape[1], bool)
    for flip in (False, True):
        others = [mirrored(one.reshape(-1, SIDE**2)).reshape(one.shape) if flip else one for one in (place, events)]
        same_place = _diagonals(place[first], others[0][second])
        same_events = _diagonals(events[first], others[1][second])
        agree = (same_place >= (MIN_PLACE - SLACK) * overlap) & (same_events >= least * np.sqrt(np.maximum(energy, 0)))
        out |= (fits & agree).any(axis=1)
    return out


def _padded(sequences: list[Floats32]) -> tuple[Floats32, Floats32, Integers]:
    """What `align` multiplies, [n, longest, 64] each, zero behind a sequence's end; and the lengths."""
    length = np.array([len(one) for one in sequences])
    is_there = (np.arange(int(length.max())) < length[:, None])[:, :, None]
    events = np.zeros((len(sequences), int(length.max()), SIDE**2), np.float32)
    events[is_there[:, :, 0]] = np.concatenate(sequences)
    place = unit(events.reshape(-1, SIDE**2)).reshape(events.shape) * is_there
    events = (events - events.sum(axis=1, keepdims=True) / length[:, None, None].astype(np.float32)) * is_there
    return place, events, length


def _diagonals(first: Floats32, second: Floats32) -> Floats32:
    """Sums of the products [n, L, 64] · [n, L, 64] along the diagonals: shifts 0 … L, then −L … −1."""
    table = np.matmul(first, second.transpose(0, 2, 1))
    n, size = table.shape[:2]
    # Rows of twice the width and one more: what stood in a diagonal stands in a column.
    wide = np.zeros((n, size * (2 * size + 1)), np.float32)
    wide[:, : 2 * size * size].reshape(n, size, 2 * size)[:, :, :size] = table
    sheared = wide.reshape(n, size, 2 * size + 1)
    out: Floats32 = sheared.sum(axis=1)
    return out


def _looks(sequences: Sequence[Floats32]) -> tuple[Floats32, Integers]:
    """[n, 2, 64]: the mean picture and where it changes, both of mean 0 and length 1; and the number of pictures."""
    looks = np.empty((len(sequences), 2, SIDE**2), np.float32)
    lengths = np.empty(len(sequences), np.int64)
    for index in range(len(sequences)):
        sequence = sequences[index]
        looks[index], lengths[index] = (sequence.mean(axis=0), sequence.std(axis=0)), len(sequence)
    flat = looks.reshape(-1, SIDE**2)
    for begin in range(0, len(flat), BLOCK):
        flat[begin : begin + BLOCK] = unit(flat[begin : begin + BLOCK])
    return looks, lengths


def candidate_pairs(looks: Floats32, lengths: Integers, min_ratio: float) -> Iterator[Integers]:
    """Pairs [2, n] (first < second) that may be copies, each once; those of like length together.

    All pairs of like length are compared by their mean pictures, mirrored too, in tiles of `BLOCK`²: N² × 128 products
    at most, and memory that does not grow with N. Of what is alike in place, the likeliest have changes in like places.
    """
    order = np.argsort(lengths, kind="stable")
    means, changes = (np.ascontiguousarray(looks[order, k]) for k in range(2))
    ordered = lengths[order]
    # A sequence meets those that are as long as it, up to the longest that it could be a copy of.
    stops = np.searchsorted(ordered * min_ratio, ordered, side="right")
    for begin in range(0, len(order), BLOCK):
        rows = slice(begin, min(begin + BLOCK, len(order)))
        best = _Best(rows.stop - rows.start)
        for start in range(begin, int(stops[rows].max()), BLOCK):
            columns = slice(start, min(start + BLOCK, len(order)))
            for flip in (False, True):
                likeness = means[rows] @ (mirrored(means[columns]) if flip else means[columns]).T
                row, column = np.nonzero(likeness >= MIN_PLACE)
                fits = (column + start > row + begin) & (column + start < stops[row + begin])
                row, column = row[fits], column[fits]
                best.add(
                    row, column + start, likeness[row, column] + _likeness(changes, row + begin, column + start, flip)
                )
        row, column = best.pairs()
        yield np.sort(np.stack([order[begin + row], order[column]]), axis=0)


def _likeness(looks: Floats32, first: Integers, second: Integers, flip: bool) -> Floats32:
    """Products of pairs of rows."""
    out = np.empty(len(first), np.float32)
    for begin in range(0, len(first), 64 * BLOCK):
        part = slice(begin, begin + 64 * BLOCK)
        other = looks[second[part]]
        out[part] = np.einsum("nk,nk->n", looks[first[part]], mirrored(other) if flip else other)
    return out


class _Best:
    """The likeliest partners of each of some rows, as they are found."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.found: list[tuple[Integers, Integers, Floats32]] = []
        self.num_found = 0

    def add(self, row: Integers, column: Integers, score: Floats32) -> None:
        self.found.append((row, column, score))
        self.num_found += len(row)
        if self.num_found > 4 * self.num_rows * MOST_CANDIDATES:
            self.pairs()

    def pairs(self) -> tuple[Integers, Integers]:
        """Rows and partners, the likeliest first of each row; what is beyond `MOST_CANDIDATES` is forgotten."""
        row, column, score = (np.concatenate(part) for part in zip(*self.found, strict=True))
        order = np.lexsort((column, -score, row))
        row, column, score = row[order], column[order], score[order]
        # As it is or mirrored: a pair may have been found both ways.
        again = np.r_[False, (row[1:] == row[:-1]) & (column[1:] == column[:-1])] if len(row) else row.astype(bool)
        row, column, score = row[~again], column[~again], score[~again]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        kept = rank < MOST_CANDIDATES
        self.found = [(row[kept], column[kept], score[kept])]
        self.num_found = int(kept.sum())
        return row[kept], column[kept]
