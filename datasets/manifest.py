"""Tables that people write by hand: csv or jsonl, one row an item, paths relative to the file."""

import csv
import json
from pathlib import Path

from .. import SteadyDancerError

SUFFIXES = frozenset({".csv", ".jsonl"})


def read_manifest(path: Path, paths: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a manifest, with the columns `paths` resolved against its folder.

    Raises:
        SteadyDancerError: the file is empty, is not what its suffix says, or lacks a column in some row.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if path.suffix == ".csv":
                rows: list[dict[str, str]] = list(csv.DictReader(file))
            else:
                rows = [json.loads(line) for line in file if line.strip()]
    except (ValueError, csv.Error) as error:
        raise SteadyDancerError(f"{path} cannot be read as {path.suffix[1:] or 'jsonl'}: {error}") from error
    if not rows:
        raise SteadyDancerError(f"{path} holds no rows")
    for number, row in enumerate(rows, 1):
        missing = [name for name in paths if not row.get(name)]
        if missing:
            raise SteadyDancerError(f"{path}, row {number}: no {' and no '.join(missing)} (it has {sorted(row)})")
    return [{**row, **{name: str(path.parent / row[name]) for name in paths}} for row in rows]
