"""The table of metrics: one row for each method, video and metric, from the measurements of all groups."""

from collections.abc import Iterator, Sequence
from typing import Any

from ...datasets.artifact import Artifact, Packet, count_verdicts
from ...datasets.schema import Row, to_table
from .catalogue import METRICS
from .config import EvaluateConfig
from .inputs import Inputs
from .measured import Measured
from .scores import Score
from .selection import Selected
from .set_scores import score_sets
from .steps import SCHEMA
from .summary import comparisons, means, missing, summarise, summarise_kinds
from .values import Table

SETS = "sets"  # name of the packet of the set metrics


def write_table(
    config: EvaluateConfig,
    inputs: Inputs,
    selected: Selected,
    measured: Measured,
    packets: Sequence[Packet],
    artifact: Artifact,
) -> dict[str, Any]:
    """Write the rows of the table, packet by packet, and return the tables of the record."""
    table, verdicts = Table(order=list(inputs.methods)), dict[str, str]()
    for packet in packets:
        rows = [row for key, own in _by_key(packet, measured) for row in _rows(key, own, config, inputs, selected)]
        artifact.write_part(packet, to_table([row for _, row in rows], SCHEMA))
        table.add((row for _, row in rows), selected.metrics)
        verdicts |= {key: row["verdict"] for key, row in rows}
    sets = list(_set_rows(config, inputs, selected, measured, packets))
    if sets:
        artifact.write_part(Packet(SETS, ()), to_table(sets, SCHEMA))
        table.add(sets, selected.metrics)
    methods = summarise(table, selected.metrics, config.rules)
    unmeasured = {
        group.name: [name for name in selected.metrics if METRICS[name].group == group.name]
        for group in selected.groups
        if selected.here[group.name].missing
    }
    return {
        "counts": count_verdicts(len(inputs.rows), verdicts.values()),
        "metrics": selected.metrics,
        "weights_missing": unmeasured,
        "means": means(table, methods),
        "missing": missing(table, selected.metrics),
        "methods": methods,
        "missing_by_method": {name: missing(table, selected.metrics, name) for name in table.methods()},
        "kinds": summarise_kinds(table, selected.metrics, config.rules),
        "comparisons": comparisons(table, selected.metrics),
        "not_measurable": {name: sorted(set(ids)) for name, ids in table.excluded.items()},
        "truths": inputs.truths.to_record() | _count_compared(table),
    }


def _by_key(packet: Packet, measured: Any) -> Iterator[tuple[str, list[Row]]]:
    rows: dict[str, list[Row]] = {key: [] for key in packet.ids}
    for row in measured.rows(packet):
        rows[row["key"]].append(row)
    yield from rows.items()


def _rows(
    key: str, measured: Sequence[Row], config: EvaluateConfig, inputs: Inputs, selected: Selected
) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a video: one for each metric, or one alone if it could not be scored."""
    video = inputs.rows[key]
    names = ("id", "video", "image", "driving", "truth", "method", "seed", "kinds")
    empty = {"metric": None, "value": None}
    base = {**{name: video[name] for name in names}, **empty, "protocol": config.rules.name}
    bad = next((row for row in measured if row["verdict"] != "ok"), None)
    if bad is None and not measured and video["verdict"]:
        bad = video
    if bad is not None:
        yield key, {**base, **{name: bad[name] for name in ("verdict", "reason", "detail")}}
        return
    values = {row["metric"]: row for row in measured}
    num_frames = next((row["num_frames"] for row in measured), None)
    for name in selected.metrics:
        if METRICS[name].level == "video":
            row = values.get(name) or _unmeasured(name, selected)
            columns = ("value", "reason", "detail", "frames_compared")
            yield key, {**base, "metric": name, "verdict": "ok", "num_frames": num_frames,
                        **{column: row.get(column) for column in columns}}  # fmt: skip


def _unmeasured(name: str, selected: Selected) -> Row:
    """Return a null of a metric that no worker measured."""
    missing = selected.here[METRICS[name].group].missing
    if missing:
        return Score(None, "weights_missing", missing)._asdict()
    return Score(None, "not_computed", "its group gave no value")._asdict()


def _set_rows(
    config: EvaluateConfig, inputs: Inputs, selected: Selected, measured: Measured, packets: Sequence[Packet]
) -> Iterator[Row]:
    """Yield the rows of the set metrics of each method, without a video."""
    names = [name for name in selected.metrics if METRICS[name].level == "set"]
    here = {group.name for group in selected.measured}
    for method in inputs.methods if names else ():
        keys = [key for key, row in inputs.rows.items() if row["method"] == method]
        scored = [name for name in names if METRICS[name].group in here]
        found = score_sets(scored, measured, packets, keys) if scored else {}
        for name in names:
            row = found[name]._asdict() if name in found else _unmeasured(name, selected)
            yield {"id": None, "metric": name, "method": method, "protocol": config.rules.name, "verdict": "ok", **row}


def _count_compared(table: Table) -> dict[str, int]:
    """Count the videos, and their frames, that were compared with ground truth."""
    return {"compared": len(table.compared), "frames_compared": sum(table.compared.values())}
