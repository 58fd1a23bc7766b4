"""One clip's whole story, in the order of its walk: where it came from, what was measured, why it was kept or not."""

import difflib
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .... import SteadyDancerError
from ....datasets.artifact import Artifact
from ....datasets.clips import COLUMNS, Clips
from ....datasets.schema import CLIP_SCHEMA, Row, columns_of
from ....datasets.storage import Location, is_address
from ..config import CHEAP_GATES, SHAPES
from ..selection.judgement import Bounds, values_of
from .compare import parent_of
from .funnel import bound_words, config_of, meaning_of, read_columns, shapes_of

NAMES = ["clip_id", "source_path", "source_id"]
BRIEF = ["clip_id", "source_path", "start_s", "end_s", "verdict", "reason"]
SAID = ("verdict", "reason", "detail")
MAX_COPIES, MAX_NEAR, MAX_CANDIDATES = 12, 5, 20_000
NO_SCORES = (
    *(name for name in COLUMNS if name.startswith("crop_")),
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
    """Rows that a person may mean: by clip_id, path, digest or name of the source, or the beginning of an id.

    Raises:
        SteadyDancerError: there is none; the message names what is written most alike.
    """
    table = clips.read(NAMES)
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
        f"{clips.artifact.path} holds no clip, source or file {wanted!r}"
        + (f"; near it: {', '.join(near)}" if near else "")
        + ". A clip_id (or its beginning), a path, a file's name or a source_id is wanted"
    )


def _near(table: pa.Table, wanted: str) -> list[str]:
    """What is written alike; among very many names only those that begin or end alike are looked at."""
    names = pc.unique(pc.replace_substring_regex(table["source_path"], r"^.*/", ""))
    every = pa.concat_arrays([table["clip_id"].unique(), names])
    if len(every) > MAX_CANDIDATES:
        name = PurePath(wanted)
        alike = pc.or_(pc.starts_with(every, wanted[:3]), pc.ends_with(every, name.stem[-3:] + name.suffix))
        every = every.filter(alike)
    return difflib.get_close_matches(PurePath(wanted).name, every[:MAX_CANDIDATES].to_pylist(), MAX_NEAR)


def brief(clips: Clips, rows: list[int]) -> list[Row]:
    """A few words on rows, for choosing among them."""
    found: list[Row] = clips.read(BRIEF).take(rows).to_pylist()
    return found


def tell(clips: Clips, index: int, latents: Location | None = None) -> dict[str, Any]:
    """The story of one row, as JSON.

    Args:
        clips: the finished selection.
        index: of the row.
        latents: a finished cache, to say where its sample lies.

    Returns:
        `source`, `clip` and `verdict` (columns by name), `scores` (each with unit, meaning, gates), `unmeasured`
        (gates), `pose_was_not_looked_for`, `keypoints`, `copies`, `versions` (the verdict here and in the versions
        before), `latents`, `made_by`.
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
        "verdict": {**{name: row[name] for name in SAID}, "meaning": meaning_of(row["reason"])},
        "versions": list(_versions(clips, row)),
        "latents": None if latents is None else _in_latents(latents, row["clip_id"]),
        "made_by": f"SteadyDancer {clips.record['version']}",
    }


def _row(clips: Clips, index: int) -> pa.Table:
    """One row with all its columns, which are read a few at a time: of a million rows all would be a gigabyte."""
    columns: dict[str, pa.Array] = {}
    for start in range(0, len(COLUMNS), 12):
        part = read_columns(clips, COLUMNS[start : start + 12]).slice(index, 1)
        columns |= {name: part[name].combine_chunks() for name in part.column_names}
    return pa.table(columns)


def _scores(table: pa.Table, row: Row, bounds: Bounds) -> Iterator[dict[str, Any]]:
    """Every score with what the gates that look at it ask, first the picture's shorter side."""
    shape = int(shapes_of(table)[0])
    side = values_of(table, "side_px")[0]
    told: list[tuple[str, Any, str, str]] = [
        ("side_px", None if np.isnan(side) else int(side), "px", "shorter side of the picture inside its borders")
    ]
    for field in CLIP_SCHEMA:
        unit, stage, meaning = (field.metadata[key].decode() for key in (b"unit", b"stage", b"meaning"))
        if stage in ("shots", "score", "pose") and field.name not in NO_SCORES:
            told.append((field.name, row[field.name], unit, meaning))
    for name, value, unit, meaning in told:
        gates = list(_gates(table, bounds, name, shape))
        yield {"score": name, "value": value, "unit": unit, "meaning": meaning, "gates": gates}


