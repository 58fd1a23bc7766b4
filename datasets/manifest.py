"""Read manifests: tables with one item per row and paths relative to the table (csv, json, jsonl or parquet).

`read_manifest` returns the rows of a small table as dicts. `read_columns` returns a few columns of a table with
millions of rows as Arrow columns, which take a tenth of the memory. Both stream the same rows. A column is also found
under common aliases, in any case and with surrounding blanks. A column of the exact name takes precedence; aliases must
not contradict each other. Columns that are not read are logged once.
"""

import csv
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from functools import lru_cache
from itertools import chain, islice
from math import isfinite, isnan
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .. import SteadyDancerError
from .local_copies import local_copy
from .storage import Location, format_location, join
from .storage.files import exists_locally
from .text import TextError, decode_text, open_text

SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".parquet"})

_log = logging.getLogger(__name__)
_CHUNK_ROWS = 10_000
_MAX_NAMED = 12
# Names that `join` and `absolute` leave unchanged, or only prefix with the folder.
_RELATIVE, _ABSOLUTE = r"^[^/]+(/[^/]+)*$", r"^(/[^/]+)+$"
_ADDRESS = r"^s3://[A-Za-z0-9][A-Za-z0-9_.-]{1,62}/[^/?][^?]*[^/?]$"
_ODD = r"(^|/)\.{1,2}(/|$)|://"

Names = Mapping[str, tuple[str, ...]]


