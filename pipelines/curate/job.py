"""The curate job: sources → packets → measured rows → verdicts → the clips artifact."""

import glob
import time
from typing import Any

from ... import __version__
from ...datasets.artifact import Artifact, ArtifactError, count_verdicts, exclusive, json_digest, plan_packets
from ...datasets.manifest import SUFFIXES, read_manifest
from ...datasets.object_store import ObjectPath, listing, matching
from ...datasets.schema import CLIP_SCHEMA, to_table
from ...datasets.storage import Location, location
from ..runner import Engine, Job, run_packets
from .config import CurateConfig
from .select import select
from .steps import STAGES, open_source

VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        "mp4",
        "m4v",
        "mov",
        "mkv",
        "webm",
        "avi",
        "gif",
        "mpg",
        "mpeg",
        "ts",
        "mts",
        "wmv",
        "flv",
        "3gp",
        "ogv",
    )
)


def list_sources(clips: str) -> list[str]:
    """Sources of a folder (searched through), a glob, or a manifest (csv, jsonl, parquet with a column `path`).

    All three may lie on a store, and a manifest may name what lies elsewhere. Absolute paths, sorted: workers and later
    jobs may run in other folders.

    Raises:
        SteadyDancerError: nothing is there, or nothing that looks like a video.
    """
    path = location(clips)
    if path.is_dir():
        below = (one.path for one in listing(path)) if isinstance(path, ObjectPath) else path.rglob("*")
        found = [str(p) for p in below if p.suffix.lower() in VIDEO_SUFFIXES]
    elif path.suffix in SUFFIXES and path.is_file():
        found = [row["path"] for row in read_manifest(path, ("path",))]
    elif path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        found = [clips]
    elif path.is_file():
        raise ArtifactError(f"{clips} is no folder, no manifest ({', '.join(sorted(SUFFIXES))}) and no video")
    else:
        found = [name for name in _matches(path) if location(name).suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        if not path.exists() and not glob.has_magic(clips):
            raise ArtifactError(f"{clips} does not exist: give a folder, a glob or a manifest of videos")
        raise ArtifactError(f"{clips} holds no video (looked for {' '.join(sorted(VIDEO_SUFFIXES))})")
    for name in found:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ArtifactError(f"{name!a} is no name in UTF-8, and tables hold no others: rename it") from None
    return sorted({str(location(name).absolute()) for name in found})


def _matches(pattern: Location) -> list[str]:
    if isinstance(pattern, ObjectPath):
        return list(map(str, matching(pattern)))
    return glob.glob(str(pattern), recursive=True)  # noqa: PTH207 - a pattern may be absolute; Path.glob refuses that


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
        rows = measured.read().to_pylist()
        missing = set(sources) - {row["source_path"] for row in rows}
        if missing:
            raise ArtifactError(f"{len(missing)} sources have no row, first {min(missing)}: delete {measured.path}")
        selected = select(rows, config.gates, config.duplicates)
        (packet,) = plan_packets([row["clip_id"] + row["source_path"] for row in selected], len(selected))
        artifact.begin(begun)
        artifact.write_part(packet, to_table(selected))
        return artifact.commit(
            {
                "kind": "clips",
                "version": __version__,
                "config": begun["config"],
                "inputs": {"clips": clips, "sources": len(sources), "digest": begun["sources"]},
                "counts": count_verdicts(len(rows), (row["verdict"] for row in selected)),
                "pose_models": sorted({row["pose_model"] for row in rows if row["pose_model"]}),
                "seconds": {**seconds, "total": time.perf_counter() - start},
            }
        )
