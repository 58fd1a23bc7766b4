"""Tables of items, one a row, with paths relative to the table: csv, jsonl or parquet, here or on a store."""

import csv
import io
import json
from typing import Any

from .. import SteadyDancerError
from .storage import Location, is_address, join, local_copy

SUFFIXES = frozenset({".csv", ".jsonl", ".parquet"})


def require_local(path: str) -> None:
    """Refuse what is no path of this machine's file system, where nothing else can be used.

    Raises:
        SteadyDancerError: it is an address, `s3://…`.
    """
    if is_address(path):
        raise SteadyDancerError(f"{path.split('?')[0]}: this must lie on this machine; copy it to a folder")


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
