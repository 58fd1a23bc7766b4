"""Results of scores that other programs computed; they keep their source, and stand beside what was measured here."""

from collections.abc import Iterable, Sequence

from ....datasets.benchmarks import ScoreRow
from ..catalogue import METRICS
from ..imported import ImportedScores
from ..summary import shortfall, summary_of
from ..values import Table
from .evaluation import Evaluation
from .results import ALL_PAIRS, Result


def imported_results(evaluation: Evaluation, imported: Sequence[ImportedScores]) -> list[Result]:
    """Return a result for each source, method and metric, and kind of pairs: the mean over videos with its interval.

    A metric without scores of single videos has the value of the set, as the file states it.
    """
    out = []
    for source in dict.fromkeys(row.source for one in imported for row in one.rows):
        rows = [row for one in imported for row in one.rows if row.source == source]
        for method, metric in dict.fromkeys((row.method, row.metric) for row in rows):
            own = [row for row in rows if (row.method, row.metric) == (method, metric)]
            whole = next((row for row in own if row.video is None), None)
            for kind in (ALL_PAIRS, *evaluation.kinds):
                found = _of_videos(evaluation, [row for row in own if row.video is not None], kind, whole)
                if found is None and whole is not None and kind == ALL_PAIRS:
                    remark = "the value of the set; N is not stated"
                    found = Result(method, "imported", source, metric, value=whole.value, unit=whole.unit,
                                   better=_direction(metric), remark=remark)  # fmt: skip
                out += [found] if found else []
    return out


def _of_videos(evaluation: Evaluation, rows: Sequence[ScoreRow], kind: str, whole: ScoreRow | None) -> Result | None:
    if not rows:
        return None
    first = rows[0]
    table = Table()
    table.add(_table_rows(evaluation, rows), [])
    summary = summary_of(table.of(first.method, first.metric, kind or None))
    if not summary["n"]:
        return None
    words = shortfall(summary["clusters"])
    return Result(
        method=first.method,
        origin="imported",
        source=first.source,
        metric=first.metric,
        kind=kind,
        value=summary["mean"],
        low=summary["low"],
        high=summary["high"],
        n=summary["n"],
        clusters=summary["clusters"],
        unit=first.unit,
        better=_direction(first.metric),
        warnings=(words,) if words else (),
        remark="" if whole is None else f"the file's own value of the set: {whole.value:.6g}",
    )


def _table_rows(evaluation: Evaluation, rows: Sequence[ScoreRow]) -> Iterable[dict[str, object]]:
    """Return rows of the table of metrics, with the driving video and the kinds of each pair."""
    pairs = {row["id"]: row for row in evaluation.table.rows}
    for row in rows:
        yield {**pairs.get(row.video, {}), "seed": None, "method": row.method, "id": row.video, "metric": row.metric,
               "value": row.value, "reason": None, "num_frames": None}  # fmt: skip


def _direction(metric: str) -> str:
    """Return the direction of a metric whose name is known here; a judge's own scores have none that is known."""
    return METRICS[metric].better if metric in METRICS else ""
