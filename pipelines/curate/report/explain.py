"""Explain one clip: its source, every score with its gates, its keypoints, its copies and its verdict."""

import difflib
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .... import SteadyDancerError
from ....datasets.artifact_lookup import find_artifact
from ....datasets.clips import COLUMNS, Clips
from ....datasets.schema import CLIP_SCHEMA, CROP_COLUMNS, Row, columns_of
from ....datasets.storage import Location, is_address
from ..config import SHAPES
from ..gates import CHEAP_GATES
from ..selection.gating import Bounds, shapes_of, values_of
from .compare import parent_of
from .funnel import bounds_text, config_of, meaning_of, read_columns

NAME_COLUMNS = ["clip_id", "source_path", "source_id"]
BRIEF_COLUMNS = ["clip_id", "source_path", "start_s", "end_s", "verdict", "reason"]
VERDICT_COLUMNS = ("verdict", "reason", "detail")
MAX_COPIES, MAX_NEAR, MAX_CANDIDATES = 12, 5, 20_000
NO_SCORES = (
    *CROP_COLUMNS,
    "clip_id",
    "shot_index",
    "start_s",
    "end_s",
    "num_frames",
    "fingerprint",
    "pose",
    "pose_digest",
)


def find_rows(clips: Clips, wanted: str) -> list[int]:
    """Find rows by clip_id, path, source_id or file name, or by the beginning of an id.

    Raises:
        SteadyDancerError: no row matches; the message lists similar names.
    """
    table = clips.read(NAME_COLUMNS)
    path = wanted if is_address(wanted) else str(Path(wanted).absolute())
    tries = (
        pc.equal(table["clip_id"], wanted),
        pc.or_(pc.equal(table["source_path"], wanted), pc.equal(table["source_path"], path)),
        pc.equal(table["source_id"], wanted),
        pc.ends_with(table["source_path"], f"/{wanted}"),
        pc.starts_with(table["clip_id"], wanted),
        pc.starts_with(table["source_id"], wanted),
    )
    for found in tries if wanted else ():
        rows = np.flatnonzero(pc.fill_null(found, False).to_numpy())
        if len(rows):
            return [int(row) for row in rows]
    near = _near(table, wanted)
    raise SteadyDancerError(
        f"{clips.artifact.path} has no clip, source or file {wanted!r}"
        + (f"; similar: {', '.join(near)}" if near else "")
        + ". Pass a clip_id (or its beginning), a path, a file name or a source_id"
    )


def _near(table: pa.Table, wanted: str) -> list[str]:
    """Return names spelled like `wanted`; of very many, only those with the same beginning or end are compared."""
    names = pc.unique(pc.replace_substring_regex(table["source_path"], r"^.*/", ""))
    every = pa.concat_arrays([table["clip_id"].unique(), names])
    if len(every) > MAX_CANDIDATES:
        name = PurePath(wanted)
        similar = pc.or_(pc.starts_with(every, wanted[:3]), pc.ends_with(every, name.stem[-3:] + name.suffix))
        every = every.filter(similar)
    return difflib.get_close_matches(PurePath(wanted).name, every[:MAX_CANDIDATES].to_pylist(), MAX_NEAR)


def summarise_rows(clips: Clips, rows: list[int]) -> list[Row]:
    """Return the columns by which a user chooses among several rows."""
    found: list[Row] = clips.read(BRIEF_COLUMNS).take(rows).to_pylist()
    return found


def explain_clip(clips: Clips, index: int, latents: Location | None = None) -> dict[str, Any]:
    """Explain one row; the result is JSON.

    Args:
        clips: the finished selection.
        index: of the row.
        latents: a finished cache, to locate its sample in the shards.

    Returns:
        `source`, `clip` and `verdict` (columns by name), `scores` (each with unit, meaning, gates), `unmeasured`
        (gates), `pose_was_not_looked_for`, `keypoints`, `copies`, `versions` (the verdict in this version and its
        parents), `latents`, `made_by`.
    """
    table = _row(clips, index)
    (row,) = table.to_pylist()
    return {
        "source": {name: row[name] for name in (*columns_of("ingest"), *columns_of("probe"))},
        "clip": {name: row[name] for name in ("clip_id", "shot_index", "start_s", "end_s", "num_frames")},
        "scores": list(_scores(table, row, Bounds.of(config_of(clips.record)))),
        "pose_was_not_looked_for": row["pose_model"] is None and row["reason"] in CHEAP_GATES,
        "unmeasured": row["unmeasured"].split(",") if row["unmeasured"] else [],
        "keypoints": None
        if row["pose_digest"] is None
        else {
            "model": row["pose_model"],
            "digest": row["pose_digest"],
            "part": str(clips.measured.path / row["measured_part"]),
        },
        "copies": _copies(clips, row),
        "verdict": {**{name: row[name] for name in VERDICT_COLUMNS}, "meaning": meaning_of(row["reason"])},
        "versions": list(_versions(clips, row)),
        "latents": None if latents is None else _in_latents(latents, row["clip_id"]),
        "made_by": f"SteadyDancer {clips.record['version']}",
    }


