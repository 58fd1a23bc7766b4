"""The cache job: accepted clips → packets → shards, null conditions → the latents artifact."""

import sys
import time
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ... import __version__
from ...datasets.artifact import Artifact, Packet, count_verdicts, exclusive
from ...datasets.rules import recorded_rules, versions
from ...datasets.schema import Row
from ...datasets.shards import write_shard
from ...datasets.shards.encodings import ENCODINGS, fingerprint
from ...datasets.shards.energon import write_energon_index
from ...datasets.shards.plan import plan_shards, shard_limit
from ...datasets.storage import Location, total_bytes
from ...datasets.storage.digests import content_digest
from ..common.components import captioner_digests, find_parts, part_digests, parts_are_local, read_feature_sizes
from ..common.older_versions import absent_fields
from ..runtime.runner import Engine, Job, run_packets
from .accepted_clips import AcceptedClips
from .config import ENCODERS, CacheConfig
from .cost import SizeEstimate, estimate_bytes, estimate_cost, format_cost
from .reused_shards import Parent, reuse_sound_shards


def plan(config: CacheConfig, clips: Location, out: Location, samples_drawn: int | None = None) -> dict[str, Any]:
    """Describe what `run` would do and its estimated cost, from shapes alone, without loading a network.

    `samples_drawn` is the number of samples that training will draw; None if unknown.
    """
    accepted = AcceptedClips(clips)
    widths = read_feature_sizes(config.components)
    sizes = estimate_bytes(config, widths, accepted.shapes())
    packets = plan_cache_packets(accepted, sizes, config)
    artifact = Artifact(out / "latents")
    cost = estimate_cost(sizes, widths, samples_drawn)
    return {
        "clips": len(accepted),
        "prompts": {"supplied": accepted.num_prompts, "from_captioner_or_none": len(accepted) - accepted.num_prompts},
        "shards": len(packets),
        "shards_done": len(packets) - len(artifact.remaining(packets)),
        "finished": artifact.committed,
        "components": config.components,
        "components_here": parts_are_local(config.components),
        "captioner": config.captioner,
        "cost": {"in_a_line": format_cost(cost), **cost},
    }


def plan_cache_packets(accepted: AcceptedClips, sizes: SizeEstimate, config: CacheConfig) -> list[Packet]:
    """Divide the clips into shards; the same clips and configuration always give the same shards."""
    limit = shard_limit(sum(sizes.each), config.shard_bytes)
    return plan_shards(dict(zip(accepted.ids, sizes.each, strict=True)), limit, config.packet_size)


def run(
    config: CacheConfig,
    *,
    clips: Location,
    out: Location,
    engine: Engine,
    samples_drawn: int | None = None,
    parent: Parent | None = None,
) -> dict[str, Any]:
    """Encode the accepted clips of `clips` into `out/latents`; return the artifact's record. Resumes after a kill.

    Args:
        config: configuration of the cache.
        clips: folder given to `curate --out`.
        out: folder in which `latents` is created.
        engine: where packets run.
        samples_drawn: samples that training will draw, for the printed cost; None if unknown.
        parent: a damaged cache with the same plan, whose sound shards are reused.

    Raises:
        ArtifactError: the clips are not finished, the folder has different settings, or another run uses it.
        ComponentsError: the VAE, an encoder or the captioner is missing.
        JobStopped: the code or the machine failed.
    """
    accepted = AcceptedClips(clips)
    folder = find_parts(config.components, ENCODERS)
    digests = part_digests(folder, ENCODERS) | captioner_digests(config.captioner)
    with exclusive(out):
        artifact = Artifact(out / "latents")
        # These settings decide which clips a shard holds, so a resumed cache must have the same.
        packet_settings = config.model_dump(include={"packet_size", "shard_bytes"})
        begun = {"config": config.settings, "clips": accepted.digest(), "components": digests, "encodings": ENCODINGS}
        # A repaired cache keeps its parent's rules: files that today's rules decode differently are not encoded again.
        rules = {"rules": versions("pictures")} if parent is None else recorded_rules(parent.record)
        begun |= rules
        if parent is not None:
            parent.require_plan(begun | packet_settings)
        artifact.begin(begun | packet_settings, {"config": absent_fields(CacheConfig)})
        if artifact.committed:
            return artifact.record()
        start = time.perf_counter()
        config = config.model_copy(update={"components": str(folder)})
        mark = fingerprint(config.settings, digests)
        packets = _print_cost_and_plan(accepted, config, samples_drawn)
        if parent is not None:
            reuse_sound_shards(parent, artifact, packets, accepted)
        seconds = _encode(accepted, config, clips, artifact, packets, engine, mark)
        made = _summary(accepted, config, artifact)
        write_energon_index(artifact.path)
        return artifact.commit(
            {
                "kind": "latents",
                "version": __version__,
                "config": begun["config"],
                "cut": packet_settings,
                "num_gpus": config.num_gpus,
                "inputs": {"clips": str(clips.absolute()), "digest": begun["clips"]},
                "components": {"path": str(folder), "captioner": config.captioner, "digests": digests},
                "encodings": ENCODINGS,
                **rules,
                "fingerprint": mark,
                "parent": parent and parent.to_record(out),
                **made,
                "seconds": {**seconds, "total": time.perf_counter() - start},
            }
        )


def _print_cost_and_plan(accepted: AcceptedClips, config: CacheConfig, samples_drawn: int | None) -> list[Packet]:
    """Print the estimated cost and return the packets."""
    widths = read_feature_sizes(config.components)
    sizes = estimate_bytes(config, widths, accepted.shapes())
    print(format_cost(estimate_cost(sizes, widths, samples_drawn)), file=sys.stderr, flush=True)
    return plan_cache_packets(accepted, sizes, config)


def _encode(
    accepted: AcceptedClips,
    config: CacheConfig,
    clips: Location,
    artifact: Artifact,
    packets: list[Packet],
    engine: Engine,
    mark: str,
) -> dict[str, float]:
    """Write the missing shards; return the seconds by stage."""
    if not artifact.remaining(packets):
        return {}
    from .steps import SCHEMA, stages, to_sample

    def write_packet(packet: Packet, rows: list[Row]) -> None:
        write_shard(artifact.path, packet, [to_sample(row, config, mark) for row in rows])

    job = Job(
        name="cache",
        stages=stages(config, clips, accepted.record),
        config=config,
        schema=SCHEMA,
        open_row=accepted.__getitem__,
        write_packet=write_packet,
    )
    return run_packets(job, artifact, packets, engine)


def _summary(accepted: AcceptedClips, config: CacheConfig, artifact: Artifact) -> dict[str, Any]:
    """Return the record's fields about the result; write the null conditions, now that the buckets are known."""
    from .steps import write_null

    index = artifact.read(["verdict", "num_frames", "height", "width", "prompt_from"])
    usable = index.filter(pc.equal(index["verdict"], pa.scalar("ok")))
    buckets = set(zip(*(usable[name].to_pylist() for name in ("num_frames", "height", "width")), strict=True))
    prompt_sources = Counter(usable["prompt_from"].to_pylist())
    return {
        "num_frames": accepted.record["config"]["num_frames"],
        "fps": accepted.fps,
        "buckets": sorted(map(list, buckets)),
        "null": write_null(artifact.path, buckets, config),
        "prompts": {name: prompt_sources[name] for name in ("supplied", "captioner", "none")},
        "counts": count_verdicts(len(accepted), map(str, index["verdict"].to_pylist())),
        "parts": {part: content_digest(artifact.path / part) for part in artifact.parts()},
        "bytes": total_bytes(artifact.path / "shards", ".tar"),
    }
