"""The render job: a checkpoint and pairs → one mp4 each → the renders artifact."""

import logging
import time
from typing import Any

from ... import __version__
from ...datasets.artifact import Artifact, count_verdicts, exclusive, plan_packets
from ...datasets.artifact_lookup import find_artifact
from ...datasets.pairs import pair, read_pairs, require_unique
from ...datasets.rules import versions
from ...datasets.schema import Row, to_table
from ...datasets.storage import Location, location
from ...datasets.storage.digests import content_digest, json_digest
from ..common.components import find_parts, part_digests, parts_are_local
from ..common.older_versions import absent_fields
from ..common.outcomes import warn_first
from ..runtime.runner import Engine, Job, run_packets
from .config import FROZEN, RenderConfig

__all__ = ["components_of", "num_windows", "pair", "plan", "read_pairs", "run"]

_log = logging.getLogger(__name__)


def components_of(config: RenderConfig, checkpoint: Location, record: dict[str, Any]) -> str:
    """Return the source of VAE and encoders: as configured, else the checkpoint itself, else the one in its record."""
    if config.components:
        return config.components
    is_bundle = (checkpoint / "model_index.json").is_file()
    return str(checkpoint if is_bundle else (record.get("components") or record["base"])["path"])


def plan(config: RenderConfig, pairs: list[Row], checkpoint: Location, out: Location) -> dict[str, Any]:
    """Describe what `run` would do; window counts are None if a video's length depends on its driving video."""
    require_unique(pairs)
    trained = find_artifact(checkpoint, "checkpoint")
    checkpoint, record = trained.path, trained.record()
    low, high = config.pose_guidance_interval
    steps, windows = config.num_inference_steps, num_windows(config)
    evaluations = 2 * steps + sum(low < i / steps < high for i in range(steps))
    components = components_of(config, checkpoint, record)
    return {
        "pairs": len(pairs),
        "finished": Artifact(out / "renders").committed,
        "stage": record.get("stage"),
        "components": components,
        "components_here": parts_are_local(components),
        "windows_a_video": windows,
        "evaluations_a_video": windows and windows * evaluations,
    }


def num_windows(config: RenderConfig) -> int | None:
    """Return the number of windows per video; None if its length depends on the driving video."""
    if config.num_frames is None or config.num_frames <= config.window_frames:
        return config.num_frames and 1
    from ...models.long_video import plan_windows

    return len(plan_windows(config.num_frames, config.window_frames, config.window_overlap))


def run(
    config: RenderConfig,
    *,
    checkpoint: Location,
    pairs: list[Row],
    out: Location,
    engine: Engine,
    benchmark: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Render `pairs` into `out/renders`; return the artifact's record. A pair that fails does not stop the others.

    Args:
        config: settings.
        checkpoint: trained checkpoint.
        pairs: rows of `datasets.pairs`.
        out: folder.
        engine: where packets run.
        benchmark: record of the benchmark that the pairs are from, stored in the artifact's record.

    Raises:
        ArtifactError: the checkpoint is not finished, the folder was started with different settings, or it is in use.
        ComponentsError: the VAE or an encoder is missing.
        JobStopped: the code or the machine failed.
    """
    require_unique(pairs)
    trained = find_artifact(checkpoint, "checkpoint")
    checkpoint, record = trained.path, trained.record()
    by_id = {row["id"]: row for row in pairs}
    parts = find_parts(components_of(config, checkpoint, record), FROZEN)
    with exclusive(out):
        artifact = Artifact(out / "renders")
        digest = content_digest(checkpoint)
        components, frozen = str(parts), part_digests(parts, FROZEN)
        settings = config.model_dump(mode="json", exclude={"packet_size", "num_gpus", "components"})
        pairs_digest = json_digest([[row, _digest(row["image"]), _digest(row["driving"])] for row in pairs])
        by = versions("pictures", "driving_poses", "sidecars")
        artifact.begin({"config": settings, "checkpoint": digest, "pairs": pairs_digest, "components": frozen,
                        "packet_size": config.packet_size, "rules": by},
                       {"config": absent_fields(RenderConfig)})  # fmt: skip
        if artifact.committed:
            return artifact.record()
        from .steps import SCHEMA, RenderTask, stages

        start = time.perf_counter()
        packets = plan_packets(by_id, config.packet_size)
        job = Job(
            name="render",
            stages=stages(config),
            config=RenderTask(
                config,
                str(checkpoint.resolve()),
                components,
                {"checkpoint": digest, **frozen},
                str(artifact.path.resolve()),
            ),
            schema=SCHEMA,
            open_row=lambda name: by_id[name],
            write_packet=lambda packet, rows: artifact.write_part(packet, to_table(rows, SCHEMA)),
        )
        seconds = run_packets(job, artifact, packets, engine)
        rows = artifact.read(["id", "image", "driving", "verdict", "detail"]).to_pylist()
        _warn_of_details(rows)
        return artifact.commit(
            {
                "kind": "renders",
                "version": __version__,
                "config": settings,
                "rules": by,
                "inputs": {"checkpoint": str(checkpoint), "digest": digest, "pairs": pairs_digest},
                "components": {"path": components, "digests": frozen},
                **({"benchmark": benchmark} if benchmark else {}),
                "counts": count_verdicts(len(pairs), (row["verdict"] for row in rows)),
                "seconds": {**seconds, "total": time.perf_counter() - start},
            }
        )


def _warn_of_details(rows: list[Row]) -> None:
    """Log the details of rendered videos as warnings, with the names of their image and driving video."""
    lines = []
    for row in rows:
        if row["verdict"] == "ok" and row["detail"]:
            image, driving = (row[name].rsplit("/", 1)[-1] for name in ("image", "driving"))
            lines.append(f"{row['id']} (image {image}, driving {driving}): {row['detail']}")
    warn_first(_log, lines, "%d more videos have notes; see column `detail` of the renders")


def _digest(file: str) -> str | None:
    """Compute a file's digest; None if it is missing, which fails only its own pair."""
    return content_digest(file) if location(file).is_file() else None
