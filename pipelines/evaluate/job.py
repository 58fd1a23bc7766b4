"""The evaluate job: renders, and truths where there are some → metric rows and a page."""

import time
from typing import Any

from ... import SteadyDancerError, __version__
from ...datasets.artifact import Artifact, count_verdicts, exclusive, plan_packets
from ...datasets.digests import content_digest
from ...datasets.rules import versions
from ...datasets.schema import Row, to_table
from ...datasets.storage import Location
from ..after_commit import after_commit
from ..earlier import absent_fields
from ..parts import find_parts
from ..runner import Engine, Job, run_packets
from .config import EvaluateConfig


def rendered(renders: Location, truth: Location | None) -> tuple[dict[str, Any], dict[str, Row]]:
    """The record of the renders and, by id, what is to be scored.

    Raises:
        ArtifactError: the renders are not finished.
    """
    artifact = Artifact(renders / "renders" if (renders / "renders").is_dir() else renders)
    record = artifact.record()
    rows: dict[str, Row] = {}
    if truth is not None and not truth.is_dir():
        raise SteadyDancerError(f"{truth} does not exist: --truth takes a folder with ID.mp4 for renders with a truth")
    for row in artifact.read().to_pylist():
        true_video = truth / f"{row['id']}.mp4" if truth else None
        rows[row["id"]] = {
            "video": str(artifact.path.absolute() / row["video"]) if row["video"] else None,
            "image": row["image"],
            "truth": str(true_video.absolute()) if true_video and true_video.is_file() else None,
            # A video that was not rendered stays in the table: its absence must not improve a mean.
            "verdict": None if row["verdict"] == "ok" else "quarantined",
            "reason": None if row["verdict"] == "ok" else "not_rendered",
            "detail": row["detail"] if row["verdict"] != "ok" else None,
        }
    return record, rows


def plan(config: EvaluateConfig, renders: Location, truth: Location | None, out: Location) -> dict[str, Any]:
    """What `run` would do."""
    _, rows = rendered(renders, truth)
    return {"videos": len(rows), "with_truth": sum(bool(row["truth"]) for row in rows.values()),
            "protocol": config.protocol, "finished": Artifact(out / "metrics").committed}  # fmt: skip


def run(
    config: EvaluateConfig, *, renders: Location, truth: Location | None, out: Location, engine: Engine
) -> dict[str, Any]:
    """Score `renders` into `out/metrics` and `out/report.html`; returns the artifact's record.

    Raises:
        ArtifactError: the renders are not finished, the folder was begun with something else, or is in use.
        JobStopped: the code or the machine failed on the way.
    """
    record, by_id = rendered(renders, truth)
    components = find_parts(str(config.components or record["components"]["path"]), ("vae",))
    with exclusive(out):
        artifact = Artifact(out / "metrics")
        settings = config.model_dump(mode="json", exclude={"packet_size", "components"})
        truths = sorted(row["truth"] for row in by_id.values() if row["truth"])
        begun = {"config": settings, "renders": record["inputs"] | {"config": record["config"]},
                 "truths": [content_digest(path) for path in truths],
                 "packet_size": config.packet_size, "rules": versions("pictures")}  # fmt: skip
        artifact.begin(begun, {"config": absent_fields(EvaluateConfig)})
        if not artifact.committed:
            from .steps import SCHEMA, STAGES, EvaluateTask

            start = time.perf_counter()
            packets = plan_packets(by_id, config.packet_size)
            job = Job(
                name="evaluate",
                stages=STAGES,
                config=EvaluateTask(config, str(components)),
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
                    "seconds": {**seconds, "total": time.perf_counter() - start},
                }
            )
        from .report import PAGE, write_report

        with after_commit(f"{out / PAGE}", f"`steadydancer report --metrics {out}` makes it again"):
            write_report(out / PAGE, artifact, by_id)
        return artifact.record()


def means(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Metric → mean over the videos that have a value (null if none has), and how many those are."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["metric"]:
            values.setdefault(row["metric"], []).extend([] if row["value"] is None else [row["value"]])
    return {name: {"mean": sum(v) / len(v) if v else None, "videos": len(v)} for name, v in values.items()}
