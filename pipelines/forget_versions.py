"""The versions of one curation, and new versions of what was made of it, without what is forgotten."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from pyarrow.fs import FileSelector

from ..datasets.artifact import PLAN, Artifact, ArtifactError, count_verdicts
from ..datasets.clips import Clips
from ..datasets.digests import content_digest
from ..datasets.exports import files_of
from ..datasets.object_store import ObjectPath
from ..datasets.removal import Forgotten, carry_null, files_without, samples_without
from ..datasets.storage import Location, location, total_bytes
from ..datasets.store_requests import attempt, filesystem
from .runner import progress


def clips_beside(curations: list[Clips], measured: Location | None = None) -> list[Location]:
    """Finished selections of the same measured rows: in the folders beside it, and in the lines of parents."""
    measured = measured or curations[0].measured.path
    folders = [measured.parent, *_folders(measured.parent), *_folders(measured.parent.parent)]
    candidates = {str(folder / "clips"): folder / "clips" for folder in folders}
    for clips in curations:
        if clips.parent is not None:
            candidates[str(clips.parent)] = clips.parent
    selections = filter(None, map(_selection, candidates.values()))
    wanted = str(measured.absolute().resolve())
    found = [clips.artifact.path for clips in selections if str(clips.measured.path.absolute().resolve()) == wanted]
    return list({str(place.absolute().resolve()): place for place in found}.values())


def _selection(place: Location) -> Clips | None:
    """The finished clips at a place; None if there are none, or none that we may read."""
    try:
        return Clips(place)
    except (ArtifactError, PermissionError, ValueError):
        return None


def _folders(folder: Location) -> list[Location]:
    """The folders in a folder."""
    if isinstance(folder, Path):
        return [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    selector = FileSelector(folder.place, recursive=False, allow_not_found=True)
    infos = attempt(folder, lambda: filesystem(folder.bucket).get_file_info(selector))
    return [ObjectPath(folder.bucket, info.path.partition("/")[2]) for info in infos if not info.is_file]


def latents_version(
    old: Artifact, new: Artifact, forgotten: Forgotten, told: dict[str, Any], clips: dict[str, Location]
) -> None:
    """A latent cache without the samples of whom is forgotten; the others keep their bytes.

    Args:
        old: the cache.
        new: its new version.
        forgotten: whose samples go.
        told: what its record says besides counts and places.
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
    _require_gone(new, before, index, forgotten)
    rows = index.select(["verdict", "num_frames", "height", "width", "prompt_from"]).to_pylist()
    ok = [row for row in rows if row["verdict"] == "ok"]
    buckets = {(row["num_frames"], row["height"], row["width"]) for row in ok}
    names = carry_null(old, new, buckets)
    weight = {
        row["shard"]: row["shard_bytes"] for row in index.select(["shard", "shard_bytes"]).to_pylist() if row["shard"]
    }
    size = total_bytes(new.path / "shards")
    if size != sum(weight.values()):
        raise ArtifactError(f"{new.path} weighs {size} bytes, {sum(weight.values())} are wanted: delete it, and again")
    said = Counter(row["prompt_from"] for row in ok)
    new.commit(
        {
            **told,
            "parent": old.named(new.path.parent),
            "inputs": _moved(told["inputs"], clips),
            "buckets": sorted(map(list, buckets)),
            "null": {name: digest for name, digest in told["null"].items() if name in names},
            "prompts": {name: said[name] for name in told["prompts"]},
            "counts": count_verdicts(len(rows), (row["verdict"] for row in rows)),
            "parts": {part: content_digest(new.path / part) for part in new.parts()},
            "bytes": size,
            "seconds": {**told["seconds"], "total": time.perf_counter() - start},
        }
    )


def export_version(
    old: Artifact, new: Artifact, forgotten: Forgotten, told: dict[str, Any], clips: dict[str, Location]
) -> None:
    """An export without the files of whom is forgotten; arguments and errors as of `latents_version`."""
    if new.committed:
        return
    start = time.perf_counter()
    new.begin(json.loads((old.path / PLAN).read_text()))
    parts = files_without(old, new, forgotten, told["config"]["layout"])
    for _ in progress(parts, "forget: export", "parts", len(old.parts())):
        pass
    before, index = old.read(["source_id"]), new.read()
    _require_gone(new, before, index, forgotten)
    rows = index.select(["clip_id", "verdict", "prompt"]).to_pylist()
    ok = [row for row in rows if row["verdict"] == "ok"]
    missing = [name for row in ok for name in files_of(row["clip_id"]).values() if not (new.path / name).is_file()]
    if missing:
        raise ArtifactError(f"{new.path / missing[0]} is missing: delete {new.path}, and again")
    new.commit(
        {
            **told,
            "parent": old.named(new.path.parent),
            "inputs": _moved(told["inputs"], clips),
            "prompts_given": sum(bool(row["prompt"]) for row in ok),
            "counts": count_verdicts(len(rows), (row["verdict"] for row in rows)),
            "bytes": sum(total_bytes(new.path / name) for name in ("videos", "pose_videos")),
            "seconds": {**told["seconds"], "total": time.perf_counter() - start},
        }
    )


def _require_gone(new: Artifact, before: Any, index: Any, forgotten: Forgotten) -> None:
    lost = int(pc.sum(forgotten.rows(before)).as_py() or 0)
    if len(before) - lost != len(index) or pc.any(forgotten.rows(index)).as_py():
        raise ArtifactError(
            f"{new.path} has {len(index)} rows, {len(before)} less {lost} are wanted: delete it, and again"
        )


def _moved(inputs: dict[str, Any], clips: dict[str, Location]) -> dict[str, Any]:
    """Where the curation lies now. Its digest stays that of the one which the numbers were made of."""
    for old, new in clips.items():
        if str(inputs["clips"]) in (old, str(location(old).absolute()), str(location(old).parent.absolute())):
            return {**inputs, "clips": str(new.parent.absolute())}
    return inputs
