"""Import scores that other programs computed: VBench's result file, and a table of a multimodal judge.

Each value keeps its source, and is never mixed with a value of the same name that was measured here. A bad entry is
refused alone, with its place and reason.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import PurePosixPath
from typing import Any

from ..file_names import file_stem
from ..manifest import csv_lines
from ..sidecars import VIDEO_SUFFIXES
from ..storage import Location
from ..text import TextError, open_text, read_text
from .pairs import BenchmarkError

VBENCH = "VBench's result file"
JUDGE = "a judge's table"
_VIDEO = ("video", "pair", "pair_id", "id", "video_id", "video_path", "video_name", "file", "file_name")
_METHOD = ("method", "model")
_OF_100 = frozenset({"imaging_quality"})
"""Dimensions whose values per video are 0…100 while the value of the set is 0…1."""


@dataclass(frozen=True)
class ScoreRow:
    """One imported value; `video` is a pair's id, or None for a value of the whole set."""

    method: str
    video: str | None
    metric: str
    value: float
    source: str
    unit: str = ""


@dataclass(frozen=True)
class Imported:
    """Imported values; what was refused as (place, reason); columns without any number."""

    rows: tuple[ScoreRow, ...]
    refused: tuple[tuple[str, str], ...]
    ignored_columns: tuple[str, ...] = ()


@dataclass
class _Import:
    """Rows and refusals while a file is read."""

    source: str
    ids: Collection[str] | None
    rows: list[ScoreRow] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    seen: set[tuple[str, str | None, str]] = field(default_factory=set)

    def add(self, where: str, method: str, video: str | None, metric: str, value: Any, unit: str = "") -> None:
        """Add a value, or refuse it."""
        number = _number(value)
        if number is None:
            self.refuse(where, "empty" if value in ("", None) else f"{str(value)[:40]!r} is not a finite number")
        elif (method, video, metric) in self.seen:
            self.refuse(where, f"{metric} of {video or 'the set'} was given before")
        else:
            self.seen.add((method, video, metric))
            self.rows.append(ScoreRow(method, video, metric, number, self.source, unit))

    def refuse(self, where: str, reason: str) -> None:
        """Record what is left out."""
        self.refused.append((where, reason))

    def id_of(self, name: str) -> str | None:
        """Return the pair's id that a video's file name or path stands for; None if there is no such pair.

        VBench appends `-<number of the sample>` to names; it is removed only if the name with it is no id.
        """
        path = PurePosixPath(name.strip().replace("\\", "/"))
        stem = path.stem if path.suffix.lower() in VIDEO_SUFFIXES else path.name
        spellings = [stem, file_stem(stem), re.sub(r"-\d+$", "", stem), file_stem(re.sub(r"-\d+$", "", stem))]
        if self.ids is None:
            return spellings[1] or None
        return next((spelling for spelling in spellings if spelling in self.ids), None)

    def done(self, ignored: Collection[str] = ()) -> Imported:
        return Imported(tuple(self.rows), tuple(self.refused), tuple(ignored))


def read_vbench_results(
    path: Location, method: str, ids: Collection[str] | None = None, source: str = VBENCH
) -> Imported:
    """Read the `*_eval_results.json` that VBench writes: dimension → [value of the set, [value of each video]].

    Values are as in the file; `unit` is `0..100` for MUSIQ's values per video and `0..1` for all others.

    Args:
        path: the file.
        method: whose videos were scored.
        ids: ids of the pairs; videos of others are refused. None: any.
        source: of the rows.

    Raises:
        BenchmarkError: the file is not of this form at all.
    """
    try:
        results = json.loads(read_text(path))
    except (TextError, ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path} cannot be read as VBench's result json: {error}") from error
    if not isinstance(results, dict) or not results:
        raise BenchmarkError(f"{path} is not VBench's result json: expected dimension → [value, [value of each video]]")
    out = _Import(source, ids)
    for dimension, result in results.items():
        overall, videos = (result[0], result[1:2]) if isinstance(result, list) and result else (result, [])
        out.add(dimension, method, None, dimension, overall, "0..1")
        for number, entry in enumerate(videos[0] if videos and isinstance(videos[0], list) else [], 1):
            where = f"{dimension}, video {number}"
            if not isinstance(entry, dict) or not isinstance(entry.get("video_path"), str):
                out.refuse(where, "no video_path")
            elif (name := out.id_of(entry["video_path"])) is None:
                out.refuse(where, f"{entry['video_path']} belongs to no pair")
            else:
                unit = "0..100" if dimension in _OF_100 else "0..1"
                out.add(where, method, name, dimension, entry.get("video_results"), unit)
    return out.done()


