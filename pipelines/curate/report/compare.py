"""Comparison of two versions of a selection: settings, counts, added and removed clips and sources, scores."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.arrays import Integers
from ....datasets.artifact import ArtifactError
from ....datasets.clips import Clips
from ....datasets.schema import CLIP_SCHEMA
from ....datasets.storage.digests import differences, json_digest
from ...pages.layout import Section, show
from ..selection.gating import numbers
from .funnel import config_of, read_columns, verdict_is

KEYS = ["clip_id", "source_path", "source_id", "verdict", "reason"]
MAX_EXAMPLES = 20
ABSENT = "no such clip"
SCORES = [
    field.name
    for field in CLIP_SCHEMA
    if field.metadata[b"stage"] in (b"shots", b"score", b"pose")
    and (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
    and not field.name.startswith("crop_")
    and field.name not in ("shot_index", "start_s", "end_s", "num_frames")
]


def parent_of(clips: Clips) -> Clips | None:
    """Return the version that a selection was made from; None if there is none or it no longer exists."""
    if clips.parent is None:
        return None
    try:
        before = Clips(clips.parent)
    except ArtifactError:
        return None
    # A version that was deleted and rebuilt in the same folder does not count.
    return before if clips.record["parent"]["digest"] == json_digest(before.record) else None


def compare(old: Clips, new: Clips) -> dict[str, Any]:
    """Compare two finished selections; the result is JSON.

    Clips are matched by content and span (`clip_id`), whatever the path of their file; copies of the same bytes are
    matched in path order. Sources are matched by content.

    Returns:
        `old` and `new` (path, version, counts), `config` (field: old → new), `became_ok` and `ceased_to_be_ok`
        (counts), `moves` (from, to, clips), `examples`, `sources` (added, gone and some of them), `scores` (medians
        of the accepted clips, before and now).
    """
    tables = [clips.read(KEYS) for clips in (old, new)]
    states, names, place = _states(tables)
    first, second = states
    was_ok, is_ok = (np.array([name.startswith("ok") for name in names])[state] for state in states)
    moved = first != second
    pairs, number = np.unique(np.stack([first[moved], second[moved]]), axis=1, return_counts=True)
    order = np.argsort(-number, kind="stable")
    return {
        "old": _named(old),
        "new": _named(new),
        "config": list(differences(_settings(old), _settings(new))),
        "became_ok": int((is_ok & ~was_ok).sum()),
        "ceased_to_be_ok": int((was_ok & ~is_ok).sum()),
        "moves": [{"from": names[pairs[0, k]], "to": names[pairs[1, k]], "clips": int(number[k])} for k in order],
        "examples": {
            "became_ok": _examples(tables, place, np.flatnonzero(is_ok & ~was_ok), names, states),
            "ceased_to_be_ok": _examples(tables, place, np.flatnonzero(was_ok & ~is_ok), names, states),
        },
        "sources": _sources(tables),
        "scores": _scores(old, new),
    }


def _settings(clips: Clips) -> dict[str, Any]:
    return config_of(clips.record).model_dump(mode="json")


def _named(clips: Clips) -> dict[str, Any]:
    return {"path": str(clips.artifact.path), **{name: clips.record[name] for name in ("version", "counts")}}


def _states(tables: list[pa.Table]) -> tuple[list[Integers], list[str], list[Integers]]:
    """Align the clips of both versions.

    Returns:
        the state (verdict and reason) of each clip in both [n], the names of the states, its row in both [n] (−1: none)
    """
    codes = _codes([table["clip_id"] for table in tables])
    ranked = [code + (int(max(c.max(initial=0) for c in codes)) + 1) * _rank(code, table)
              for code, table in zip(codes, tables, strict=True)]  # fmt: skip
    every = np.union1d(*ranked)
    verdicts = [pc.binary_join_element_wise(table["verdict"], table["reason"].fill_null(""), ": ") for table in tables]
    verdict_codes = _codes(verdicts)
    both = pa.chunked_array([*verdicts[0].chunks, *verdicts[1].chunks], type=pa.string())
    names = [str(name).removesuffix(": ") for name in both.unique().to_pylist()]
    states, places = [], []
    for keys, code in zip(ranked, verdict_codes, strict=True):
        state, row = np.full(len(every), len(names)), np.full(len(every), -1)
        at = np.searchsorted(every, keys)
        state[at], row[at] = code, np.arange(len(keys))
        states.append(state)
        places.append(row)
    return states, [*names, ABSENT], places


def _codes(columns: list[pa.ChunkedArray]) -> list[Integers]:
    """Encode text columns as integers with one common code, in the order of first appearance."""
    joined = pa.chunked_array([chunk for column in columns for chunk in column.chunks], type=pa.string())
    codes = joined.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return [codes[: len(columns[0])], codes[len(columns[0]) :]]


def _rank(codes: Integers, table: pa.Table) -> Integers:
    """Rank the rows of each clip_id in path order: 0, 1, …"""
    rank = np.zeros(len(codes), np.int64)
    rows = np.flatnonzero(np.bincount(codes, minlength=1)[codes] > 1)
    paths = table["source_path"].take(pa.array(rows)).to_pylist()
    seen: dict[int, int] = {}
    for row in rows[sorted(range(len(rows)), key=lambda k: paths[k])] if len(rows) else rows:
        code = int(codes[row])
        rank[row] = seen.get(code, 0)
        seen[code] = int(rank[row]) + 1
    return rank


def _examples(
    tables: list[pa.Table], places: list[Integers], found: Integers, names: list[str], states: list[Integers]
) -> list[dict[str, str]]:
    out = []
    for k in found[:MAX_EXAMPLES]:
        table, row = (tables[1], places[1][k]) if places[1][k] >= 0 else (tables[0], places[0][k])
        clip = {name: table[name][int(row)].as_py() for name in ("clip_id", "source_path")}
        out.append({**clip, "from": names[states[0][k]], "to": names[states[1][k]]})
    return out


def _sources(tables: list[pa.Table]) -> dict[str, Any]:
    found = [pc.unique(pc.coalesce(table["source_id"], table["source_path"])) for table in tables]
    out: dict[str, Any] = {}
    for name, ids, others, table in (("added", found[1], found[0], tables[1]), ("gone", found[0], found[1], tables[0])):
        missing = ids.filter(pc.invert(pc.is_in(ids, value_set=others)))
        some = pc.is_in(pc.coalesce(table["source_id"], table["source_path"]), value_set=missing[:MAX_EXAMPLES])
        out[name] = len(missing)
        out[f"{name}_examples"] = sorted(set(table["source_path"].filter(some).to_pylist()))[:MAX_EXAMPLES]
    return out


def _scores(old: Clips, new: Clips) -> list[dict[str, Any]]:
    before, now = _medians(old), _medians(new)
    return [
        {"score": name, "unit": CLIP_SCHEMA.field(name).metadata[b"unit"].decode(), "old": before[name][0],
         "new": now[name][0], "old_measured": before[name][1], "new_measured": now[name][1]}
        for name in SCORES
        if before[name][1] or now[name][1]
    ]  # fmt: skip


def _medians(clips: Clips) -> dict[str, tuple[float | None, int]]:
    """Return score → (median, count) over the accepted clips that have it; reads a few columns at a time."""
    accepted = verdict_is(clips.read(["verdict"]), "ok")
    out: dict[str, tuple[float | None, int]] = {}
    for start in range(0, len(SCORES), 8):
        table = read_columns(clips, SCORES[start : start + 8])
        for name in table.column_names:
            values = numbers(table[name])[accepted]
            known = values[~np.isnan(values)]
            out[name] = (float(np.median(known)) if len(known) else None, len(known))
    return out


def sections(found: dict[str, Any]) -> list[Section]:
    """Return the comparison as sections of an HTML page."""
    old, new, sources = found["old"], found["new"], found["sources"]
    counts = [[name, old["counts"][name], new["counts"][name], new["counts"][name] - old["counts"][name]]
              for name in new["counts"]]  # fmt: skip
    text = (
        f"Parent: {old['path']} ({old['version']}). {show(found['became_ok'])} clips became ok, "
        f"{show(found['ceased_to_be_ok'])} are no longer ok; {show(sources['added'])} sources were added, "
        f"{show(sources['gone'])} removed.\n" + "\n".join(found["config"] or ["The settings are the same."])
    )
    moves = [[move["from"], move["to"], move["clips"]] for move in found["moves"]]
    shifts = [
        [row["score"], row["old"], row["new"], row["unit"]] for row in found["scores"] if row["old"] != row["new"]
    ]
    return [
        Section("Changes from the parent version", text, head=["", "before", "now", "difference"], rows=counts),
        Section(
            "Clips with another verdict or reason", "" if moves else "None.", head=["from", "to", "clips"], rows=moves
        ),
        Section(
            "Changed medians of accepted clips",
            "" if shifts else "None.",
            head=["score", "before", "now", "unit"],
            rows=shifts,
        ),
    ]


def to_text(found: dict[str, Any]) -> str:
    """Return the comparison as text for a terminal."""
    old, new, sources = found["old"], found["new"], found["sources"]
    lines = [f"{old['path']} ({old['version']}) → {new['path']} ({new['version']})", "\nsettings"]
    lines += [f"  {change}" for change in found["config"]] or ["  unchanged"]
    lines += ["\ncounts"]
    for name, number in new["counts"].items():
        lines.append(f"  {name:12} {old['counts'][name]:>10} → {number:>10}  {number - old['counts'][name]:+d}")
    lines += [f"\nclips: {found['became_ok']} became ok, {found['ceased_to_be_ok']} are no longer ok"]
    lines += [f"  {move['clips']:>10}  {move['from']} → {move['to']}" for move in found["moves"]]
    for name, examples in found["examples"].items():
        lines += [f"  {name.replace('_', ' ')}: {one['clip_id']} {one['source_path']}" for one in examples[:5]]
    lines += [f"\nsources: {sources['added']} added, {sources['gone']} removed"]
    lines += [f"  added: {path}" for path in sources["added_examples"][:5]]
    lines += [f"  removed: {path}" for path in sources["gone_examples"][:5]]
    shifts = [row for row in found["scores"] if row["old"] != row["new"]]
    lines += ["\nchanged medians of accepted clips"] if shifts else []
    lines += [
        f"  {row['score']:24} {_format_value(row['old'])} → {_format_value(row['new'])} {row['unit']}" for row in shifts
    ]
    return "\n".join(lines)


def _format_value(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