def _gates(table: pa.Table, bounds: Bounds, column: str, shape: int) -> Iterator[dict[str, Any]]:
    """What each gate on a column asks; whether the clip passes (None: not measured), and by how much."""
    for index, gate in enumerate(bounds.gates):
        bound = float(bounds.values[index][shape])
        if bounds.columns[index] != column or np.isnan(bound):
            continue
        value = float(values_of(table, column)[0])
        margin = value - bound if bounds.sides[index] == "min" else bound - value
        known = not np.isnan(value)
        words = bound_words(bounds.sides[index], [bound]) + (
            f" for {SHAPES[shape]} pictures" if np.ptp(np.nan_to_num(bounds.values[index], nan=-1)) else ""
        )
        yield {"gate": gate, "asks": words, "passes": margin >= 0 if known else None, "by": margin if known else None}


def _copies(clips: Clips, row: Row) -> dict[str, Any]:
    """Other rows of the same bytes and span, or of the same group, and which of all was kept."""
    table = clips.read(["duplicate_group", *BRIEF])
    same = pc.equal(table["clip_id"], row["clip_id"])
    if row["duplicate_group"] is not None:
        same = pc.or_(same, pc.fill_null(pc.equal(table["duplicate_group"], row["duplicate_group"]), False))
    rows = table.filter(same).to_pylist()
    others = [one for one in rows if one["source_path"] != row["source_path"]]
    kept = sorted({one["source_path"] for one in rows if one["verdict"] == "ok"})
    return {
        "group": row["duplicate_group"],
        "others": len(others),
        "some": [{name: one[name] for name in BRIEF} for one in others[:MAX_COPIES]],
        "kept": kept[:MAX_COPIES],
    }


def _versions(clips: Clips, row: Row) -> Iterator[dict[str, Any]]:
    """The verdict on this clip here and in the versions before, the newest first; null where it had no row."""
    version: Clips | None = clips
    while version is not None:
        table = version.read(["clip_id", "source_path", *SAID])
        same = pc.and_(pc.equal(table["clip_id"], row["clip_id"]), pc.equal(table["source_path"], row["source_path"]))
        found = table.filter(same).to_pylist()
        said = {name: found[0][name] if found else None for name in SAID}
        yield {"path": str(version.artifact.path), "made_by": f"SteadyDancer {version.record['version']}", **said}
        version = parent_of(version)


def _in_latents(latents: Location, clip_id: str) -> dict[str, Any]:
    """Where a clip's sample lies in a cache: its shard, and offset and size of each member."""
    artifact = Artifact(latents / "latents" if (latents / "latents").is_dir() else latents)
    artifact.record()  # it must be finished
    table = artifact.read(["clip_id", "verdict", "reason", "detail", "shard", "members"])
    found = table.filter(pc.equal(table["clip_id"], clip_id)).to_pylist()
    return {"path": str(artifact.path), **(found[0] if found else {"clip_id": clip_id, "verdict": None, "shard": None})}


def to_text(story: dict[str, Any]) -> str:
    """The story as lines for a terminal."""
    parts = [_told_source(story), _told_scores(story), _told_verdict(story), _told_latents(story)]
    return "\n".join(line for part in parts for line in part)


