"""Tables of items, one a row, with paths relative to the table: csv, json, jsonl or parquet, here or on a store.

`read_manifest` gives small ones as dicts. `read_columns` gives a few columns of one with millions of rows as Arrow
columns, which take a tenth of the memory. Both read the same rows, one after the other. A column is found under other
names that are in use, in any case and with blanks around it. Where its own name is there, that decides; two of the
others must not contradict each other, and columns that nobody reads are named once.
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
from .storage import Location, format_location, join, local_copy
from .storage.files import exists_locally
from .text import TextError, decode_text, open_text

SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".parquet"})

_log = logging.getLogger(__name__)
_CHUNK_ROWS = 10_000
_MOST_NAMED = 12
# Names of which `join` and `absolute` change nothing, or only put the folder before them.
_RELATIVE, _ABSOLUTE = r"^[^/]+(/[^/]+)*$", r"^(/[^/]+)+$"
_ADDRESS = r"^s3://[A-Za-z0-9][A-Za-z0-9_.-]{1,62}/[^/?][^?]*[^/?]$"
_ODD = r"(^|/)\.{1,2}(/|$)|://"

Names = Mapping[str, tuple[str, ...]]


def read_manifest(
    path: Location, paths: tuple[str, ...], texts: tuple[str, ...] = (), aliases: Names | None = None
) -> list[dict[str, Any]]:
    """Rows of a manifest, with the columns `paths` resolved against its folder.

    Args:
        path: of the manifest.
        paths: columns that have a value in every row.
        texts: columns that hold text, or None; numbers become text.
        aliases: column → other names under which it is taken. Columns of other names come as they are; with
            `aliases` the log names them.

    Raises:
        SteadyDancerError: the file is empty, is not what its suffix says, lacks a column in some row, has a value that
            is no text, or two columns of one meaning, none called by its own name, that contradict each other; the
            message names the row.
    """
    out = []
    reader = _Reader(path, paths, texts, aliases)
    for _, row in reader.rows():
        resolved = {name: str(join(path.parent, row[name])) for name in paths}
        out.append({**row, **resolved})
    reader.log_unread_columns()
    return out


def read_columns(
    path: Location, path_column: str, others: tuple[str, ...], aliases: Names | None = None, known: Iterable[str] = ()
) -> pa.Table:
    """A manifest's paths, absolute, and some columns that it may have: strings, null where a row has no value.

    A row of a csv that ends before its columns do is refused: in a table that nobody looks through, it is the rest of
    a text with a line break. (`read_manifest` takes it, with None for what is missing.)

    Args:
        path: of the manifest.
        path_column: has a value in every row; resolved against the manifest's folder.
        others: columns of text; the table has no others.
        aliases: as in `read_manifest`.
        known: columns that, where they come together, the log need not name although they are not read.

    Raises:
        SteadyDancerError: as `read_manifest`.
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
    """The rows of a table under the names by which they were asked for, and what there was beside them."""

    def __init__(
        self, path: Location, paths: tuple[str, ...], texts: tuple[str, ...], aliases: Names | None,
        whole_rows: bool = False,
    ) -> None:  # fmt: skip
        self.path, self.paths, self.texts, self.whole_rows = path, paths, texts, whole_rows
        self.aliases = aliases
        self.names = {_plain(name): name for name in (*paths, *texts)}
        for name, others in (aliases or {}).items():
            self.names |= {_plain(other): name for other in others}
        self.unread: dict[str, None] = {}
        self.meanings: dict[str, str | None] = {}

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(where it stands, row): paths as they are written, texts as text or None.

        Raises:
            SteadyDancerError: see `read_manifest`.
        """
        number = 0
        try:
            for number, row in enumerate(self._raw(), 1):
                where = f"{self.path}, row {number}"
                if not isinstance(row, dict):
                    raise SteadyDancerError(f"{where}: {json.dumps(row)[:60]} is no object with names and values")
                yield where, self._named(row, where)
        except TextError as error:
            raise SteadyDancerError(f"{self.path} cannot be read as {self._kind}: {error.detail}") from error
        except (ValueError, csv.Error, RecursionError) as error:
            raise SteadyDancerError(f"{self.path} cannot be read as {self._kind}: {error}") from error
        if not number:
            raise SteadyDancerError(f"{self.path} holds no rows")

    def log_unread_columns(self, known: Iterable[str] = ()) -> None:
        """Name the columns that nobody reads, once."""
        told = {name for name in known if name in self.unread or self._meaning(name) is None}
        # A column of that name in another table may be meant to do something.
        unread = [name for name in self.unread if not (told <= self.unread.keys() and name in told)]
        if unread and self.aliases is not None:
            more = f" and {len(unread) - _MOST_NAMED} more" if len(unread) > _MOST_NAMED else ""
            names = [(name, *self.aliases.get(name, ())) for name in (*self.paths, *self.texts)]
            read = "; ".join(" or ".join(several) for several in names)
            shown = ", ".join(repr(name) for name in unread[:_MOST_NAMED])
            _log.warning("%s: columns that are not read: %s%s. Read are %s", self.path, shown, more, read)

    @property
    def _kind(self) -> str:
        return self.path.suffix.lower()[1:] or "jsonl"

    def _raw(self) -> Iterator[Any]:
        """The rows as they stand in the file."""
        if self._kind == "parquet":
            with local_copy(self.path) as file:
                # Of a wide table that nobody looks through, only what is read is fetched.
                yield from _parquet_rows(file, self._unread_of if self.whole_rows else lambda name: False)
        elif self._kind == "csv":
            with open_text(self.path) as text:
                lines, delimiter = csv_lines(text)
                yield from self._csv_rows(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
        else:
            with open_text(self.path) as text:
                first = next((line for line in text if line.strip()), "")
                if self._kind == "json" and first.lstrip().startswith("["):  # one list, as VideoX-Fun has it
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
            if not any(map(str.strip, line)):  # spreadsheets leave rows of nothing but separators at the end
                continue
            if len(line) > len(head) or (self.whole_rows and len(line) < len(head)):
                shown = ",".join(line)[:80]
                raise ValueError(
                    f"Expected {len(head)} columns, got {len(line)}: {shown} (a text with a comma or a line break "
                    'stands in quotes: "a dancer, in red")'
                )
            line += [None] * (len(head) - len(line))  # type: ignore[list-item]
            yield _merged(head, line)

    def _named(self, row: dict[str, Any], where: str) -> dict[str, Any]:
        """A row under the names that were asked for."""
        out: dict[str, Any] = {}
        said_by: dict[str, str] = {}
        # The columns' own names first: what they say does not depend on where they stand.
        for column, value in sorted(row.items(), key=lambda one: not _is_own(self._meaning(one[0]), one[0])):
            name = self._meaning(column)
            if name is None:
                self.unread[column] = None
                out[column] = value
                continue
            if name in said_by and _is_own(name, said_by[name]) and not _is_own(name, column):
                # A column's own name decides, as before others were known; what differs from it is named as not read.
                if value is not None and str(value).strip() not in ("", out[name].strip()):
                    self.unread[column] = None
                continue
            value = self._value(name, column, value, where)
            if value is None or not value.strip():
                out[name] = value if out.get(name) is None else out[name]
            elif name not in said_by:
                out[name], said_by[name] = value, column
            elif out[name].strip() != value.strip():
                raise SteadyDancerError(
                    f"{where}: columns {said_by[name]!r} and {column!r} both say the {name}, and differ: "
                    f"{out[name][:40]!r} and {value[:40]!r}; keep one of them"
                )
        missing = [name for name in self.paths if not out.get(name)]
        if missing:
            odd = [
                f"; {column} is {json.dumps(value, default=str)[:60]}, which is no path"
                for column, value in row.items()
                if self._meaning(column) in missing and value not in (None, "")
            ]
            columns = f"(columns: {', '.join(map(str, row))}{''.join(odd)})"
            raise SteadyDancerError(f"{where}: no {' and no '.join(missing)} {columns}")
        return out

    def _meaning(self, column: str) -> str | None:
        """The name by which a column was asked for; looked up once, tables have millions of rows."""
        if column not in self.meanings:
            self.meanings[column] = self.names.get(_plain(column))
        return self.meanings[column]

    def _value(self, name: str, column: str, value: Any, where: str) -> str | None:
        try:
            if name in self.paths:
                return self._place(value)
            text = as_text(value)
        except ValueError as error:
            raise SteadyDancerError(f"{where}: {column} {error}") from None
        if text is not None and column != name and _names_a_file(text) and _plain(column) == "caption":
            self.unread[column] = None  # as exports of clips have it: where the caption lies
            return None
        return text

    def _place(self, value: Any) -> str | None:
        """A path; blanks around it do not count, unless a file is really called so."""
        if isinstance(value, bytes):
            value = decode_text(value, self.path)
        if isinstance(value, str) and not value.isascii():
            _require_whole(value)
        if not isinstance(value, str) or value == (bare := value.strip()):
            return value if isinstance(value, str) and value else None
        where = Path(value) if Path(value).is_absolute() else self.path.parent / value if bare else None
        return value if where is not None and exists_locally(where) else bare or None


def csv_lines(text: Iterable[str]) -> tuple[Iterator[str], str]:
    """The lines of a csv, and what stands between its values: the comma, or what spreadsheets take where it is a point.

    The line of the columns decides: without a comma in it, it is a semicolon or a tab.
    """
    lines = iter(text)
    head = next((line for line in lines if line.strip()), "")
    between = next((mark for mark in ",;\t" if mark in head), ",")
    return chain([head], lines), between


def as_text(value: Any) -> str | None:
    """A value of a table as text: numbers and dates as they are written, None for what is missing (null, NaN).

    Raises:
        ValueError: it is a list, a boolean, an object or infinite.
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
    raise ValueError(f"is no text: {str(value)[:60]} ({type(value).__name__})")


