"""New versions of a curation and of what was made of it, without what is forgotten."""

import json
import time
from collections import Counter
from typing import Any

import pyarrow.compute as pc

from ...datasets.artifact import PLAN, Artifact, ArtifactError, count_verdicts
from ...datasets.clips import Clips
from ...datasets.exports import files_of
from ...datasets.storage import Location, location, relative, total_bytes
from ...datasets.storage.digests import content_digest, json_digest
from ..runtime.runner import progress
from .removal import Forgotten, copy_null_conditions, files_without, rows_without, samples_without
from .search import Matches


def rows_version(old: Artifact, new: Artifact, found: Matches, name: str) -> None:
    """The parts of a table of rows without those of whom is forgotten; `name` is for the progress.

    Raises:
        ArtifactError: rows were lost, or one of them is still there.
    """
    new.begin({"parent": str(old.path.absolute()), "forgotten": found.ids})
    columns = ["source_id", "source_path", "reason", "detail", "leak_of", "duplicate_group"]
    parts = rows_without(old, new, found.forgotten, tuple(columns), found.groups)
    for _ in progress(parts, f"forget: {name}", "parts", len(old.parts())):
        pass
    before, after = (one.read(columns[:2]) for one in (old, new))
    _check_removed(new, before, after, found.forgotten)


def clips_version(clips: Clips, new: Artifact, measured: Artifact, found: Matches, record: dict[str, Any]) -> None:
    """A selection without the rows of whom is forgotten; `measured` is what is left of what was measured.

    Raises:
        ArtifactError: rows were lost, or one of them is still there.
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
            "parent": clips.artifact.named(out),
            "measured": relative(measured.path, out),
            "inputs": {**record["inputs"], "sources": len(sources), "digest": json_digest(sources)},
            "counts": count_verdicts(len(rows), (row["verdict"] for row in rows)),
            "seconds": {**record["seconds"], "total": time.perf_counter() - start},
        }
    )


def latents_version(
    old: Artifact, new: Artifact, forgotten: Forgotten, record: dict[str, Any], clips: dict[str, Location]
) -> None:
    """A latent cache without the samples of whom is forgotten; the others keep their bytes.

    Args:
        old: the cache.
        new: its new version.
        forgotten: whose samples go.
        record: what its record says besides counts and places.
        clips: new curation by the path of the old one.

    Raises:
        ArtifactError: a shard is damaged, or what was written is not what is wanted.
    """
    if new.committed:
        return
    start = time.perf_counter()
    # The plan of the old one: `verify` holds it against the record, and what made the samples has not changed.
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
    size = total_bytes(new.path / "shards")
    if size != sum(shard_bytes.values()):
        raise ArtifactError(
            f"{new.path} weighs {size} bytes, {sum(shard_bytes.values())} are wanted: delete it, and again"
        )
    prompt_sources = Counter(row["prompt_from"] for row in ok)
    new.commit(
        {
            **record,
            "parent": old.named(new.path.parent),
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
    """An export without the files of whom is forgotten; arguments and errors as of `latents_version`."""
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
    missing = [name for row in ok for name in files_of(row["clip_id"]).values() if not (new.path / name).is_file()]
    if missing:
        raise ArtifactError(f"{new.path / missing[0]} is missing: delete {new.path}, and again")
    new.commit(
        {
            **record,
            "parent": old.named(new.path.parent),
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
            f"{new.path} has {len(index)} rows, {len(before)} less {lost} are wanted: delete it, and again"
        )


def _with_new_clips(inputs: dict[str, Any], clips: dict[str, Location]) -> dict[str, Any]:
    """Where the curation lies now. Its digest stays that of the one which the numbers were made of."""
    for old, new in clips.items():
        if str(inputs["clips"]) in (old, str(location(old).absolute()), str(location(old).parent.absolute())):
            return {**inputs, "clips": str(new.parent.absolute())}
    return inputs
