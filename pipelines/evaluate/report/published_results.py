"""The paper's published rows beside an evaluation of the same benchmark; they are passed on, not measured here."""

from collections.abc import Mapping
from typing import Any

from ....datasets.benchmarks import PublishedRow, published_rows
from .results import Result

TITLES = {
    "1": "inputs and training of the methods",
    "2a": "TikTok",
    "2b": "RealisDance-Val",
    "2c": "X-Dance",
    "3": "ablations",
    "4": "cost of inference",
    "text": "the paper's text",
}
WARNING = "published, not measured here: frames, sizes and pairs may differ"


def published_results(record: Mapping[str, Any]) -> list[Result]:
    """Return the published values of the benchmark of an evaluation; none without a benchmark."""
    name = record.get("benchmark", {}).get("name")
    return [_result(row) for row in published_rows(name) if row.value is not None] if name else []


def _result(row: PublishedRow) -> Result:
    facts = [row.remark, f"variant: {row.variant}" if row.variant else ""]
    return Result(row.method, "published", source_of(row.table), row.metric, value=row.value, unit=row.unit,
                  better=row.better, warnings=(WARNING,), remark="; ".join(filter(None, facts)))  # fmt: skip


def source_of(table: str) -> str:
    """Name a table of the paper."""
    return f"the paper, Table {table}" if table != "text" else "the paper, text"


def general_tables(record: Mapping[str, Any]) -> dict[str, list[PublishedRow]]:
    """Return the published rows that are of no benchmark, by table; none without a known benchmark."""
    name = record.get("benchmark", {}).get("name")
    if not name or not published_rows(name):
        return {}
    rows = [row for row in published_rows() if row.benchmark is None]
    return {table: [row for row in rows if row.table == table] for table in dict.fromkeys(row.table for row in rows)}
