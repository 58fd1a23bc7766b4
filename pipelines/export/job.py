"""The export job: accepted clips → packets → files and manifests → the export artifact."""

import json
import time
from collections import Counter
from typing import Any

from ... import __version__
from ...datasets.artifact import Artifact, count_verdicts, exclusive, plan_packets
from ...datasets.clips import Clips
from ...datasets.exports import SCHEMA, write_manifests
from ...datasets.rules import versions
from ...datasets.schema import CROP_COLUMNS, Row, columns_of, to_table
from ...datasets.storage import Location, total_bytes
from ...datasets.storage.digests import json_digest
from ..common.older_rules import stages_for
from ..common.older_versions import absent_fields
from ..common.outcomes import accepted_rows
from ..runtime.runner import Engine, Job, run_packets
from .config import ExportConfig

PASSED_ON = ("clip_id", "source_id", "source_path", "source_bytes", "origin", "licence", "prompt", "pose_model",
             "measured_part", "start_s", "end_s", "num_frames", *CROP_COLUMNS)  # fmt: skip
SCORES = [
    name
    for stage in ("shots", "score", "pose")
    for name in columns_of(stage)
    if name not in (*PASSED_ON, "shot_index", "pose", "pose_digest", "fingerprint", "leak_of")
]


def accepted_clips(curated: Clips) -> list[Row]:
    """Return rows in the export's schema, one per accepted clip.

    Raises:
        ArtifactError: no clip was accepted.
    """
    fps = curated.record["config"]["fps"]
    return [
        {name: row[name] for name in PASSED_ON}
        | {"fps": fps, "source_height": row["height"], "source_width": row["width"]}
        | {"scores": json.dumps({name: row[name] for name in SCORES if row[name] is not None})}
        for row in accepted_rows(curated, [*PASSED_ON, "width", "height", *SCORES]).to_pylist()
    ]


def plan(config: ExportConfig, clips: Location, out: Location) -> dict[str, Any]:
    """Describe what `run` would do: clips, sizes, seconds of video."""
    from .steps import export_size

    rows = accepted_clips(Clips(clips))
    packets = plan_packets((row["clip_id"] for row in rows), config.packet_size)
    remaining = Artifact(out / "export").remaining(packets)
    sizes = Counter("{1}x{0}".format(*export_size(row, config)) for row in rows)
    return {
        "clips": len(rows),
        "packets": len(packets),
        "packets_done": len(packets) - len(remaining),
        "finished": Artifact(out / "export").committed,
        "layout": config.layout,
        "encoding": encoding(config),
        "seconds_of_video": sum(row["num_frames"] / row["fps"] for row in rows),
        "sizes": dict(sizes.most_common()),
        "without_prompt": sum(not row["prompt"] for row in rows),
    }


def encoding(config: ExportConfig) -> dict[str, Any]:
    """Return the video encoding; only `lossless` keeps every bit."""
    if config.lossless:
        return {"codec": "h264", "pixel_format": "gbrp", "qp": 0, "lossless": True}
    return {"codec": "h264", "pixel_format": "yuv420p", "crf": 18, "lossless": False}


def run(config: ExportConfig, *, clips: Location, out: Location, engine: Engine) -> dict[str, Any]:
    """Export the accepted clips of `clips` into `out/export`; return the artifact's record. Resumes after a kill.

    Raises:
        ArtifactError: the clips are not finished, the folder has different settings, or another run uses it.
        JobStopped: the code or the machine failed.
    """
    curated = Clips(clips)
    by_id = {row["clip_id"]: row for row in accepted_clips(curated)}
    with exclusive(out):
        artifact = Artifact(out / "export")
        settings = config.model_dump(mode="json", exclude={"packet_size"})
        contents = sorted([row["clip_id"], row["prompt"], row["source_path"]] for row in by_id.values())
        digest = json_digest([curated.record["config"], contents])
        begun = {"config": settings, "clips": digest, "packet_size": config.packet_size, "rules": versions("pictures")}
        artifact.begin(begun, {"config": absent_fields(ExportConfig)})
        if artifact.committed:
            return artifact.record()
        from .steps import STAGES, ExportTask

        start = time.perf_counter()
        packets = plan_packets(by_id, config.packet_size)
        job = Job(
            name="export",
            stages=[*stages_for(curated.record), *STAGES],
            config=ExportTask(config, str(curated.artifact.path.absolute()), str(artifact.path.absolute())),
            schema=SCHEMA,
            open_row=lambda clip_id: by_id[clip_id],
            write_packet=lambda packet, rows: artifact.write_part(packet, to_table(rows, SCHEMA)),
        )
        seconds = run_packets(job, artifact, packets, engine)
        rows = artifact.read().to_pylist()
        write_manifests(artifact.path, config.layout, rows)
        return artifact.commit(
            {
                "kind": "export",
                "version": __version__,
                "config": settings,
                "rules": begun["rules"],
                "encoding": encoding(config),
                "inputs": {"clips": str(clips), "digest": digest},
                "num_frames": curated.record["config"]["num_frames"],
                "fps": curated.record["config"]["fps"],
                "prompts_given": sum(bool(row["prompt"]) for row in rows if row["verdict"] == "ok"),
                "counts": count_verdicts(len(by_id), (row["verdict"] for row in rows)),
                "bytes": sum(total_bytes(artifact.path / name) for name in ("videos", "pose_videos")),
                "seconds": {**seconds, "total": time.perf_counter() - start},
            }
        )