def read_judge_table(
    path: Location, method: str | None = None, ids: Collection[str] | None = None, source: str = JUDGE
) -> Imported:
    """Read a csv with one video a row: a column for the video or pair, optionally one for the method, and metrics.

    Args:
        path: the file; commas, semicolons or tabs.
        method: of rows without one.
        ids: ids of the pairs; rows of others are refused. None: any.
        source: of the rows.

    Raises:
        BenchmarkError: the file is not text, has no rows, no column for the video, or none for the method and `method`
            is None.
    """
    try:
        with open_text(path) as text:
            lines, delimiter = csv_lines(text)
            head, body = _split(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except (TextError, csv.Error) as error:
        raise BenchmarkError(f"{path} cannot be read as csv: {error}") from error
    video, of_method = _column(head, _VIDEO), _column(head, _METHOD)
    if video is None or not body or (of_method is None and method is None):
        lacks = "a column for the video" if video is None else "rows" if not body else "a column for the method"
        raise BenchmarkError(f"{path} lacks {lacks} (columns: {', '.join(head) or 'none'}; {', '.join(_VIDEO)})")
    metrics = [k for k, name in enumerate(head) if k not in (video, of_method) and name]
    ignored = [k for k in metrics if not any(_number(_cell(line, k, delimiter)) is not None for _, line in body)]
    out = _Import(source, ids)
    for number, line in body:
        where = f"row {number}"
        whose = (_cell(line, of_method) if of_method is not None else "") or method
        name = out.id_of(_cell(line, video)) if _cell(line, video) else None
        if len(line) > len(head):
            out.refuse(where, f"{len(line)} values for {len(head)} columns; put text with a {delimiter} in quotes")
        elif not _cell(line, video):
            out.refuse(where, "no video")
        elif name is None:
            out.refuse(where, f"{_cell(line, video)} belongs to no pair")
        elif not whose:
            out.refuse(where, "no method")
        else:
            for k in metrics:
                if k not in ignored:
                    out.add(f"{where}, {head[k]}", whose, name, head[k], _cell(line, k, delimiter))
    return out.done([head[k] for k in ignored])


def _split(lines: Iterator[list[str]]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and the lines that are not blank with their numbers from 1."""
    head: list[str] = []
    body: list[tuple[int, list[str]]] = []
    for line in lines:
        if not head:
            head = [name.strip().strip("\ufeff") for name in line]
        elif any(cell.strip() for cell in line):
            body.append((len(body) + 1, line))
    return head, body


def _column(head: list[str], names: tuple[str, ...]) -> int | None:
    """Return the first column called by one of the names, in their order."""
    plain = [re.sub(r"[\s-]+", "_", name).lower() for name in head]
    return next((plain.index(name) for name in names if name in plain), None)


def _cell(line: list[str], k: int, delimiter: str = ",") -> str:
    text = line[k].strip() if k < len(line) else ""
    # Where semicolons separate values, a comma is a decimal comma.
    return re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", text) if delimiter == ";" else text


def _number(value: Any) -> float | None:
    """Return a finite number, of true and false 1 and 0; None if it is none."""
    try:
        number = float(value) if isinstance(value, str | int | float) else float("nan")
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None
