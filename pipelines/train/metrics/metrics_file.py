"""Read OUT/metrics.jsonl, one line a step.

A last line without an end is what a kill leaves, and is taken again by the next attempt. Any other line that is no row
is damage: it is named, once a process, and the rows around it count.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....datasets.storage import Location

METRICS = "metrics.jsonl"
PARTS = ("data", "forward", "backward", "optimizer")  # of a step; a row has the share of each in `seconds`


@dataclass(frozen=True)
class Line:
    """A whole line: its `number` from 1, its `text` without the end, and its `row`, None where it is damaged."""

    number: int
    text: bytes
    row: dict[str, Any] | None


def read_lines(out: Location) -> list[Line]:
    """The lines of a run's metrics, without one that a kill cut off; none without a file."""
    file = out / METRICS
    if not file.is_file():
        return []
    lines = list(_parse(file.read_bytes()))
    for line in lines:
        if line.row is None:
            _warn_damaged_line(str(file), line.number, len(lines))
    return lines


def read_rows(out: Location) -> list[dict[str, Any]]:
    """The rows of a run's metrics. A damaged line is named in a warning."""
    return [line.row for line in read_lines(out) if line.row is not None]


def damaged_lines(out: Location) -> list[int]:
    """Numbers of the lines that are damaged, from 1."""
    return [line.number for line in read_lines(out) if line.row is None]


def loss_terms(row: dict[str, Any]) -> list[str]:
    """Names of the loss and its terms: what stands in a row between the step and the batch, validation apart."""
    names = list(row)
    end = names.index("batch_digest") if "batch_digest" in row else len(names)
    return [
        name for name in names[:end] if name not in ("step", "grad_norm") and not name.startswith("validation_loss")
    ]


class NewRows:
    """The rows of a metrics file that were not given yet; all of them again when the file was cut back.

    Args:
        file: JSON lines; may not be there yet.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inode, self._offset = 0, 0

    def __call__(self) -> list[dict[str, Any]]:
        """Whole lines only: the last one may still be written. `read_lines` names the damaged ones."""
        try:
            with self._file.open("rb") as file:
                inode = self._file.stat().st_ino
                if inode != self._inode:  # cutting back writes the file anew
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        self._offset += len(whole) + bool(whole)
        return [line.row for line in _parse(whole + b"\n") if line.row is not None] if whole else []


def _parse(content: bytes, first: int = 1) -> Iterator[Line]:
    """The lines in `content`, numbered from `first`; what follows the last end of a line counts if it is a row."""
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
    logging.getLogger(__name__).warning("%s: line %d of %d is damaged, its step is left out", file, number, lines)
