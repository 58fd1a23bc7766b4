"""Manual decisions: a table of accepted and rejected clips or sources, which overrule the gates."""

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.arrays import Floats64
from ....datasets.artifact import ArtifactError
from ....datasets.manifest import csv_lines
from ....datasets.storage import Location, format_location, is_address, join
from ....datasets.text import TextError, decode_text

COLUMNS = ("clip_id", "source_path", "start_s", "verdict", "note")
ACCEPT, REJECT = 1, 2
VERDICTS = {"accept": ACCEPT, "reject": REJECT}
SAME_TIME_S = 0.01  # start times are printed with two decimals
MAX_SHOWN = 8


@dataclass(frozen=True)
class Decision:
    """One line of the table: the rows it refers to, and their verdict."""

    line: int
    clip_id: str
    source_path: str
    start_s: float | None
    code: int
    note: str


@dataclass(frozen=True)
class Decisions:
    """A table of decisions, with the digest of its bytes."""

    file: str
    digest: str
    lines: tuple[Decision, ...]

    def resolve(
        self, clip_id: pa.ChunkedArray, source_path: pa.ChunkedArray, start_s: Floats64
    ) -> tuple[npt.NDArray[np.int8], dict[int, str]]:
        """Return the decision on each row [n] (0: none) and the notes by row.

        Raises:
            ArtifactError: lines that match no row or contradict each other.
        """
        code, by = np.zeros(len(start_s), np.int8), np.full(len(start_s), -1)
        rows_of = {
            "clip_id": _positions(clip_id, {one.clip_id for one in self.lines}),
            "source_path": _positions(source_path, {one.source_path for one in self.lines}),
        }
        wrong = []
        for number, one in enumerate(self.lines):
            found = [rows_of[name].get(key) for name, key in _keys(one)]
            rows = np.array(sorted(set.intersection(*(set(rows or ()) for rows in found))), np.int64)
            if one.start_s is not None:
                rows = rows[np.abs(np.nan_to_num(start_s[rows]) - one.start_s) <= SAME_TIME_S]
            if not len(rows):
                wrong.append(f"line {one.line}: no row matches {_name(one)}")
            for row in rows[(code[rows] != 0) & (code[rows] != one.code)][:1]:
                first = self.lines[by[row]]
                wrong.append(f"lines {first.line} and {one.line} contradict each other on {_name(one)}")
            code[rows], by[rows] = one.code, number
        _raise(self.file, wrong)
        return code, {int(row): self.lines[by[row]].note for row in np.flatnonzero(code)}


def read_decisions(place: Location) -> Decisions:
    """Read a csv with the columns `clip_id` or `source_path` [and `start_s`], `verdict` (accept or reject) and `note`.

    Paths are those of the clips' rows, or relative to the table.

    Raises:
        ArtifactError: a line is not a valid decision; the message lists these lines.
    """
    data = place.read_bytes()
    try:
        text, delimiter = csv_lines(io.StringIO(decode_text(data, place), newline=""))
        reader = csv.DictReader(text, delimiter=delimiter, skipinitialspace=True)
        columns = [str(name).strip().casefold() for name in reader.fieldnames or []]
        reader.fieldnames = columns
        unknown = sorted(set(columns) - set(COLUMNS))
        if unknown or "verdict" not in columns or not {"clip_id", "source_path"} & set(columns):
            raise ArtifactError(
                f"{place}: expected the columns verdict and clip_id or source_path, optionally start_s and note; "
                f"got {', '.join(map(str, columns)) or 'none'}"
            )
        # Spreadsheets append rows of separators only.
        rows = [(reader.line_num, row) for row in reader if any(map(bool, row.values()))]
    except TextError as error:
        raise ArtifactError(f"{place} cannot be read as csv: {error.detail}") from error
    except csv.Error as error:
        raise ArtifactError(f"{place} cannot be read as csv: {error}") from error
    lines, wrong = [], []
    for number, row in rows:
        try:
            lines.append(_decision(number, row, place.parent))
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    _raise(str(place), wrong)
    return Decisions(str(place), sha256(data).hexdigest(), tuple(lines))


def _decision(line: int, row: dict[str, str | None], folder: Location) -> Decision:
    if None in row or None in row.values():
        raise ValueError("the number of values differs from the number of columns")
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    if values["verdict"] not in VERDICTS:
        raise ValueError(f"verdict must be accept or reject, got {values['verdict']!r}")
    if not values["clip_id"] and not values["source_path"]:
        raise ValueError("clip_id and source_path are both empty: set one")
    path = values["source_path"]
    if path and not is_address(path):
        path = format_location(join(folder, path).absolute())
    try:
        start_s = float(values["start_s"]) if values["start_s"] else None
        if start_s is not None and not math.isfinite(start_s):
            raise ValueError
    except ValueError:
        raise ValueError(f"start_s must be a number of seconds, got {values['start_s']!r}") from None
    return Decision(line, values["clip_id"], path, start_s, VERDICTS[values["verdict"]], values["note"])


def _keys(one: Decision) -> list[tuple[str, str]]:
    return [(name, key) for name, key in (("clip_id", one.clip_id), ("source_path", one.source_path)) if key]


def _name(one: Decision) -> str:
    words = [key for _, key in _keys(one)]
    return " of ".join(words) + ("" if one.start_s is None else f" at {one.start_s:g} s")


def _positions(column: pa.ChunkedArray, wanted: Iterable[str]) -> dict[str, list[int]]:
    """Return the rows of each of a few values in a long column."""
    values = pa.array(sorted(set(wanted) - {""}), pa.string())
    rows = np.flatnonzero(pc.is_in(column, value_set=values).to_numpy())
    out: dict[str, list[int]] = {}
    for row, value in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
        out.setdefault(value, []).append(row)
    return out


def _raise(file: str, wrong: list[str]) -> None:
    if wrong:
        more = f"\n  and {len(wrong) - MAX_SHOWN} more" if len(wrong) > MAX_SHOWN else ""
        raise ArtifactError(f"{file}: invalid decisions\n  " + "\n  ".join(wrong[:MAX_SHOWN]) + more)
