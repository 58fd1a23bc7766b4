"""The evaluate job: videos, and ground truth if there is any → measurements → metric rows and a page.

Measurements are kept for each group of metrics; the metrics table is written from them. A later run with more metrics
measures what is missing and commits a new version of the table, which names the earlier one as its parent.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ... import __version__
from ...datasets.artifact import Artifact, Packet, count_verdicts, exclusive, plan_packets
from ...datasets.rules import versions
from ...datasets.schema import Row, to_table
from ...datasets.storage import Location
from ...datasets.storage.digests import content_digest
from ..common.older_versions import absent_fields
from ..common.poses import ESTIMATORS
from ..runtime.after_commit import after_commit
from ..runtime.runner import Engine, Job, run_packets
from .catalogue import METRICS, Group, groups_of, select_metrics
from .config import EvaluateConfig
from .inputs import Inputs, Source, read_inputs
from .judges import Availability, availability, weights_record
from .scores import Score

SETS = "sets"  # name of the packet of the set metrics


class Selected(NamedTuple):
    """Metrics of a run in the catalogue's order, the groups that measure them, and what each group has here."""

    metrics: list[str]
    groups: list[Group]
    here: dict[str, Availability]

    @property
    def measured(self) -> list[Group]:
        """The groups whose weights are here."""
        return [group for group in self.groups if self.here[group.name].missing is None]


def _selected(metrics: list[str], config: EvaluateConfig, inputs: Inputs) -> Selected:
    """Return the metrics with their groups, and which of these can be measured on this machine."""
    estimators = (config.pose_model,) if config.pose_model != "auto" else _rendered_by(inputs)
    groups = groups_of(metrics)
    return Selected(metrics, groups, {group.name: availability(group, estimators) for group in groups})


def _rendered_by(inputs: Inputs) -> tuple[str, ...]:
    """Return the estimators that `auto` may choose: those of the renders, and the general ones."""
    names = {row["pose_model"] for row in inputs.rows.values()} - {None, "supplied"}
    return *sorted(names), *(name for name in ESTIMATORS if name not in names)


def plan(
    config: EvaluateConfig,
    renders: Location | None,
    truth: Location | None,
    out: Location,
    videos: Sequence[Source] = (),
    benchmark: str | None = None,
) -> dict[str, Any]:
    """Describe what `run` would do."""
    metrics = select_metrics(config.metrics, config.rules)
    inputs = read_inputs(config, _sources(renders, videos), truth, benchmark)
    selected = _selected(metrics, config, inputs)
    artifact = Artifact(out / "metrics")
    weights = {group.name: missing for group in selected.groups if (missing := selected.here[group.name].missing)}
    return {
        "videos": len(inputs.rows),
        "methods": list(inputs.methods),
        "with_truth": len(inputs.truths.found),
        "truths": inputs.truths.to_record(),
        "protocol": config.rules.name,
        "metrics": [name for name in selected.metrics if METRICS[name].group not in weights],
        "weights_missing": weights,
        "finished": artifact.committed and _holds(artifact.record(), config, selected),
    }


def run(
    config: EvaluateConfig,
    *,
    renders: Location | None = None,
    truth: Location | None = None,
    out: Location,
    engine: Engine,
    videos: Sequence[Source] = (),
    benchmark: str | None = None,
) -> dict[str, Any]:
    """Score videos into `out/metrics` and `out/report.html`; return the artifact's record.

    Args:
        config: protocol, metrics and networks.
        renders: the --out of `render`, or a folder of `ID.mp4`.
        truth: folder of ground-truth videos.
        out: folder of the results; measurements that it has are used again.
        engine: where the packets run.
        videos: further methods.
        benchmark: name or folder of a benchmark, whose pairs have reference, driving video and ground truth.

    Raises:
        ArtifactError: renders are not finished, the folder was started with different settings, or it is in use.
        SteadyDancerError: `truth` has no ground truth for any video, or a word of `metrics` is unknown.
        JobStopped: the code or the machine failed.
    """
    metrics = select_metrics(config.metrics, config.rules)
    inputs = read_inputs(config, _sources(renders, videos), truth, benchmark)
    selected = _selected(metrics, config, inputs)
    with exclusive(out):
        artifact = Artifact(out / "metrics")
        begun = _plan(config, inputs)
        absent = {"config": absent_fields(EvaluateConfig), "truth_ids": begun["truth_ids"]}
        artifact.begin(begun, absent)
        if not (artifact.committed and _holds(artifact.record(), config, selected)):
            _evaluate(config, inputs, selected, artifact, (begun, absent), engine)
        from .report import PAGE, write_report

        with after_commit(f"{out / PAGE}", f"run `steadydancer report --metrics {out}` to write it"):
            write_report(out / PAGE, artifact)
        return artifact.record()


def _sources(renders: Location | None, videos: Sequence[Source]) -> list[Source]:
    return [*([Source(None, renders)] if renders is not None else []), *videos]


def _plan(config: EvaluateConfig, inputs: Inputs) -> dict[str, Any]:
    """Return what decides the measurements, apart from the choice of metrics."""
    settings = config.model_dump(mode="json", exclude={"packet_size", "components", "metrics", "device"})
    places = sorted((place, name) for name, place in inputs.truths.found.items())
    return {"config": settings, "renders": inputs.origin,
            "truths": [content_digest(place) for place, _ in places], "truth_ids": [name for _, name in places],
            "packet_size": config.packet_size, "rules": versions("pictures", "truth")}  # fmt: skip