def _told_source(story: dict[str, Any]) -> Iterator[str]:
    source, clip = story["source"], story["clip"]
    yield f"clip {clip['clip_id']}: {story['verdict']['verdict']}"
    yield "\nsource"
    yield f"  path       {source['source_path']}"
    yield f"  digest     {source['source_id'] or 'none: it could not be read'}"
    yield f"  origin     {source['origin'] or 'unknown'}"
    yield f"  licence    {source['licence'] or 'unknown'}"
    if source["codec"]:
        yield (
            f"  video      {source['codec']}, {source['width']} × {source['height']} px, {source['fps']:.4g} a second, "
            f"{source['duration_s']:.4g} s, {source['num_source_frames']} frames, {source['source_bytes']} bytes"
            + (f", turned by {source['rotation_deg']}°" if source["rotation_deg"] else "")
        )
    if source["prompt"]:
        yield f"  caption    {source['prompt']}"
    if clip["start_s"] is not None:
        span = f"{clip['start_s']:.3f} to {clip['end_s']:.3f} s, {clip['num_frames']} frames"
        yield f"\nshot {clip['shot_index']}, {span}"


def _told_scores(story: dict[str, Any]) -> Iterator[str]:
    yield "\nscores"
    unknown = [score for score in story["scores"] if score["value"] is None]
    for score in story["scores"]:
        if score["value"] is not None:
            value = f"{score['value']:.4g}" if isinstance(score["value"], float) else str(score["value"])
            asked = [_told_gate(gate) for gate in score["gates"]] or [""]
            yield f"  {score['score']:22} {value:>12} {score['unit']:18} {asked[0]:34} {score['meaning']}"
            yield from (f"  {'':54} {more}" for more in asked[1:])
    if story["pose_was_not_looked_for"]:
        yield f"\nthe pose was not looked for: {story['verdict']['reason']} had refused the clip before"
    yield "\nnot measured"
    for score in unknown:
        gates = ", ".join(gate["gate"] for gate in score["gates"])
        yield f"  {score['score']:22} {f'{gates} could not be asked: ' if gates else ''}{score['meaning']}"


def _told_gate(gate: dict[str, Any]) -> str:
    return f"{'passes' if gate['passes'] else 'REFUSED'}: {gate['asks']}, by {abs(gate['by']):.3g}"


def _told_verdict(story: dict[str, Any]) -> Iterator[str]:
    copies, keypoints, verdict = story["copies"], story["keypoints"], story["verdict"]
    yield "\nkeypoints"
    yield f"  {keypoints['model']}, {keypoints['digest']}, in {keypoints['part']}" if keypoints else "  none"
    if copies["others"]:
        yield f"\ncopies: {copies['others']} other rows show the same; kept: {', '.join(copies['kept']) or 'none'}"
        for one in copies["some"]:
            yield f"  {one['clip_id']} {one['source_path']}: {one['verdict']} {one['reason'] or ''}"
    yield "\nverdict"
    yield f"  {verdict['verdict']}" + (f": {verdict['reason']} ({verdict['detail']})" if verdict["reason"] else "")
    if verdict["meaning"]:
        yield f"  {verdict['reason']}: {verdict['meaning']}"
    for version in story["versions"]:
        said = " ".join(version[name] for name in ("verdict", "reason") if version[name]) or "no such clip"
        yield f"  in {version['path']} ({version['made_by']}): {said}"


def _told_latents(story: dict[str, Any]) -> Iterator[str]:
    latents = story["latents"]
    if latents is None:
        return
    yield f"\nlatents: {latents['path']}"
    if latents["shard"] is None:
        yield f"  not in it{': ' + latents['reason'] if latents.get('reason') else ''}"
        return
    yield f"  shards/{latents['shard']}"
    for member in latents["members"]:
        yield f"    {member['name']:26} at {member['offset']}, {member['size']} bytes, crc32 {member['crc32']:08x}"