def _require_whole(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half of a character at {error.start}: {text[:60]!a}") from None


@lru_cache(maxsize=4096)
def _plain(name: object) -> str:
    """A column's name without what is of no meaning in it: case, blanks around it, hyphens and blanks for `_`."""
    return re.sub(r"[\s-]+", "_", str(name).strip().strip("\ufeff").strip()).casefold()


def _is_own(name: str | None, column: str) -> bool:
    return name is not None and _plain(column) == _plain(name)


def _names_a_file(text: str) -> bool:
    return re.fullmatch(r"\S+\.txt", text.strip(), re.IGNORECASE) is not None


def _merged(head: list[str], line: list[Any]) -> dict[str, Any]:
    """A row of a csv; columns of one name keep theirs apart by blanks, which count for nothing."""
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
    """Names as `join` reads them in `folder`, absolute. Ordinary ones are put together without looking at each."""
    is_ordinary = pc.invert(pc.match_substring_regex(names, _ODD))
    is_relative = pc.and_(is_ordinary, pc.match_substring_regex(names, _RELATIVE))
    is_whole = pc.or_(
        pc.and_(is_ordinary, pc.match_substring_regex(names, _ABSOLUTE)), pc.match_substring_regex(names, _ADDRESS)
    )
    base: Any = str(folder.absolute()).rstrip("/")
    out = pc.if_else(is_relative, pc.binary_join_element_wise(base, names, "/"), names)
    others = pc.invert(pc.or_(is_relative, is_whole))
    mended = [format_location(join(folder, str(name)).absolute()) for name in pc.filter(names, others).to_pylist()]
    return pc.replace_with_mask(out, others, pa.array(mended, pa.string())) if mended else out