def _holds(record: Mapping[str, Any], config: EvaluateConfig, selected: Selected) -> bool:
    """Check whether a finished version has all metrics that this run would measure.

    A version without a list of metrics is of an earlier program, and is only extended if others are asked for.
    """
    if "metrics" not in record:
        return config.metrics is None or set(selected.metrics) <= record["means"].keys()
    unmeasured = {name for one in record["weights_missing"].values() for name in one}
    here = {group.name for group in selected.measured}
    return all(
        name in record["metrics"] and (name not in unmeasured or METRICS[name].group not in here)
        for name in selected.metrics
    )


def _evaluate(
    config: EvaluateConfig,
    inputs: Inputs,
    selected: Selected,
    artifact: Artifact,
    begun: tuple[dict[str, Any], dict[str, Any]],
    engine: Engine,
) -> None:
    """Measure what is missing, and commit a version of the table with it."""
    from .measured import MEASUREMENTS, Measured, newest_earlier, set_aside

    start, out = time.perf_counter(), artifact.path.parent
    was_committed = artifact.committed
    earlier = artifact if was_committed else newest_earlier(out)  # the second: a run was killed after `set_aside`
    if earlier is not None:  # the new version has the metrics of the earlier one, too
        known = earlier.record()
        before = known.get("metrics", known["means"])
        kept = [name for name in METRICS if name in before or name in selected.metrics]
        selected = _selected(kept, config, inputs)
    measured = Measured(out / MEASUREMENTS, [group.name for group in selected.measured])
    measured.begin(*begun)
    packets = plan_packets(inputs.rows, config.packet_size)
    weights = _begin_groups(measured, selected, config, packets)
    seconds = _measure(config, inputs, measured, packets, engine)
    if was_committed:
        set_aside(artifact)
        artifact.begin(*begun)
    artifact.remove_parts()  # of an attempt that was killed, perhaps with other metrics
    parent = newest_earlier(out)
    record = _write(config, inputs, selected, measured, packets, artifact)
    artifact.commit(
        {
            "kind": "metrics",
            "version": __version__,
            "config": begun[0]["config"],
            "protocol": config.rules.model_dump(mode="json") | {"digest": config.rules.digest},
            "rules": begun[0]["rules"],
            "inputs": begun[0]["renders"],
            **({"benchmark": inputs.benchmark} if inputs.benchmark else {}),
            **({"parent": parent.reference_from(out)} if parent else {}),
            "weights": weights,
            "ignored": inputs.ignored,
            **record,
            "seconds": {**seconds, "total": time.perf_counter() - start},
        }
    )


def _begin_groups(
    measured: Any, selected: Selected, config: EvaluateConfig, packets: Sequence[Packet]
) -> dict[str, Any]:
    """Open the folder of each group; return digest and licence of all weights."""
    weights: dict[str, Any] = {}
    lacking = {name for names in measured.lacking(packets).values() for name in names}
    for group in selected.measured:
        folder = measured.group(group.name)
        if group.name in lacking:
            measured.begin_group(group, weights_record(selected.here[group.name].rows), config.pose_model)
        weights |= folder.plan()["weights"]
    return weights


def _measure(
    config: EvaluateConfig, inputs: Inputs, measured: Any, packets: Sequence[Packet], engine: Engine
) -> dict[str, float]:
    """Measure the groups that the packets lack; return the seconds."""
    from .steps import WORK, EvaluateTask, stages

    lacking = measured.lacking(packets)
    if not lacking:
        return {}
    groups = {key: lacking.get(packet.id, []) for packet in packets for key in packet.ids}
    device = _device(config)
    job = Job(
        name="evaluate",
        stages=stages(1.0 if device == "cuda" else 0.0),
        config=EvaluateTask(config, inputs.methods, device),
        schema=WORK,
        open_row=lambda key: _work(key, inputs.rows[key], groups[key]),
        write_packet=lambda packet, rows: measured.write_packet(packet, rows, lacking[packet.id]),
    )
    return run_packets(job, measured, list(packets), engine)


def _device(config: EvaluateConfig) -> str:
    if config.device != "auto":
        return config.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _work(key: str, row: Row, groups: Sequence[str]) -> Row:
    """Return a worker's row of a video."""
    names = ("id", "method", "video", "image", "driving", "truth", "pose_model", "aligned")
    state = ("verdict", "reason", "detail")
    return {"key": key, "groups": " ".join(groups), **{name: row[name] for name in (*names, *state)}}


def _write(
    config: EvaluateConfig,
    inputs: Inputs,
    selected: Selected,
    measured: Any,
    packets: Sequence[Packet],
    artifact: Artifact,
) -> dict[str, Any]:
    """Write the rows of the table, packet by packet, and return the tables of the record."""
    from .steps import SCHEMA
    from .summary import Table, comparisons, means, missing, summarise, summarise_kinds

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
    config: EvaluateConfig, inputs: Inputs, selected: Selected, measured: Any, packets: Sequence[Packet]
) -> Iterator[Row]:
    """Yield the rows of the set metrics of each method, without a video."""
    from .set_scores import score_sets

    names = [name for name in selected.metrics if METRICS[name].level == "set"]
    here = {group.name for group in selected.measured}
    for method in inputs.methods if names else ():
        keys = [key for key, row in inputs.rows.items() if row["method"] == method]
        scored = [name for name in names if METRICS[name].group in here]
        found = score_sets(scored, measured, packets, keys) if scored else {}
        for name in names:
            row = found[name]._asdict() if name in found else _unmeasured(name, selected)
            yield {"id": None, "metric": name, "method": method, "protocol": config.rules.name, "verdict": "ok", **row}


def _count_compared(table: Any) -> dict[str, int]:
    """Count the videos, and their frames, that were compared with ground truth."""
    return {"compared": table.compared, "frames_compared": table.frames_compared}
