"""The evaluate job: videos, and ground truth if there is any → measurements → metric rows and a page.

Measurements are kept for each group of metrics; the metrics table is written from them. A later run with more metrics
measures what is missing and commits a new version of the table, which names the earlier one as its parent.
"""

import time
from collections.abc import Sequence
from typing import Any

from ... import __version__
from ...datasets.artifact import Artifact, Packet, exclusive, plan_packets
from ...datasets.rules import versions
from ...datasets.schema import Row
from ...datasets.storage import Location
from ...datasets.storage.digests import content_digest
from ..common.older_versions import absent_fields
from ..runtime.after_commit import after_commit
from ..runtime.runner import Engine, Job, run_packets
from .catalogue import METRICS
from .config import EvaluateConfig
from .imported import ImportedScores, ScoreFile, keep_scores, read_score_file
from .inputs import Inputs, read_inputs
from .judges import weights_record
from .selection import Selected, holds, select_metrics, selected_here
from .sources import Source


def plan(
    config: EvaluateConfig,
    renders: Location | None,
    truth: Location | None,
    out: Location,
    videos: Sequence[Source] = (),
    benchmark: str | None = None,
    scores: Sequence[ScoreFile] = (),
) -> dict[str, Any]:
    """Describe what `run` would do, and raise what it would raise before its first measurement."""
    metrics = select_metrics(config.metrics, config.rules)
    inputs = read_inputs(config, _sources(renders, videos), truth, benchmark)
    selected = selected_here(metrics, config, inputs)
    imported = _read_scores(scores, inputs)
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
        "imported_scores": {one.file: len(one.rows) for one in imported},
        "finished": artifact.committed and holds(artifact.record(), config, selected),
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
    scores: Sequence[ScoreFile] = (),
) -> dict[str, Any]:
    """Score videos into `out/metrics`, with page, CSV and LaTeX table beside it; return the artifact's record.

    Args:
        config: protocol, metrics and networks.
        renders: the --out of `render`, or a folder of `ID.mp4`.
        truth: folder of ground-truth videos.
        out: folder of the results; measurements that it has are used again.
        engine: where the packets run.
        videos: further methods.
        benchmark: name or folder of a benchmark, whose pairs have reference, driving video and ground truth.
        scores: files of other programs, whose scores stand beside those that are measured.

    Raises:
        ArtifactError: renders are not finished, the folder was started with different settings, or it is in use.
        SteadyDancerError: `truth` has no ground truth for any video, a word of `metrics` is unknown, or a file of
            scores cannot be imported.
        JobStopped: the code or the machine failed.
    """
    metrics = select_metrics(config.metrics, config.rules)
    inputs = read_inputs(config, _sources(renders, videos), truth, benchmark)
    selected = selected_here(metrics, config, inputs)
    imported = _read_scores(scores, inputs)
    with exclusive(out):
        artifact = Artifact(out / "metrics")
        begun = _plan(config, inputs)
        absent = {"config": absent_fields(EvaluateConfig), "truth_ids": begun["truth_ids"]}
        artifact.begin(begun, absent)
        if not (artifact.committed and holds(artifact.record(), config, selected)):
            _evaluate(config, inputs, selected, artifact, (begun, absent), engine)
        keep_scores(out, imported)
        from .report.page import PAGE, write_report

        with after_commit(f"{out / PAGE}", f"run `steadydancer report --metrics {out}` to write it"):
            write_report(out / PAGE, artifact)
        return artifact.record()


def _sources(renders: Location | None, videos: Sequence[Source]) -> list[Source]:
    return [*([Source(None, renders)] if renders is not None else []), *videos]


def _read_scores(scores: Sequence[ScoreFile], inputs: Inputs) -> list[ImportedScores]:
    ids = {row["id"] for row in inputs.rows.values()}
    return [read_score_file(one, ids, list(inputs.methods)) for one in scores]


def _plan(config: EvaluateConfig, inputs: Inputs) -> dict[str, Any]:
    """Return what decides the measurements, apart from the choice of metrics."""
    settings = config.model_dump(mode="json", exclude={"packet_size", "components", "metrics", "device"})
    places = sorted((place, name) for name, place in inputs.truths.found.items())
    return {"config": settings, "renders": inputs.origin,
            "truths": [content_digest(place) for place, _ in places], "truth_ids": [name for _, name in places],
            "packet_size": config.packet_size, "rules": versions("pictures", "truth")}  # fmt: skip


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
    from .metrics_table import write_table

    start, out = time.perf_counter(), artifact.path.parent
    was_committed = artifact.committed
    earlier = artifact if was_committed else newest_earlier(out)  # the second: a run was killed after `set_aside`
    if earlier is not None:  # the new version has the metrics of the earlier one, too
        known = earlier.record()
        before = known.get("metrics", known["means"])
        kept = [name for name in METRICS if name in before or name in selected.metrics]
        selected = selected_here(kept, config, inputs)
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
    record = write_table(config, inputs, selected, measured, packets, artifact)
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
