"""Tables that people write by hand: csv or jsonl, one row an item, paths relative to the file."""

import csv
import json
from pathlib import Path
from typing import Any

from .. import SteadyDancerError

SUFFIXES = frozenset({".csv", ".jsonl"})


def require_local(path: str) -> None:
    """Refuse what is no path of this machine's file system.

    Raises:
        SteadyDancerError: it is an address, `s3://…`.
    """
    if "://" in path:
        raise SteadyDancerError(f"{path}: object stores are not supported yet; copy it to a folder, or mount the store")


def read_manifest(path: Path, paths: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a manifest, with the columns `paths` resolved against its folder.

    Raises:
        SteadyDancerError: the file is empty, is not what its suffix says, or lacks a column in some row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            if path.suffix == ".csv":
                rows: list[Any] = list(csv.DictReader(file))
            else:
                rows = [json.loads(line) for line in file if line.strip()]
    except (ValueError, csv.Error) as error:
        raise SteadyDancerError(f"{path} cannot be read as {path.suffix[1:] or 'jsonl'}: {error}") from error
    if not rows:
        raise SteadyDancerError(f"{path} holds no rows")
    return [_resolved(row, f"{path}, row {number}", path.parent, paths) for number, row in enumerate(rows, 1)]


def _resolved(row: Any, where: str, folder: Path, paths: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise SteadyDancerError(f"{where}: {json.dumps(row)[:60]} is no object with names and values")
    missing = [name for name in paths if not isinstance(row.get(name), str) or not row[name]]
    if missing:
        raise SteadyDancerError(f"{where}: no {' and no '.join(missing)} (columns: {', '.join(map(str, row))})")
    for name in paths:
        require_local(row[name])
    return {**row, **{name: str(folder / row[name]) for name in paths}}
