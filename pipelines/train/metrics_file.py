"""Read OUT/metrics.jsonl, one line per step.

A last line without a newline was cut off when the run was killed; the resumed run repeats its step. Any other line that
is not a row is damaged: a warning names it once per process, and the other rows are used.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datasets.storage import Location

METRICS = "metrics.jsonl"
PARTS = ("data", "forward", "backward", "optimizer")  # of a step; a row has the share of each in `seconds`


@dataclass(frozen=True)
class Line:
    """A complete line: `number` from 1, `text` without the newline, and `row`, None if it is damaged."""

    number: int
    text: bytes
    row: dict[str, Any] | None


def read_lines(out: Location) -> list[Line]:
    """Read the complete lines of a run's metrics; empty without a file."""
    file = out / METRICS
    if not file.is_file():
        return []
    lines = list(_parse(file.read_bytes()))
    for line in lines:
        if line.row is None:
            _warn_damaged_line(str(file), line.number, len(lines))
    return lines


def read_rows(out: Location) -> list[dict[str, Any]]:
    """Read the rows of a run's metrics; damaged lines are skipped with a warning."""
    return [line.row for line in read_lines(out) if line.row is not None]


def damaged_lines(out: Location) -> list[int]:
    """List the numbers of the damaged lines, from 1."""
    return [line.number for line in read_lines(out) if line.row is None]


def loss_terms(row: dict[str, Any]) -> list[str]:
    """List the names of the loss and its terms: the fields before `batch_digest`, without validation losses."""
    names = list(row)
    end = names.index("batch_digest") if "batch_digest" in row else len(names)
    return [
        name for name in names[:end] if name not in ("step", "grad_norm") and not name.startswith("validation_loss")
    ]


class NewRows:
    """Reader of the new rows of a metrics file; reads all rows again when a resumed run has truncated the file.

    Args:
        file: JSON lines; need not exist yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inode, self._offset = 0, 0

    def __call__(self) -> list[dict[str, Any]]:
        """Return the complete new rows, without a warning about damaged lines."""
        try:
            with self._file.open("rb") as file:
                inode = self._file.stat().st_ino
                if inode != self._inode:  # truncating replaces the file
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        self._offset += len(whole) + bool(whole)
        return [line.row for line in _parse(whole + b"\n") if line.row is not None] if whole else []


def _parse(content: bytes, first: int = 1) -> Iterator[Line]:
    """Yield the lines in `content`, numbered from `first`; text after the last newline counts if it is a row."""
    *whole, rest = content.split(b"\n")
    for number, text in enumerate(whole, first):
        yield Line(number, text, _row(text))
    if (row := _row(rest)) is not None:
        yield Line(first + len(whole), rest, row)


def _row(text: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(text)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


@functools.cache
def _warn_damaged_line(file: str, number: int, lines: int) -> None:
    logging.getLogger(__name__).warning("%s: line %d of %d is damaged; its step is skipped", file, number, lines)
