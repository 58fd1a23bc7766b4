"""The curate job: sources → packets → measured rows → verdicts → the clips artifact."""

import logging
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ... import __version__
from ...datasets.artifact import Artifact, ArtifactError, Packet, exclusive, plan_packets
from ...datasets.clips import COLUMNS, PART_ROWS, MeasuredRows, clips_packet, count_written
from ...datasets.digests import content_digest, json_digest
from ...datasets.node_cache import require_scratch, scratch
from ...datasets.rules import versions
from ...datasets.schema import CLIP_SCHEMA, Row, to_table
from ...datasets.storage import Location, location, relative
from ..runner import Engine, Job, run_packets
from ..verdicts import warn_first
from .config import CurateConfig
from .ingest import find_sources, sources_digest
from .networks import MOST_SHOWN, files_of_excluded, gather_excluded, load_excluded
from .selection.fingerprints import Fingerprints
from .selection.select import columns_read, select
from .selection.verdicts import Selection
from .steps import open_source
from .takeover import RULES_READ, Parent, absent_settings, forgotten_in, reopen_changed
from .walk import stages, told_apart

_log = logging.getLogger(__name__)


def plan(config: CurateConfig, clips: str, out: Location, parent: Location | None = None) -> dict[str, Any]:
    """What `run` would do: number of sources, packets, and how many of them are done."""
    found = find_sources(clips)
    sources = found.table
    packets = plan_packets(paths_of(sources), config.packet_size)
    remaining = Artifact(out / "measured").remaining(packets)
    _require_what_is_needed(config)
    excluded = content_digest(location(config.exclude)) if config.exclude and parent else None
    old = Parent.of(parent, config, sources["source_path"], excluded) if parent else None
    taken: dict[str, Any] = {"sources_measured_before": len(old.parts), "sources_gone": len(old.gone)} if old else {}
    taken |= {"left_out": found.left_out.record()} if found.left_out else {}
    return {"sources": len(sources), **taken, "packets": len(packets), "packets_done": len(packets) - len(remaining),
            "finished": Artifact(out / "clips").committed, "clip_s": (config.num_frames - 1) / config.fps}  # fmt: skip


def run(
    config: CurateConfig, *, clips: str, out: Location, engine: Engine, parent: Location | None = None
) -> dict[str, Any]:
    """Curate `clips` into `out/clips`; returns the artifact's record.

    `out/measured` holds the scores of every row, so that another selection needs no video. A finished run returns its
    record; one that was killed goes on with the packets that have no part.

    With a `parent` (what `curate --out` was given before), sources whose files are the same and whose rows have all
    that these gates look at are taken over from it; the others are measured.

    Raises:
        ArtifactError: no sources, a parent that was measured in another way, other settings than the folder was begun
            with, or another run holds it.
        JobStopped: the code or the machine failed on the way.
    """
    found = find_sources(clips)
    sources, paths = found.table, paths_of(found.table)
    if found.left_out:
        print(f"curate: {found.left_out}", file=sys.stderr, flush=True)
    _require_what_is_needed(config)
    excluded = content_digest(location(config.exclude)) if config.exclude else None
    old = Parent.of(parent, config, sources["source_path"], excluded) if parent else None
    with exclusive(out):
        measured, artifact = Artifact(out / "measured"), Artifact(out / "clips")
        begun: dict[str, Any] = {
            "config": config.model_dump(mode="json"),
            "sources": sources_digest(sources),
            "num_sources": len(paths),
            "rules": versions(*RULES_READ),
        }
        if excluded:
            begun["excluded"] = excluded
        if old:
            begun["parent"] = json_digest(old.clips.record)
        absent = {"config": absent_settings()}
        measured.begin(begun, absent, finished=artifact.committed)
        if artifact.committed:
            return artifact.record()
        start = time.perf_counter()
        working, told = _exclude(config, measured.path)
        packets = plan_packets(paths, config.packet_size)
        if replaced := reopen_changed(measured, packets):
            artifact.take_back_parts()  # verdicts that an attempt gave to what was measured of the old files
            words = f"{len(replaced)} sources were replaced since they were measured and are measured again"
            print(f"curate: {words}, first {replaced[0]}", file=sys.stderr, flush=True)
        open_row = opener(sources, paths)
        job = Job(
            name="curate",
            stages=old.stages(stages(config)) if old else stages(config),
            config=working,
            schema=CLIP_SCHEMA,
            open_row=(lambda path: old.open_row(open_row(path))) if old else open_row,
            write_packet=lambda packet, rows: measured.write_part(packet, to_table(rows)),
        )
        seconds, decoding = told_apart(run_packets(job, measured, packets, engine))
        rows = MeasuredRows(measured, [measured.part(packet).name for packet in packets])
        selection, parts, seen = _select(rows, config, paths)
        _warn(seen)
        artifact.begin(begun, absent)
        _write(artifact, selection, rows, parts)
        return artifact.commit(
            {
                "kind": "clips",
                "version": __version__,
                "config": begun["config"],
                "rules": begun["rules"],
                "selection": selection.told() | {"measured_gates": begun["config"]["gates"]},
                **({"parent": old.told(out, _num_taken(seen)), **forgotten_in(old.clips.record)} if old else {}),
                "measured": relative(measured.path, out),
                "inputs": {
                    "clips": clips,
                    "sources": len(paths),
                    "digest": begun["sources"],
                    "excluded": excluded,
                    "left_out": found.left_out.record(),
                    **told,
                },
                "counts": count_written(artifact, len(selection)),
                "pose_models": sorted(pc.unique(seen["pose_model"]).drop_null().to_pylist()),
                "decoding": decoding,
                "seconds": {**seconds, "total": time.perf_counter() - start},
            }
        )


