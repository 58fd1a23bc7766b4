"""Fingerprints of many rows, stored in a temporary file until near-duplicates are searched."""

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.arrays import Floats32
from ..scores.duplicates import SIDE
from .near_duplicates import find_groups


class Fingerprints:
    """Fingerprints of many rows, collected table by table in a temporary file, and their groups of near-duplicates.

    Args:
        scope: "source" compares whole files (all clips of a file share its group), "clip" each clip with each, so
            that of two overlapping excerpts of one video one clip is kept.
        folder: of the temporary file, which is deleted when the process ends, even if it is killed.
    """

    COLUMNS = ("source_id", "clip_id", "start_s", "fingerprint")

    def __init__(self, scope: str, folder: Path | None = None) -> None:
        self.key = "source_id" if scope == "source" else "clip_id"
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it lives as long as this object
        self.places: dict[str, tuple[int, int]] = {}
        self.keys_of_rows: list[pa.Array] = []
        self.size = 0

    def add(self, table: pa.Table) -> None:
        """Add the rows of a table with `COLUMNS`, in path order; all clips of a source must be in one table."""
        has = pc.and_(pc.is_valid(table["fingerprint"]), pc.is_valid(table["source_id"]))
        key = pc.if_else(has, table[self.key], pa.scalar(None, pa.string()))
        self.keys_of_rows.append(key.combine_chunks() if isinstance(key, pa.ChunkedArray) else key)
        members: dict[str, dict[float, bytes]] = defaultdict(dict)
        for row in table.select(self.COLUMNS).filter(has).to_pylist():
            # A file that exists twice has every clip twice; count the pictures of each moment once.
            if row[self.key] not in self.places:
                members[row[self.key]][row["start_s"]] = row["fingerprint"]
        for name, clips in members.items():
            data = b"".join(clips[start] for start in sorted(clips))
            self.file.write(data)
            self.places[name] = (self.size, self.size + len(data))
            self.size += len(data)

    def groups(self, min_ratio: float, rows: pa.ChunkedArray | None = None) -> pa.Array:
        """Return the group of every row, in the order of `add`; null without a fingerprint.

        Args:
            min_ratio: share of the longer video that two copies must have in common.
            rows: ids of the rows to return groups for instead (of sources or clips, by the scope).
        """
        names = sorted(self.places)
        rows = pa.chunked_array(self.keys_of_rows, pa.string()) if rows is None else rows
        if not names:
            return pa.nulls(len(rows), pa.string())
        self.file.flush()
        data = np.asarray(np.memmap(self.file, np.uint8, mode="r"))
        groups = find_groups(_Stored(data, [self.places[name] for name in names]), min_ratio)
        first = pa.array(names).take(pa.array(groups))
        return first.take(pc.index_in(rows, value_set=pa.array(names)).combine_chunks())


class _Stored(Sequence[Floats32]):
    """Sequences [n, 64] stored one after the other in a file."""

    def __init__(self, data: npt.NDArray[np.uint8], places: list[tuple[int, int]]) -> None:
        self.data, self.places = data, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        start, stop = self.places[index]
        return self.data[start:stop].reshape(-1, SIDE * SIDE).astype(np.float32)
