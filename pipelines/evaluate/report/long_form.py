"""The results as a CSV in long form: one row for each method, metric and kind of pairs."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from ....datasets.storage import Location
from ....datasets.storage.atomic import atomic_write
from ....datasets.text import spreadsheet_text
from .evaluation import Evaluation
from .results import Result
from .tables import NON_COMMERCIAL

COLUMNS = (
    *("method", "origin", "source", "metric", "kind", "value", "low", "high", "n", "clusters", "unit", "better"),
    *("ceiling", "best", "without_value", "warnings", "judges", "licences", "commercial_use"),
    *("variance_between_seeds", "variance_between_clips", "protocol", "protocol_digest", "benchmark", "remark"),
)
ALL = "all"  # kind of a row over all pairs


def csv_text(evaluation: Evaluation, results: Sequence[Result]) -> str:
    """Return the table with a line of headings; an empty cell means no value, and numbers have all their digits."""
    protocol = evaluation.record.get("protocol") or {"name": evaluation.protocol.name}
    benchmark = evaluation.record.get("benchmark", {}).get("name", "")
    scored = {"protocol": protocol["name"], "protocol_digest": protocol.get("digest", ""), "benchmark": benchmark}
    lines = io.StringIO()
    writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in results:
        row = _row(one) | (scored if one.origin == "measured" else {"benchmark": benchmark})
        texts = {key: spreadsheet_text(value) for key, value in row.items() if isinstance(value, str)}
        writer.writerow(row | texts)
    return lines.getvalue()


def _row(result: Result) -> dict[str, Any]:
    names = (
        "method",
        "origin",
        "source",
        "metric",
        "value",
        "low",
        "high",
        "n",
        "clusters",
        "unit",
        "better",
        "ceiling",
    )
    seeds, clips = result.spread or (None, None)
    non_commercial = any(judge.non_commercial for judge in result.judges)
    return {
        **{name: getattr(result, name) for name in (*names, "without_value", "remark")},
        "kind": result.kind or ALL,
        "best": {True: "yes", False: "no", None: ""}[result.is_best],
        "warnings": "; ".join(result.warnings),
        "judges": "; ".join(judge.name for judge in result.judges),
        "licences": "; ".join(judge.licence for judge in result.judges),
        "commercial_use": NON_COMMERCIAL if non_commercial else "",
        "variance_between_seeds": seeds,
        "variance_between_clips": clips,
    }


def write_csv(path: Location, evaluation: Evaluation, results: Sequence[Result]) -> None:
    """Write the results of an evaluation in UTF-8."""
    with atomic_write(path) as aside:
        aside.write_text(csv_text(evaluation, results), encoding="utf-8", newline="")
