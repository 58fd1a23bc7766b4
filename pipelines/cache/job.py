"""The cache job: accepted clips → packets → shards, null conditions → the latents artifact."""

import time
from hashlib import sha256
from typing import Any

from ... import __version__
from ...datasets.artifact import (
    Artifact,
    ArtifactError,
    count_verdicts,
    exclusive,
    json_digest,
    plan_packets,
)
from ...datasets.clips import Clips
from ...datasets.schema import Row
from ...datasets.shards import write_shard
from ...datasets.storage import Location, total_bytes
from ..parts import find_parts, part_digests, parts_are_here
from ..runner import Engine, Job, run_packets
from .config import ENCODERS, CacheConfig

COLUMNS = ("clip_id", "source_id", "source_path", "prompt", "pose_model", "start_s", "end_s", "num_frames")


def accepted_clips(clips: Location) -> tuple[dict[str, Any], list[Row]]:
    """The record of a clips artifact and the rows of its accepted clips.

    `clips` is the folder given to `curate --out`, or the artifact in it.

    Raises:
        ArtifactError: it is not finished, or no clip was accepted.
    """
    curated = Clips(clips)
    record = curated.record
    rows = [row for row in curated.read().to_pylist() if row["verdict"] == "ok"]
    if not rows:
        raise ArtifactError(
            f"{curated.artifact.path} holds no accepted clip ({record['counts']}): loosen the gates of curate"
        )
    fps, poses = record["config"]["fps"], curated.poses(rows)
    chosen = [
        {name: row[name] for name in COLUMNS}
        | {"fps": fps, "source_height": row["height"], "source_width": row["width"], "pose": poses[row["clip_id"]]}
        for row in rows
    ]
    return record, chosen


def plan(config: CacheConfig, clips: Location, out: Location) -> dict[str, Any]:
    """What `run` would do, and what the cache will weigh: arithmetic on shapes, nothing is loaded."""
    from ...datasets.video import size_for_area

    _, rows = accepted_clips(clips)
    bytes_each = 2 if config.dtype == "bfloat16" else 4
    total = 0
    for row in rows:
        height, width = size_for_area(row["source_height"], row["source_width"], config.max_area_px)
        total += 3 * 16 * ((row["num_frames"] - 1) // 4 + 1) * (height // 8) * (width // 8) * bytes_each
    packets = plan_packets([row["clip_id"] for row in rows], config.packet_size)
    remaining = Artifact(out / "latents").remaining(packets)
    return {
        "clips": len(rows),
        "shards": len(packets),
        "shards_done": len(packets) - len(remaining),
        "finished": Artifact(out / "latents").committed,
        "components": config.components,
        "components_here": parts_are_here(config.components),
        "latents_gb": total / 1e9,
        "note": "image features and text add 1.3 MB and up to 4.2 MB a clip at 14B",
    }


def run(config: CacheConfig, *, clips: Location, out: Location, engine: Engine) -> dict[str, Any]:
    """Cache the accepted clips of `clips` into `out/latents`; returns the artifact's record. Resumes after a kill.

    Raises:
        ArtifactError: the clips are not finished, the folder was begun with something else, or another run holds it.
        ComponentsError: the VAE or an encoder is not there.
        JobStopped: the code or the machine failed on the way.
    """
    clips_record, rows = accepted_clips(clips)
    folder = find_parts(config.components, ENCODERS)
    with exclusive(out):
        artifact = Artifact(out / "latents")
        digests = part_digests(folder, ENCODERS)
        settings = config.model_dump(mode="json", exclude={"components", "packet_size", "num_gpus"})
        told = sorted([row["clip_id"], row["prompt"], sha256(row["pose"]).hexdigest()] for row in rows)
        clips_digest = json_digest([clips_record["config"], told])
        # Packets of another size would lie beside those that are there.
        plan = {"config": settings, "clips": clips_digest, "components": digests, "packet_size": config.packet_size}
        artifact.begin(plan)
        if artifact.committed:
            return artifact.record()
        from .steps import SCHEMA, stages, to_sample, write_null

        start = time.perf_counter()
        by_id = {row["clip_id"]: row for row in rows}
        packets = plan_packets(by_id, config.packet_size)
        job = Job(
            name="cache",
            stages=stages(config),
            config=config.model_copy(update={"components": str(folder)}),
            schema=SCHEMA,
            open_row=lambda clip_id: by_id[clip_id],
            write_packet=lambda packet, encoded: write_shard(
                artifact.path, packet, [to_sample(row, config) for row in encoded]
            ),
        )
        seconds = run_packets(job, artifact, packets, engine)
        index = artifact.read(["clip_id", "verdict", "num_frames", "height", "width", "prompt_given"]).to_pylist()
        buckets = {(row["num_frames"], row["height"], row["width"]) for row in index if row["verdict"] == "ok"}
        write_null(artifact.path, buckets, job.config)
        return artifact.commit(
            {
                "kind": "latents",
                "version": __version__,
                "config": settings,
                "inputs": {"clips": str(clips), "digest": clips_digest},
                "components": {"path": str(folder), "digests": digests},
                "num_frames": clips_record["config"]["num_frames"],
                "fps": clips_record["config"]["fps"],
                "buckets": sorted(map(list, buckets)),
                "prompts_given": sum(row["prompt_given"] for row in index),
                "counts": count_verdicts(len(by_id), (row["verdict"] for row in index)),
                "bytes": total_bytes(artifact.path / "shards"),
                "seconds": {**seconds, "total": time.perf_counter() - start},
            }
        )
