"""Search for near-duplicate videos: find candidate pairs in bounded memory, then align them."""

from collections.abc import Iterator, Sequence

import numpy as np

from ....datasets.arrays import Floats32, Integers, Mask
from ..scores.duplicates import LONG, MIN_CHANGE, MIN_EVENTS, MIN_EVENTS_SHORT, MIN_PLACE, SIDE, align, mirrored, unit

BLOCK = 2048  # rows and columns of a tile of comparisons
# Partners that are aligned with one sequence. A copy is among the most similar; a thousand dances in one studio need
# not all be compared with each other.
MAX_CANDIDATES = 64
CHUNK_PRODUCTS = 1 << 21  # products of pictures in memory at once
SLACK = 0.001  # of a correlation, for rounding errors of batched comparisons


def find_groups(sequences: Sequence[Floats32], min_ratio: float) -> list[int]:
    """Return for every sequence the index of the first one that it is a copy of (itself if there is none).

    Two sequences are copies if they agree over `min_ratio` of the longer one; an excerpt is not a copy. Only candidate
    pairs are aligned: similar length and mean picture, for each sequence at most `MAX_CANDIDATES`, the most similar
    ones. Sequences are read one by one and may be stored in a file.
    """
    if not len(sequences):
        return []
    signatures, lengths = _signatures(sequences)
    parent = list(range(len(sequences)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for pairs in candidate_pairs(signatures, lengths, min_ratio):
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
    """Yield ranges of pairs whose tables of products fit into memory; lengths in a range are similar."""
    begin = 0
    while begin < len(longer):
        stop = begin + max(1, int(CHUNK_PRODUCTS // (2 * float(longer[begin]) ** 2)))
        yield begin, min(stop, len(longer))
        begin = stop


def _may_agree(sequences: Sequence[Floats32], pairs: Integers, min_overlap: Integers) -> Mask:
    """Return a mask of the pairs [2, n] to pass to `align`: all shifts at once, thresholds reduced by `SLACK`."""
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
    """Return the factors of `align`, [n, longest, 64] each, zero-padded, and the lengths."""
    length = np.array([len(one) for one in sequences])
    is_there = (np.arange(int(length.max())) < length[:, None])[:, :, None]
    events = np.zeros((len(sequences), int(length.max()), SIDE**2), np.float32)
    events[is_there[:, :, 0]] = np.concatenate(sequences)
    place = unit(events.reshape(-1, SIDE**2)).reshape(events.shape) * is_there
    events = (events - events.sum(axis=1, keepdims=True) / length[:, None, None].astype(np.float32)) * is_there
    return place, events, length


def _diagonals(first: Floats32, second: Floats32) -> Floats32:
    """Sum the products [n, L, 64] · [n, L, 64] along the diagonals: shifts 0 … L, then −L … −1."""
    table = np.matmul(first, second.transpose(0, 2, 1))
    n, size = table.shape[:2]
    # Pad rows to twice the width plus one, so that diagonals become columns.
    wide = np.zeros((n, size * (2 * size + 1)), np.float32)
    wide[:, : 2 * size * size].reshape(n, size, 2 * size)[:, :, :size] = table
    sheared = wide.reshape(n, size, 2 * size + 1)
    out: Floats32 = sheared.sum(axis=1)
    return out


def _signatures(sequences: Sequence[Floats32]) -> tuple[Floats32, Integers]:
    """Compute [n, 2, 64], the mean and standard deviation of the pictures (mean 0, length 1), and the lengths."""
    signatures = np.empty((len(sequences), 2, SIDE**2), np.float32)
    lengths = np.empty(len(sequences), np.int64)
    for index in range(len(sequences)):
        sequence = sequences[index]
        signatures[index], lengths[index] = (sequence.mean(axis=0), sequence.std(axis=0)), len(sequence)
    flat = signatures.reshape(-1, SIDE**2)
    for begin in range(0, len(flat), BLOCK):
        flat[begin : begin + BLOCK] = unit(flat[begin : begin + BLOCK])
    return signatures, lengths


def candidate_pairs(signatures: Floats32, lengths: Integers, min_ratio: float) -> Iterator[Integers]:
    """Yield pairs [2, n] (first < second) that may be copies, each once, similar lengths together.

    All pairs of similar length are compared by their mean pictures, mirrored too, in tiles of `BLOCK`²: at most
    N² × 128 products, in memory that does not grow with N. Pairs are ranked by where they change, too.
    """
    order = np.argsort(lengths, kind="stable")
    means, changes = (np.ascontiguousarray(signatures[order, k]) for k in range(2))
    ordered = lengths[order]
    # Compare a sequence with those at least as long, up to the longest that it could be a copy of.
    stops = np.searchsorted(ordered * min_ratio, ordered, side="right")
    for begin in range(0, len(order), BLOCK):
        rows = slice(begin, min(begin + BLOCK, len(order)))
        best = _Best(rows.stop - rows.start)
        for start in range(begin, int(stops[rows].max()), BLOCK):
            columns = slice(start, min(start + BLOCK, len(order)))
            for flip in (False, True):
                similarity = means[rows] @ (mirrored(means[columns]) if flip else means[columns]).T
                row, column = np.nonzero(similarity >= MIN_PLACE)
                fits = (column + start > row + begin) & (column + start < stops[row + begin])
                row, column = row[fits], column[fits]
                best.add(
                    row,
                    column + start,
                    similarity[row, column] + _row_products(changes, row + begin, column + start, flip),
                )
        row, column = best.pairs()
        yield np.sort(np.stack([order[begin + row], order[column]]), axis=0)


def _row_products(signatures: Floats32, first: Integers, second: Integers, flip: bool) -> Floats32:
    """Compute the dot products of pairs of rows."""
    out = np.empty(len(first), np.float32)
    for begin in range(0, len(first), 64 * BLOCK):
        part = slice(begin, begin + 64 * BLOCK)
        other = signatures[second[part]]
        out[part] = np.einsum("nk,nk->n", signatures[first[part]], mirrored(other) if flip else other)
    return out


class _Best:
    """The most similar partners of each row found so far."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.found: list[tuple[Integers, Integers, Floats32]] = []
        self.num_found = 0

    def add(self, row: Integers, column: Integers, score: Floats32) -> None:
        self.found.append((row, column, score))
        self.num_found += len(row)
        if self.num_found > 4 * self.num_rows * MAX_CANDIDATES:
            self.pairs()

    def pairs(self) -> tuple[Integers, Integers]:
        """Return rows and partners, most similar first per row; partners beyond `MAX_CANDIDATES` are dropped."""
        row, column, score = (np.concatenate(part) for part in zip(*self.found, strict=True))
        order = np.lexsort((column, -score, row))
        row, column, score = row[order], column[order], score[order]
        # A pair may have been found both as it is and mirrored.
        again = np.r_[False, (row[1:] == row[:-1]) & (column[1:] == column[:-1])] if len(row) else row.astype(bool)
        row, column, score = row[~again], column[~again], score[~again]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        kept = rank < MAX_CANDIDATES
        self.found = [(row[kept], column[kept], score[kept])]
        self.num_found = int(kept.sum())
        return row[kept], column[kept]
