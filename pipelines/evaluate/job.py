"""The evaluate job: renders, and truths where there are some → metric rows and a page."""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ... import __version__
from ...datasets.artifact import Artifact, count_verdicts, exclusive, plan_packets
from ...datasets.finished import finished
from ...datasets.rules import said_in, versions
from ...datasets.schema import Row, to_table
from ...datasets.storage import Location
from ...datasets.storage.digests import content_digest
from ..common.components import find_parts
from ..common.older_versions import absent_fields
from ..runtime.after_commit import after_commit
from ..runtime.runner import Engine, Job, run_packets
from .config import EvaluateConfig
from .truths import Truths, find_truths


def read_renders(renders: Location, truth: Location | None) -> tuple[dict[str, Any], dict[str, Row], Truths]:
    """The record of the renders, by id what is to be scored, and what was found of their truths.

    Raises:
        ArtifactError: the renders are not finished.
        SteadyDancerError: `truth` is no folder, or holds no truth of any render.
    """
    artifact = finished(renders, "renders")
    record, pairs = artifact.record(), artifact.read().to_pylist()
    truths = find_truths([row["id"] for row in pairs], truth)
    rows: dict[str, Row] = {}
    for row in pairs:
        made = row["verdict"] == "ok"
        # Of a render that waits, `reason` and `detail` say why it has no truth.
        reason, detail = truths.missing.get(row["id"], (None, None))
        rows[row["id"]] = {
            "video": str(artifact.path.absolute() / row["video"]) if row["video"] else None,
            "image": row["image"],
            "driving": row["driving"],
            "truth": truths.found.get(row["id"]),
            # A video that was not rendered stays in the table: its absence must not improve a mean.
            "verdict": None if made else "quarantined",
            "reason": reason if made else "not_rendered",
            "detail": detail if made else ": ".join(filter(None, (row["reason"], row["detail"]))),
        }
    return record, rows, truths


def plan(config: EvaluateConfig, renders: Location, truth: Location | None, out: Location) -> dict[str, Any]:
    """What `run` would do."""
    _, rows, truths = read_renders(renders, truth)
    return {"videos": len(rows), "with_truth": len(truths.found), "truths": truths.to_record(),
            "protocol": config.protocol, "finished": Artifact(out / "metrics").committed}  # fmt: skip


def run(
    config: EvaluateConfig, *, renders: Location, truth: Location | None, out: Location, engine: Engine
) -> dict[str, Any]:
    """Score `renders` into `out/metrics` and `out/report.html`; returns the artifact's record.

    Raises:
        ArtifactError: the renders are not finished, the folder was begun with something else, or is in use.
        SteadyDancerError: a folder of truths was given, and none of them is the truth of a render.
        JobStopped: the code or the machine failed on the way.
    """
    record, by_id, found = read_renders(renders, truth)
    components = find_parts(str(config.components or record["components"]["path"]), ("vae",))
    with exclusive(out):
        artifact = Artifact(out / "metrics")
        settings = config.model_dump(mode="json", exclude={"packet_size", "components"})
        truths = sorted((place, name) for name, place in found.found.items())
        ids = [name for _, name in truths]
        # By which rules they were rendered, too: half-made scores of others would be of two kinds of videos.
        begun = {"config": settings, "renders": record["inputs"] | {"config": record["config"]} | said_in(record),
                 "truths": [content_digest(place) for place, _ in truths], "truth_ids": ids,
                 "packet_size": config.packet_size, "rules": versions("pictures", "truth")}  # fmt: skip
        artifact.begin(begun, {"config": absent_fields(EvaluateConfig), "truth_ids": ids})
        if not artifact.committed:
            from .steps import METRICS, SCHEMA, STAGES, EvaluateTask

            start = time.perf_counter()
            packets = plan_packets(by_id, config.packet_size)
            job = Job(
                name="evaluate",
                stages=STAGES,
                config=EvaluateTask(config, str(components), record["config"].get("driving_fps")),
                schema=SCHEMA,
                open_row=lambda name: {"id": name, **by_id[name], "protocol": config.protocol},
                write_packet=lambda packet, rows: artifact.write_part(packet, to_table(rows, SCHEMA)),
            )
            seconds = run_packets(job, artifact, packets, engine)
            rows = artifact.read().to_pylist()
            verdicts = {row["id"]: row["verdict"] for row in rows}
            artifact.commit(
                {
                    "kind": "metrics",
                    "version": __version__,
                    "config": settings,
                    "rules": begun["rules"],
                    "inputs": begun["renders"],
                    "counts": count_verdicts(len(by_id), verdicts.values()),
                    "means": means(rows),
                    "missing": missing(rows, METRICS),
                    "truths": found.to_record() | count_compared(rows),
                    "seconds": {**seconds, "total": time.perf_counter() - start},
                }
            )
        from .report import PAGE, write_report

        with after_commit(f"{out / PAGE}", f"`steadydancer report --metrics {out}` makes it again"):
            write_report(out / PAGE, artifact)
        return artifact.record()


def means(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Metric → mean over the videos that have a value (null if none has), and how many those are."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["metric"]:
            values.setdefault(row["metric"], []).extend([] if row["value"] is None else [row["value"]])
    return {name: {"mean": sum(v) / len(v) if v else None, "videos": len(v)} for name, v in values.items()}


def missing(rows: list[Row], metrics: Iterable[str]) -> dict[str, dict[str, int]]:
    """Metric → reason → videos that have no value for it; a video that was not scored at all counts for every metric.

    Together with the videos of `means` these are all videos.
    """
    out: dict[str, Counter[str]] = {name: Counter() for name in metrics}
    for row in rows:
        if row["value"] is None:
            for name in [row["metric"]] if row["metric"] else list(out):
                out[name][row["reason"] or "unknown"] += 1
    return {name: dict(counts.most_common()) for name, counts in out.items()}


def count_compared(rows: list[Row]) -> dict[str, int]:
    """How many videos, and how many of their frames, were held against a truth."""
    frames = [row["frames_compared"] for row in rows if row["metric"] == "psnr" and row["value"] is not None]
    return {"compared": len(frames), "frames_compared": sum(frames)}
