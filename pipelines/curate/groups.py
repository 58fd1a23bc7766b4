"""Which of many videos show the same: likely pairs by their looks, in bounded memory, then aligned."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .duplicates import MIN_PLACE, SIDE, Floats, align, mirrored, unit
from .judgement import Integers

BLOCK = 2048  # sequences that are compared with as many at once
# Partners of one sequence that are aligned with it. A copy is among the likeliest; a thousand dances in one studio
# need not all be compared with each other.
MOST_CANDIDATES = 64


def find_groups(sequences: Sequence[Floats], min_ratio: float) -> list[int]:
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

    for first, second in candidate_pairs(looks, lengths, min_ratio):
        one, other = root(first), root(second)
        min_overlap = max(2, int(np.ceil(min_ratio * max(lengths[first], lengths[second]))))
        if one != other and align(sequences[first], sequences[second], min_overlap).overlap:
            parent[max(one, other)] = min(one, other)
    return [root(index) for index in range(len(sequences))]


def _looks(sequences: Sequence[Floats]) -> tuple[Floats, npt.NDArray[np.int64]]:
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


def candidate_pairs(looks: Floats, lengths: npt.NDArray[np.int64], min_ratio: float) -> Iterator[tuple[int, int]]:
    """Pairs (first < second) that may be copies, each once.

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
        for row, column in zip(*best.pairs(), strict=True):
            first, second = int(order[begin + row]), int(order[column])
            yield min(first, second), max(first, second)


def _likeness(looks: Floats, first: Integers, second: Integers, flip: bool) -> Floats:
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
        self.found: list[tuple[Integers, Integers, Floats]] = []
        self.num_found = 0

    def add(self, row: Integers, column: Integers, score: Floats) -> None:
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


class Fingerprints:
    """Fingerprints of many rows, gathered a table at a time in a file, and the groups of those that show the same.

    Args:
        scope: "source" compares whole files (all clips of a file share its group), "clip" each clip with each, so
            that of two overlapping parts of one video one clip stays.
        folder: where the file is made; it is gone when the process ends, however it ends.
    """

    COLUMNS = ("source_id", "clip_id", "start_s", "fingerprint")

    def __init__(self, scope: str, folder: Path | None = None) -> None:
        self.key = "source_id" if scope == "source" else "clip_id"
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as this object
        self.places: dict[str, tuple[int, int]] = {}
        self.keys_of_rows: list[pa.Array] = []
        self.size = 0

    def add(self, table: pa.Table) -> None:
        """Take the rows of a table with `COLUMNS`, in path order; all clips of a source are in one table."""
        has = pc.and_(pc.is_valid(table["fingerprint"]), pc.is_valid(table["source_id"]))
        key = pc.if_else(has, table[self.key], pa.scalar(None, pa.string()))
        self.keys_of_rows.append(key.combine_chunks() if isinstance(key, pa.ChunkedArray) else key)
        members: dict[str, dict[float, bytes]] = defaultdict(dict)
        for row in table.select(self.COLUMNS).filter(has).to_pylist():
            # A file that lies there twice has every clip twice; the pictures of a moment count once.
            if row[self.key] not in self.places:
                members[row[self.key]][row["start_s"]] = row["fingerprint"]
        for name, clips in members.items():
            data = b"".join(clips[start] for start in sorted(clips))
            self.file.write(data)
            self.places[name] = (self.size, self.size + len(data))
            self.size += len(data)

    def groups(self, min_ratio: float, rows: pa.ChunkedArray | None = None) -> pa.Array:
        """For every row, in the order in which they came, the name of its group; null without a fingerprint.

        Args:
            min_ratio: share of the longer one that two copies have in common.
            rows: ids of other rows (of sources, or of clips, by the scope) that are asked about instead.
        """
        names = sorted(self.places)
        rows = pa.chunked_array(self.keys_of_rows, pa.string()) if rows is None else rows
        if not names:
            return pa.nulls(len(rows), pa.string())
        self.file.flush()
        data = np.memmap(self.file, np.uint8, mode="r")
        groups = find_groups(_Stored(data, [self.places[name] for name in names]), min_ratio)
        first = pa.array(names).take(pa.array(groups))
        return first.take(pc.index_in(rows, value_set=pa.array(names)).combine_chunks())


class _Stored(Sequence[Floats]):
    """Sequences [n, 64] that lie one after the other in a file."""

    def __init__(self, data: npt.NDArray[np.uint8], places: list[tuple[int, int]]) -> None:
        self.data, self.places = data, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        start, stop = self.places[index]
        return self.data[start:stop].reshape(-1, SIDE * SIDE).astype(np.float32)