def _row(clips: Clips, index: int) -> pa.Table:
    """Read one row, a few columns at a time: all columns of a million rows are a gigabyte."""
    columns: dict[str, pa.Array] = {}
    for start in range(0, len(COLUMNS), 12):
        part = read_columns(clips, COLUMNS[start : start + 12]).slice(index, 1)
        columns |= {name: part[name].combine_chunks() for name in part.column_names}
    return pa.table(columns)


def _scores(table: pa.Table, row: Row, bounds: Bounds) -> Iterator[dict[str, Any]]:
    """Yield every score with its gates, first the shorter side of the picture."""
    shape = int(shapes_of(table)[0])
    side = values_of(table, "side_px")[0]
    scores: list[tuple[str, Any, str, str]] = [
        ("side_px", None if np.isnan(side) else int(side), "px", "shorter side of the picture inside its borders")
    ]
    for field in CLIP_SCHEMA:
        unit, stage, meaning = (field.metadata[key].decode() for key in (b"unit", b"stage", b"meaning"))
        if stage in ("shots", "score", "pose") and field.name not in NO_SCORES:
            scores.append((field.name, row[field.name], unit, meaning))
    for name, value, unit, meaning in scores:
        gates = list(_gates(table, bounds, name, shape))
        yield {"score": name, "value": value, "unit": unit, "meaning": meaning, "gates": gates}


def _gates(table: pa.Table, bounds: Bounds, column: str, shape: int) -> Iterator[dict[str, Any]]:
    """Yield the gates on a column: threshold, whether the clip passes (None: not measured) and by how much."""
    for index, gate in enumerate(bounds.gates):
        bound = float(bounds.values[index][shape])
        if bounds.columns[index] != column or np.isnan(bound):
            continue
        value = float(values_of(table, column)[0])
        margin = value - bound if bounds.sides[index] == "min" else bound - value
        known = not np.isnan(value)
        words = bounds_text(bounds.sides[index], [bound]) + (
            f" for {SHAPES[shape]} pictures" if np.ptp(np.nan_to_num(bounds.values[index], nan=-1)) else ""
        )
        yield {"gate": gate, "asks": words, "passes": margin >= 0 if known else None, "by": margin if known else None}


def _copies(clips: Clips, row: Row) -> dict[str, Any]:
    """Return the other rows with the same bytes and span or the same group, and the accepted ones of them all."""
    table = clips.read(["duplicate_group", *BRIEF_COLUMNS])
    same = pc.equal(table["clip_id"], row["clip_id"])
    if row["duplicate_group"] is not None:
        same = pc.or_(same, pc.fill_null(pc.equal(table["duplicate_group"], row["duplicate_group"]), False))
    rows = table.filter(same).to_pylist()
    others = [one for one in rows if one["source_path"] != row["source_path"]]
    kept = sorted({one["source_path"] for one in rows if one["verdict"] == "ok"})
    return {
        "group": row["duplicate_group"],
        "others": len(others),
        "some": [{name: one[name] for name in BRIEF_COLUMNS} for one in others[:MAX_COPIES]],
        "kept": kept[:MAX_COPIES],
    }


def _versions(clips: Clips, row: Row) -> Iterator[dict[str, Any]]:
    """Yield the verdict in this version and its parents, newest first; null where the clip has no row."""
    version: Clips | None = clips
    while version is not None:
        table = version.read(["clip_id", "source_path", *VERDICT_COLUMNS])
        same = pc.and_(pc.equal(table["clip_id"], row["clip_id"]), pc.equal(table["source_path"], row["source_path"]))
        found = table.filter(same).to_pylist()
        verdict = {name: found[0][name] if found else None for name in VERDICT_COLUMNS}
        yield {"path": str(version.artifact.path), "made_by": f"SteadyDancer {version.record['version']}", **verdict}
        version = parent_of(version)


def _in_latents(latents: Location, clip_id: str) -> dict[str, Any]:
    """Locate a clip's sample in a cache: its shard, and offset and size of each member."""
    artifact = find_artifact(latents, "latents")
    table = artifact.read(["clip_id", "verdict", "reason", "detail", "shard", "members"])
    found = table.filter(pc.equal(table["clip_id"], clip_id)).to_pylist()
    return {"path": str(artifact.path), **(found[0] if found else {"clip_id": clip_id, "verdict": None, "shard": None})}
