"""Tables of items, one a row, with paths relative to the table: csv, jsonl or parquet, here or on a store.

`read_manifest` gives small ones as dicts. `read_columns` gives a few columns of one with millions of rows as Arrow
columns, which take a tenth of the memory; what is wrong with a table is said by the first, which looks at single rows.
"""

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .. import SteadyDancerError
from .storage import Location, join, local_copy, named

SUFFIXES = frozenset({".csv", ".jsonl", ".parquet"})

# What one piece of a jsonl holds at most, and so what one row may take.
_BLOCK_BYTES = 16 << 20
# Names of which `join` and `absolute` change nothing, or only put the folder before them.
_RELATIVE, _ABSOLUTE = r"^[^/]+(/[^/]+)*$", r"^(/[^/]+)+$"
_ADDRESS = r"^s3://[A-Za-z0-9][A-Za-z0-9_.-]{1,62}/[^/?][^?]*[^/?]$"
_ODD = r"(^|/)\.{1,2}(/|$)|://"


def read_manifest(path: Location, paths: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a manifest, with the columns `paths` resolved against its folder.

    Raises:
        SteadyDancerError: the file is empty, is not what its suffix says, or lacks a column in some row.
    """
    try:
        rows = _read_table(path)
    except (ValueError, csv.Error) as error:
        raise SteadyDancerError(f"{path} cannot be read as {path.suffix[1:] or 'jsonl'}: {error}") from error
    if not rows:
        raise SteadyDancerError(f"{path} holds no rows")
    return [_resolved(row, f"{path}, row {number}", path.parent, paths) for number, row in enumerate(rows, 1)]


def read_columns(path: Location, path_column: str, others: tuple[str, ...]) -> pa.Table:
    """A manifest's paths, absolute, and some columns that it may have: strings, null where a row has no value.

    Args:
        path: of the manifest.
        path_column: has a value in every row; resolved against the manifest's folder.
        others: columns that come as they are; the table has no others.

    Raises:
        SteadyDancerError: as `read_manifest`.
    """
    wanted = (path_column, *others)
    try:
        with local_copy(path) as file:
            table = _READERS[path.suffix](file, wanted)
        if path_column not in table.column_names or not len(table):
            raise pa.ArrowInvalid(f"no {path_column}")
        columns = [_text(table, name) for name in wanted]
        if not pa.types.is_string(columns[0].type) or pc.any(_is_empty(columns[0])).as_py():
            raise pa.ArrowInvalid(f"a row has no {path_column}")
        columns = [columns[0], *(pc.cast(column, pa.string()) for column in columns[1:])]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        read_manifest(path, (path_column,))  # says which row it is, and what of it
        raise SteadyDancerError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from None
    places = pa.chunked_array([_absolute(chunk, path.parent) for chunk in columns[0].chunks], pa.string())
    return pa.table([places, *columns[1:]], names=list(wanted))


def _text(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column; nulls if there is none. The several kinds of text that Arrow has become one."""
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), pa.string())])
    column = table[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return column.cast(pa.string()) if is_text else column


def _is_empty(column: Any) -> Any:
    empty: Any = pc.equal(column, pa.scalar("", pa.string()))
    return pc.fill_null(empty, True)


def _read_parquet(file: Any, wanted: tuple[str, ...]) -> pa.Table:
    import pyarrow.parquet as pq

    there = [name for name in pq.read_schema(file).names if name in wanted]
    return pq.read_table(file, columns=there, partitioning=None)


def _read_csv(file: Any, wanted: tuple[str, ...]) -> pa.Table:
    from pyarrow import csv as arrow_csv

    return arrow_csv.read_csv(
        file,
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=list(wanted), include_missing_columns=True, column_types=dict.fromkeys(wanted, pa.string())
        ),
    )


def _read_jsonl(file: Any, wanted: tuple[str, ...]) -> pa.Table:
    from pyarrow import json as arrow_json

    return arrow_json.read_json(
        file,
        read_options=arrow_json.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=arrow_json.ParseOptions(
            explicit_schema=pa.schema([(name, pa.string()) for name in wanted]), unexpected_field_behavior="ignore"
        ),
    )


_READERS = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_jsonl}


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
    mended = [named(join(folder, str(name)).absolute()) for name in pc.filter(names, others).to_pylist()]
    return pc.replace_with_mask(out, others, pa.array(mended, pa.string())) if mended else out


def _read_table(path: Location) -> list[Any]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with local_copy(path) as file:
            return list(pq.read_table(file, partitioning=None).to_pylist())
    text = path.read_bytes().decode("utf-8-sig")  # spreadsheets write a byte order mark
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line) for line in io.StringIO(text) if line.strip()]


def _resolved(row: Any, where: str, folder: Location, paths: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise SteadyDancerError(f"{where}: {json.dumps(row)[:60]} is no object with names and values")
    missing = [name for name in paths if not isinstance(row.get(name), str) or not row[name]]
    if missing:
        raise SteadyDancerError(f"{where}: no {' and no '.join(missing)} (columns: {', '.join(map(str, row))})")
    return {**row, **{name: str(join(folder, row[name])) for name in paths}}
