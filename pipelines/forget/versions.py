"""New versions of a curation, its caches and its exports, without the forgotten sources."""

import json
import time
from collections import Counter
from typing import Any

import pyarrow.compute as pc

from ...datasets.artifact import PLAN, Artifact, ArtifactError, count_verdicts
from ...datasets.clips import Clips
from ...datasets.exports import clip_files
from ...datasets.shards.energon import write_energon_index
from ...datasets.storage import Location, location, relative, total_bytes
from ...datasets.storage.digests import content_digest, json_digest
from ..runtime.runner import progress
from .removal import Forgotten, copy_null_conditions, files_without, rows_without, samples_without
from .search import Matches


def rows_version(old: Artifact, new: Artifact, found: Matches, name: str) -> None:
    """Write a table of rows without the forgotten ones; `name` labels the progress bar.

    Raises:
        ArtifactError: other rows were lost, or a forgotten row is left.
    """
    new.begin({"parent": str(old.path.absolute()), "forgotten": found.ids})
    columns = ["source_id", "source_path", "reason", "detail", "leak_of", "duplicate_group"]
    parts = rows_without(old, new, found.forgotten, tuple(columns), found.groups)
    for _ in progress(parts, f"forget: {name}", "parts", len(old.parts())):
        pass
    before, after = (one.read(columns[:2]) for one in (old, new))
    _check_removed(new, before, after, found.forgotten)


def clips_version(clips: Clips, new: Artifact, measured: Artifact, found: Matches, record: dict[str, Any]) -> None:
    """Write a selection without the forgotten rows; `measured` is the new version of the measured rows.

    Raises:
        ArtifactError: other rows were lost, or a forgotten row is left.
    """
    if new.committed:
        return
    start = time.perf_counter()
    rows_version(clips.artifact, new, found, "clips")
    rows = new.read(["verdict", "source_path"]).to_pylist()
    sources = sorted({row["source_path"] for row in rows})
    out = new.path.parent
    new.commit(
        {
            **record,
            "parent": clips.artifact.reference_from(out),
            "measured": relative(measured.path, out),
            "inputs": {**record["inputs"], "sources": len(sources), "digest": json_digest(sources)},
            "counts": count_verdicts(len(rows), (row["verdict"] for row in rows)),
            "seconds": {**record["seconds"], "total": time.perf_counter() - start},
        }
    )


def latents_version(
    old: Artifact, new: Artifact, forgotten: Forgotten, record: dict[str, Any], clips: dict[str, Location]
) -> None:
    """Write a latent cache without the forgotten samples; the others keep their bytes.

    Args:
        old: the cache.
        new: its new version.
        forgotten: sources to remove.
        record: fields of the new record, except counts and paths.
        clips: new curation by the path of the old one.

    Raises:
        ArtifactError: a shard is damaged, or the written cache has the wrong rows or bytes.
    """
    if new.committed:
        return
    start = time.perf_counter()
    # Keep the old plan: `verify` compares it with the record, and the samples were made with these settings.
    new.begin(json.loads((old.path / PLAN).read_text()))
    for _ in progress(samples_without(old, new, forgotten), "forget: latents", "parts", len(old.parts())):
        pass
    before, index = old.read(["source_id"]), new.read()
    _check_removed(new, before, index, forgotten)
    rows = index.select(["verdict", "num_frames", "height", "width", "prompt_from"]).to_pylist()
    ok = [row for row in rows if row["verdict"] == "ok"]
    buckets = {(row["num_frames"], row["height"], row["width"]) for row in ok}
    names = copy_null_conditions(old, new, buckets)
    shard_bytes = {
        row["shard"]: row["shard_bytes"] for row in index.select(["shard", "shard_bytes"]).to_pylist() if row["shard"]
    }
    size = total_bytes(new.path / "shards", ".tar")
    if size != sum(shard_bytes.values()):
        raise ArtifactError(
            f"{new.path} has {size} bytes of shards, expected {sum(shard_bytes.values())}: "
            "delete it and run forget again"
        )
    write_energon_index(new.path)
    prompt_sources = Counter(row["prompt_from"] for row in ok)
    new.commit(
        {
            **record,
            "parent": old.reference_from(new.path.parent),
            "inputs": _with_new_clips(record["inputs"], clips),
            "buckets": sorted(map(list, buckets)),
            "null": {name: digest for name, digest in record["null"].items() if name in names},
            "prompts": {name: prompt_sources[name] for name in record["prompts"]},
            "counts": count_verdicts(len(rows), (row["verdict"] for row in rows)),
            "parts": {part: content_digest(new.path / part) for part in new.parts()},
            "bytes": size,
            "seconds": {**record["seconds"], "total": time.perf_counter() - start},
        }
    )


def export_version(
    old: Artifact, new: Artifact, forgotten: Forgotten, record: dict[str, Any], clips: dict[str, Location]
) -> None:
    """Write an export without the forgotten files; arguments and errors as for `latents_version`."""
    if new.committed:
        return
    start = time.perf_counter()
    new.begin(json.loads((old.path / PLAN).read_text()))
    parts = files_without(old, new, forgotten, record["config"]["layout"])
    for _ in progress(parts, "forget: export", "parts", len(old.parts())):
        pass
    before, index = old.read(["source_id"]), new.read()
    _check_removed(new, before, index, forgotten)
    rows = index.select(["clip_id", "verdict", "prompt"]).to_pylist()
    ok = [row for row in rows if row["verdict"] == "ok"]
    missing = [name for row in ok for name in clip_files(row["clip_id"]).values() if not (new.path / name).is_file()]
    if missing:
        raise ArtifactError(f"{new.path / missing[0]} is missing: delete {new.path} and run forget again")
    new.commit(
        {
            **record,
            "parent": old.reference_from(new.path.parent),
            "inputs": _with_new_clips(record["inputs"], clips),
            "prompts_given": sum(bool(row["prompt"]) for row in ok),
            "counts": count_verdicts(len(rows), (row["verdict"] for row in rows)),
            "bytes": sum(total_bytes(new.path / name) for name in ("videos", "pose_videos")),
            "seconds": {**record["seconds"], "total": time.perf_counter() - start},
        }
    )


def _check_removed(new: Artifact, before: Any, index: Any, forgotten: Forgotten) -> None:
    lost = int(pc.sum(forgotten.rows(before)).as_py() or 0)
    if len(before) - lost != len(index) or pc.any(forgotten.rows(index)).as_py():
        raise ArtifactError(
            f"{new.path} has {len(index)} rows, expected {len(before)} - {lost}: delete it and run forget again"
        )


def _with_new_clips(inputs: dict[str, Any], clips: dict[str, Location]) -> dict[str, Any]:
    """Update the path of the curation; the digest remains that of the curation that was encoded."""
    for old, new in clips.items():
        if str(inputs["clips"]) in (old, str(location(old).absolute()), str(location(old).parent.absolute())):
            return {**inputs, "clips": str(new.parent.absolute())}
    return inputs