def read_manifest(
    path: Location,
    paths: tuple[str, ...],
    texts: tuple[str, ...] = (),
    aliases: Names | None = None,
    known: Iterable[str] = (),
    flags: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Read the rows of a manifest, with the columns `paths` resolved against its folder.

    Args:
        path: the manifest.
        paths: path columns, which must have a value in every row.
        texts: columns of text or None; numbers are converted to text.
        aliases: column → other names that it may have. All other columns are returned unchanged, and logged if
            `aliases` is given.
        known: other columns that are not logged if all of them are present.
        flags: those of `texts` that may also be true or false, which become "yes" and "no".

    Raises:
        SteadyDancerError: the file is empty, does not have the format of its suffix, lacks a path in a row, has a value
            that is not text, or has two aliases of a column that contradict each other; the message names the row.
    """
    out = []
    reader = _Reader(path, paths, texts, aliases, flags=flags)
    for _, row in reader.rows():
        resolved = {name: str(join(path.parent, row[name])) for name in paths}
        out.append({**row, **resolved})
    reader.log_unread_columns(known)
    return out


def read_columns(
    path: Location, path_column: str, others: tuple[str, ...], aliases: Names | None = None, known: Iterable[str] = ()
) -> pa.Table:
    """Read a manifest's absolute paths and some optional columns as strings; null where a row has no value.

    A csv row with too few values is an error, because in a large table it is usually the rest of a text with an
    unquoted line break. (`read_manifest` accepts it, with None for the missing values.)

    Args:
        path: the manifest.
        path_column: must have a value in every row; resolved against the manifest's folder.
        others: text columns; the result has no further columns.
        aliases: see `read_manifest`.
        known: columns that are not read and, if all of them are present, not logged either.

    Raises:
        SteadyDancerError: see `read_manifest`.
    """
    wanted = (path_column, *others)
    reader = _Reader(path, (path_column,), others, aliases, whole_rows=True)
    rows = reader.rows()
    chunks: list[list[pa.Array]] = []
    while some := [row for _, row in islice(rows, _CHUNK_ROWS)]:
        places, *texts = (pa.array([row.get(name) for row in some], pa.string()) for name in wanted)
        chunks.append([_absolute(places, path.parent), *texts])
    reader.log_unread_columns(known)
    columns = [pa.chunked_array(column, pa.string()) for column in zip(*chunks, strict=True)]
    return pa.table(columns, names=list(wanted))


class _Reader:
    """Rows of a table under the requested column names, and the columns that are not read."""

    def __init__(
        self, path: Location, paths: tuple[str, ...], texts: tuple[str, ...], aliases: Names | None,
        whole_rows: bool = False, flags: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.path, self.paths, self.texts, self.whole_rows, self.flags = path, paths, texts, whole_rows, flags
        self.aliases = aliases
        self.names = {_plain(name): name for name in (*paths, *texts)}
        for name, others in (aliases or {}).items():
            self.names |= {_plain(other): name for other in others}
        self.unread: dict[str, None] = {}
        self.meanings: dict[str, str | None] = {}

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (position for messages, row): paths as written, texts as text or None.

        Raises:
            SteadyDancerError: see `read_manifest`.
        """
        number = 0
        try:
            for number, row in enumerate(self._raw(), 1):
                where = f"{self.path}, row {number}"
                if not isinstance(row, dict):
                    raise SteadyDancerError(f"{where}: {json.dumps(row)[:60]} is not a JSON object")
                yield where, self._named(row, where)
        except TextError as error:
            raise SteadyDancerError(f"{self.path} cannot be read as {self._kind}: {error.detail}") from error
        except (ValueError, csv.Error, RecursionError) as error:
            raise SteadyDancerError(f"{self.path} cannot be read as {self._kind}: {error}") from error
        if not number:
            raise SteadyDancerError(f"{self.path} contains no rows")

    def log_unread_columns(self, known: Iterable[str] = ()) -> None:
        """Log the columns that are not read."""
        expected = {name for name in known if name in self.unread or self._meaning(name) is None}
        # If only some of the known columns are present, the table may mean something else by them: log them.
        unread = [name for name in self.unread if not (expected <= self.unread.keys() and name in expected)]
        if unread and self.aliases is not None:
            more = f" and {len(unread) - _MAX_NAMED} more" if len(unread) > _MAX_NAMED else ""
            names = [(name, *self.aliases.get(name, ())) for name in (*self.paths, *self.texts)]
            read = "; ".join(" or ".join(several) for several in names)
            first = ", ".join(repr(name) for name in unread[:_MAX_NAMED])
            _log.warning("%s: ignored columns: %s%s. Columns that are read: %s", self.path, first, more, read)

    @property
    def _kind(self) -> str:
        return self.path.suffix.lower()[1:] or "jsonl"

    def _raw(self) -> Iterator[Any]:
        """Yield the rows as they are in the file."""
        if self._kind == "parquet":
            with local_copy(self.path) as file:
                # Of a wide table, read only the columns that are needed.
                yield from _parquet_rows(file, self._unread_of if self.whole_rows else lambda name: False)
        elif self._kind == "csv":
            with open_text(self.path) as text:
                lines, delimiter = csv_lines(text)
                yield from self._csv_rows(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
        else:
            with open_text(self.path) as text:
                first = next((line for line in text if line.strip()), "")
                if self._kind == "json" and first.lstrip().startswith("["):  # one list, as in VideoX-Fun
                    yield from json.loads(first + text.read())
                    return
                for line in chain([first], text):
                    if line.strip():
                        yield json.loads(line)

    def _unread_of(self, column: str) -> bool:
        if self._meaning(column) is None:
            self.unread[column] = None
        return self._meaning(column) is None

    def _csv_rows(self, lines: Iterator[list[str]]) -> Iterator[dict[str, str | None]]:
        head = next((line for line in lines if line), [])
        for line in lines:
            if not any(map(str.strip, line)):  # spreadsheets append rows that contain only separators
                continue
            if len(line) > len(head) or (self.whole_rows and len(line) < len(head)):
                excerpt = ",".join(line)[:80]
                raise ValueError(
                    f"Expected {len(head)} columns, got {len(line)}: {excerpt} (put text with a comma or a line break "
                    'in quotes: "a dancer, in red")'
                )
            line += [None] * (len(head) - len(line))  # type: ignore[list-item]
            yield _merged(head, line)

    def _named(self, row: dict[str, Any], where: str) -> dict[str, Any]:
        """Rename the columns of a row to the requested names."""
        out: dict[str, Any] = {}
        source_of: dict[str, str] = {}
        # Exact names first, so that the result does not depend on the order of the columns.
        for column, value in sorted(row.items(), key=lambda one: not _is_own(self._meaning(one[0]), one[0])):
            name = self._meaning(column)
            if name is None:
                self.unread[column] = None
                out[column] = value
                continue
            if name in source_of and _is_own(name, source_of[name]) and not _is_own(name, column):
                # The exact name takes precedence; an alias with another value is logged as not read.
                if value is not None and str(value).strip() not in ("", out[name].strip()):
                    self.unread[column] = None
                continue
            value = self._value(name, column, value, where)
            if value is None or not value.strip():
                out[name] = value if out.get(name) is None else out[name]
            elif name not in source_of:
                out[name], source_of[name] = value, column
            elif out[name].strip() != value.strip():
                raise SteadyDancerError(
                    f"{where}: columns {source_of[name]!r} and {column!r} both give the {name}, but differ: "
                    f"{out[name][:40]!r} and {value[:40]!r}; keep one of them"
                )
        missing = [name for name in self.paths if not out.get(name)]
        if missing:
            odd = [
                f"; {column} is {json.dumps(value, default=str)[:60]}, which is not a path"
                for column, value in row.items()
                if self._meaning(column) in missing and value not in (None, "")
            ]
            columns = f"(columns: {', '.join(map(str, row))}{''.join(odd)})"
            raise SteadyDancerError(f"{where}: no {' and no '.join(missing)} {columns}")
        return out

    def _meaning(self, column: str) -> str | None:
        """Return the requested name of a column; cached, because tables have millions of rows."""
        if column not in self.meanings:
            self.meanings[column] = self.names.get(_plain(column))
        return self.meanings[column]

    def _value(self, name: str, column: str, value: Any, where: str) -> str | None:
        try:
            if name in self.paths:
                return self._place(value)
            if name in self.flags and isinstance(value, bool):
                return "yes" if value else "no"
            text = as_text(value)
        except ValueError as error:
            raise SteadyDancerError(f"{where}: {column} {error}") from None
        if text is not None and column != name and _names_a_file(text) and _plain(column) == "caption":
            self.unread[column] = None  # in exports of clips it is the path of the caption file
            return None
        return text

    def _place(self, value: Any) -> str | None:
        """Return a path without surrounding blanks, unless a file of that exact name exists."""
        if isinstance(value, bytes):
            value = decode_text(value, self.path)
        if isinstance(value, str) and not value.isascii():
            _require_whole(value)
        if not isinstance(value, str) or value == (bare := value.strip()):
            return value if isinstance(value, str) and value else None
        where = Path(value) if Path(value).is_absolute() else self.path.parent / value if bare else None
        return value if where is not None and exists_locally(where) else bare or None


def csv_lines(text: Iterable[str]) -> tuple[Iterator[str], str]:
    """Return the lines of a csv and its delimiter: the first of comma, semicolon and tab in its header.

    Spreadsheets write semicolons in locales with a decimal comma.
    """
    lines = iter(text)
    head = next((line for line in lines if line.strip()), "")
    delimiter = next((mark for mark in ",;\t" if mark in head), ",")
    return chain([head], lines), delimiter


def as_text(value: Any) -> str | None:
    """Convert a value of a table to text: numbers and dates as usually written, None for a missing value (null, NaN).

    Raises:
        ValueError: the value is a list, a boolean, an object or infinite.
    """
    if value is None or isinstance(value, str):
        if value and not value.isascii():
            _require_whole(value)
        return value
    if isinstance(value, bytes):
        return decode_text(value, "value")
    if isinstance(value, float) and not isinstance(value, bool):
        if isnan(value):
            return None
        if isfinite(value):
            return f"{value:.0f}" if value.is_integer() else repr(value)
    if isinstance(value, int | Decimal | date | time) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"is not text: {str(value)[:60]} ({type(value).__name__})")


def _require_whole(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has an unpaired surrogate at character {error.start}: {text[:60]!a}") from None


@lru_cache(maxsize=4096)
def _plain(name: object) -> str:
    """Normalise a column's name: fold case, strip surrounding blanks, replace inner hyphens and blanks by `_`."""
    return re.sub(r"[\s-]+", "_", str(name).strip().strip("\ufeff").strip()).casefold()


def _is_own(name: str | None, column: str) -> bool:
    return name is not None and _plain(column) == _plain(name)


def _names_a_file(text: str) -> bool:
    return re.fullmatch(r"\S+\.txt", text.strip(), re.IGNORECASE) is not None


def _merged(head: list[str], line: list[Any]) -> dict[str, Any]:
    """Make a row of a csv; repeated column names get trailing blanks, which are ignored later."""
    row: dict[str, Any] = {}
    for name, value in zip(head, line, strict=True):
        while name in row:
            name += " "
        row[name] = value
    return row


def _parquet_rows(file: Path, is_unread: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as opened:
        names = [name for name in opened.schema_arrow.names if not is_unread(name)]
        for batch in opened.iter_batches(_CHUNK_ROWS, columns=names):
            columns = [column.to_pylist() for column in batch.columns] or [[None] * len(batch)]
            for values in zip(*columns, strict=True):
                yield _merged(batch.schema.names, list(values[: len(names)]))


def _absolute(names: Any, folder: Location) -> pa.Array:
    """Resolve names against `folder` as `join` does; ordinary names are handled vectorised."""
    is_ordinary = pc.invert(pc.match_substring_regex(names, _ODD))
    is_relative = pc.and_(is_ordinary, pc.match_substring_regex(names, _RELATIVE))
    is_whole = pc.or_(
        pc.and_(is_ordinary, pc.match_substring_regex(names, _ABSOLUTE)), pc.match_substring_regex(names, _ADDRESS)
    )
    base: Any = str(folder.absolute()).rstrip("/")
    out = pc.if_else(is_relative, pc.binary_join_element_wise(base, names, "/"), names)
    others = pc.invert(pc.or_(is_relative, is_whole))
    resolved = [format_location(join(folder, str(name)).absolute()) for name in pc.filter(names, others).to_pylist()]
    return pc.replace_with_mask(out, others, pa.array(resolved, pa.string())) if resolved else out