def _require_what_is_needed(config: CurateConfig) -> None:
    """Find what would stop the run at its end, or where it cannot be told from a fault.

    Raises:
        SteadyDancerError: there is no excluded set, or no folder for the file in which copies are looked for.
    """
    if config.exclude:
        place = location(config.exclude)
        if not place.exists():
            raise ArtifactError(
                f"exclude: {config.exclude} does not exist: give a folder of videos, or an .npz of theirs"
            )
        if place.suffix.lower() == ".npz" and place.is_file():
            load_excluded(place, config.fps)
        if not files_of_excluded(place):
            raise ArtifactError(
                f"exclude: {config.exclude} holds no file: give a folder of videos, or an .npz of theirs"
            )
    if config.duplicates.scope != "off":
        require_scratch()


def _exclude(config: CurateConfig, measured: Location) -> tuple[CurateConfig, dict[str, Any]]:
    """The configuration for workers, with the excluded videos at hand, and what the record says of these."""
    if not config.exclude:
        return config, {}
    working, excluded = gather_excluded(config, measured)
    if excluded.unreadable:
        some = [f"  {name}: {why}" for name, why in list(excluded.unreadable.items())[:MOST_SHOWN]]
        more = [f"  and {len(excluded.unreadable) - MOST_SHOWN} more"] if len(excluded.unreadable) > MOST_SHOWN else []
        words = f"curate: {len(excluded.unreadable)} videos of {config.exclude} cannot be looked for, and clips of them"
        print("\n".join([f"{words} may be accepted:", *some, *more]), file=sys.stderr, flush=True)
    return working, {"excluded_videos": len(excluded.names), "excluded_unreadable": excluded.unreadable}


def paths_of(sources: pa.Table) -> list[str]:
    """The column `source_path`."""
    return list(map(str, sources["source_path"].to_pylist()))


def opener(sources: pa.Table, paths: Sequence[str]) -> Callable[[str], Row]:
    """Path → the row with which a source begins its walk, with what a manifest says of it; `paths` are sorted."""

    def open_row(path: str) -> Row:
        (said,) = sources.slice(bisect_left(paths, path), 1).to_pylist()
        return {**said, **open_source(path)}

    return open_row


def _select(
    rows: MeasuredRows, config: CurateConfig, sources: Sequence[str]
) -> tuple[Selection, list[tuple[list[str], int]], pa.Table]:
    """Verdicts of all rows, how many there are in which parts, and of each its source, pose model and `taken_from`.

    What decides is read once and held; keypoints and fingerprints are not.
    """
    columns = columns_read(config)
    scope = config.duplicates.scope
    fingerprints = Fingerprints(scope, scratch()) if scope != "off" else None
    told = ["source_path", "pose_model", "taken_from", "sidecar_note"]
    tables, parts, few = [], [], []
    for names, table in rows.tables(sorted({*columns, *told, *(Fingerprints.COLUMNS if fingerprints else ())})):
        if fingerprints:
            fingerprints.add(table)
        tables.append(table.select(columns))
        few.append(table.select(told))
        parts.append((names, len(table)))
    seen = pa.concat_tables(few)
    missing = pc.invert(pc.is_in(pa.array(sources, pa.string()), value_set=pc.unique(seen["source_path"])))
    if pc.any(missing).as_py():
        lost = pa.array(sources, pa.string()).filter(missing)
        raise ArtifactError(f"{len(lost)} sources have no row, first {lost[0]}: delete {rows.measured.path}")
    groups = fingerprints.groups(config.duplicates.min_common_ratio) if fingerprints else None
    selection = select(lambda: tables, config, groups=groups)
    return selection, parts, seen


def _warn(seen: pa.Table) -> None:
    """Name the sidecars that were not taken because another file may be meant."""
    rows = seen.select(["source_path", "sidecar_note"]).filter(seen["sidecar_note"].is_valid())
    notes = {row["source_path"]: row["sidecar_note"] for row in rows.to_pylist()}
    lines = [f"{path}: {note}" for path, note in notes.items()]
    warn_first(_log, lines, "and beside %d more sources; each row's `sidecar_note` tells it")


def _num_taken(seen: pa.Table) -> int:
    """Sources that were taken over from a parent."""
    return len(pc.unique(seen["source_path"].filter(seen["taken_from"].is_valid())))


def _write(artifact: Artifact, selection: Selection, rows: MeasuredRows, parts: list[tuple[list[str], int]]) -> None:
    """Write what is not there yet of the rows with their verdicts, in parts of like size."""
    start = index = 0
    names: list[str] = []
    size = 0
    for k, (more, num_rows) in enumerate(parts):
        names, size = names + more, size + num_rows
        if size < PART_ROWS and k + 1 < len(parts):
            continue
        packet: Packet = clips_packet(index, names)
        if not artifact.part(packet).is_file():
            artifact.write_part(packet, selection.apply(rows.read(names, COLUMNS), start))
        start, index, names, size = start + size, index + 1, [], 0
