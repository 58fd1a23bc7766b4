"""The evaluate job: renders, and ground truth if there is any → metric rows and a page."""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ... import __version__
from ...datasets.artifact import Artifact, count_verdicts, exclusive, plan_packets
from ...datasets.artifact_lookup import find_artifact
from ...datasets.rules import recorded_rules, versions
from ...datasets.schema import Row, to_table
from ...datasets.storage import Location
from ...datasets.storage.digests import content_digest
from ..common.components import find_parts
from ..common.older_versions import absent_fields
from ..runtime.after_commit import after_commit
from ..runtime.runner import Engine, Job, run_packets
from .config import EvaluateConfig
from .ground_truth import GroundTruth, find_ground_truth


def read_renders(renders: Location, truth: Location | None) -> tuple[dict[str, Any], dict[str, Row], GroundTruth]:
    """Return the record of the renders, the rows to score by id, and the ground truth that was found.

    Raises:
        ArtifactError: the renders are not finished.
        SteadyDancerError: `truth` is not a folder, or has no ground truth for any render.
    """
    artifact = find_artifact(renders, "renders")
    record, pairs = artifact.record(), artifact.read().to_pylist()
    truths = find_ground_truth([row["id"] for row in pairs], truth)
    rows: dict[str, Row] = {}
    for row in pairs:
        made = row["verdict"] == "ok"
        # Until a render is scored, `reason` and `detail` explain why it has no truth.
        reason, detail = truths.missing.get(row["id"], (None, None))
        rows[row["id"]] = {
            "video": str(artifact.path.absolute() / row["video"]) if row["video"] else None,
            "image": row["image"],
            "driving": row["driving"],
            "truth": truths.found.get(row["id"]),
            # Keep videos that were not rendered in the table, so that their absence is counted.
            "verdict": None if made else "quarantined",
            "reason": reason if made else "not_rendered",
            "detail": detail if made else ": ".join(filter(None, (row["reason"], row["detail"]))),
        }
    return record, rows, truths


def plan(config: EvaluateConfig, renders: Location, truth: Location | None, out: Location) -> dict[str, Any]:
    """Describe what `run` would do."""
    _, rows, truths = read_renders(renders, truth)
    return {"videos": len(rows), "with_truth": len(truths.found), "truths": truths.to_record(),
            "protocol": config.protocol, "finished": Artifact(out / "metrics").committed}  # fmt: skip


def run(
    config: EvaluateConfig, *, renders: Location, truth: Location | None, out: Location, engine: Engine
) -> dict[str, Any]:
    """Score `renders` into `out/metrics` and `out/report.html`; return the artifact's record.

    Raises:
        ArtifactError: the renders are not finished, the folder was started with different settings, or it is in use.
        SteadyDancerError: `truth` has no ground truth for any render.
        JobStopped: the code or the machine failed.
    """
    record, by_id, found = read_renders(renders, truth)
    components = find_parts(str(config.components or record["components"]["path"]), ("vae",))
    with exclusive(out):
        artifact = Artifact(out / "metrics")
        settings = config.model_dump(mode="json", exclude={"packet_size", "components"})
        truths = sorted((place, name) for name, place in found.found.items())
        ids = [name for _, name in truths]
        # Include the rules of the renders, so that a resumed evaluation does not mix two kinds of videos.
        rendered_from = record["inputs"] | {"config": record["config"]} | recorded_rules(record)
        begun = {"config": settings, "renders": rendered_from,
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

        with after_commit(f"{out / PAGE}", f"run `steadydancer report --metrics {out}` to write it"):
            write_report(out / PAGE, artifact)
        return artifact.record()


def means(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Average each metric over the videos that have a value: metric → mean (null without any) and number of videos."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["metric"]:
            values.setdefault(row["metric"], []).extend([] if row["value"] is None else [row["value"]])
    return {name: {"mean": sum(v) / len(v) if v else None, "videos": len(v)} for name, v in values.items()}


def missing(rows: list[Row], metrics: Iterable[str]) -> dict[str, dict[str, int]]:
    """Count videos without a value as metric → reason → number; a video that was not scored counts for every metric.

    Together with the videos of `means`, these are all videos.
    """
    out: dict[str, Counter[str]] = {name: Counter() for name in metrics}
    for row in rows:
        if row["value"] is None:
            for name in [row["metric"]] if row["metric"] else list(out):
                out[name][row["reason"] or "unknown"] += 1
    return {name: dict(counts.most_common()) for name, counts in out.items()}


def count_compared(rows: list[Row]) -> dict[str, int]:
    """Count the videos, and their frames, that were compared with ground truth."""
    frames = [row["frames_compared"] for row in rows if row["metric"] == "psnr" and row["value"] is not None]
    return {"compared": len(frames), "frames_compared": sum(frames)}
