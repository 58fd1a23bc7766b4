"""The curate job: sources → packets → measured rows → verdicts → the clips artifact."""

import time
from typing import Any

from ... import __version__
from ...datasets.artifact import Artifact, ArtifactError, count_verdicts, exclusive, json_digest, plan_packets
from ...datasets.clips import COLUMNS, place_of
from ...datasets.schema import CLIP_SCHEMA, to_table
from ...datasets.storage import Location
from ..runner import Engine, Job, run_packets
from .config import CurateConfig
from .ingest import list_sources
from .select import select
from .steps import STAGES, open_source


def plan(config: CurateConfig, clips: str, out: Location) -> dict[str, Any]:
    """What `run` would do: number of sources, packets, and how many of them are done."""
    sources = list_sources(clips)
    packets = plan_packets(sources, config.packet_size)
    remaining = Artifact(out / "measured").remaining(packets)
    return {"sources": len(sources), "packets": len(packets), "packets_done": len(packets) - len(remaining),
            "finished": Artifact(out / "clips").committed, "clip_s": (config.num_frames - 1) / config.fps}  # fmt: skip


def run(config: CurateConfig, *, clips: str, out: Location, engine: Engine) -> dict[str, Any]:
    """Curate `clips` into `out/clips`; returns the artifact's record.

    `out/measured` holds the scores of every row, so that another selection needs no video. A finished run returns its
    record; one that was killed goes on with the packets that have no part.

    Raises:
        ArtifactError: no sources, other settings than the folder was begun with, or another run holds it.
        JobStopped: the code or the machine failed on the way.
    """
    sources = list_sources(clips)
    with exclusive(out):
        measured, artifact = Artifact(out / "measured"), Artifact(out / "clips")
        begun = {"config": config.model_dump(mode="json"), "sources": json_digest(sources), "num_sources": len(sources)}
        measured.begin(begun)
        if artifact.committed:
            return artifact.record()
        start = time.perf_counter()
        packets = plan_packets(sources, config.packet_size)
        job = Job(
            name="curate",
            stages=STAGES,
            config=config,
            schema=CLIP_SCHEMA,
            open_row=open_source,
            write_packet=lambda packet, rows: measured.write_part(packet, to_table(rows)),
        )
        seconds = run_packets(job, measured, packets, engine)
        rows = [
            {**row, "measured_part": part} for part in measured.parts() for row in measured.read_part(part).to_pylist()
        ]
        missing = set(sources) - {row["source_path"] for row in rows}
        if missing:
            raise ArtifactError(f"{len(missing)} sources have no row, first {min(missing)}: delete {measured.path}")
        selected = select(rows, config.gates, config.duplicates)
        (packet,) = plan_packets([row["clip_id"] + row["source_path"] for row in selected], len(selected))
        artifact.begin(begun)
        artifact.write_part(packet, to_table(selected).select(COLUMNS))
        return artifact.commit(
            {
                "kind": "clips",
                "version": __version__,
                "config": begun["config"],
                "measured": place_of(measured.path, out),
                "inputs": {"clips": clips, "sources": len(sources), "digest": begun["sources"]},
                "counts": count_verdicts(len(rows), (row["verdict"] for row in selected)),
                "pose_models": sorted({row["pose_model"] for row in rows if row["pose_model"]}),
                "seconds": {**seconds, "total": time.perf_counter() - start},
            }
        )
