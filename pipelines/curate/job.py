"""The curate job: sources → packets → measured rows → verdicts → the clips artifact."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ... import __version__
from ...datasets.artifact import Artifact, ArtifactError, exclusive
from ...datasets.clips import COLUMNS, PART_ROWS, MeasuredRows, count_written
from ...datasets.schema import to_table
from ...datasets.storage import Location, relative
from ...datasets.storage.cache import scratch_dir
from ..common.outcomes import warn_first
from ..runtime.runner import Engine, Job, run_packets
from .config import CurateConfig
from .frame_models import annotated_schema
from .ingest import find_sources
from .inputs import Inputs, row_opener
from .networks import MAX_SHOWN, gather_excluded
from .parent import absent_settings, discard_changed_parts, fields_of_versions
from .selection.fingerprints import Fingerprints
from .selection.select import columns_read, select
from .selection.verdicts import Piece, Selection
from .stages import split_meters, stages

_log = logging.getLogger(__name__)


class Measured(NamedTuple):
    """Measured rows, the record's entries on excluded videos, seconds per stage, and decoder counters."""

    rows: MeasuredRows
    excluded: dict[str, Any]
    seconds: dict[str, float]
    decoding: dict[str, int]


def plan(config: CurateConfig, clips: str, out: Location, parent: Location | None = None) -> dict[str, Any]:
    """Return what `run` would do: the number of sources and packets, and how many packets are done."""
    inputs = Inputs(config, clips, find_sources(clips), parent)
    packets, old, left_out = inputs.packets, inputs.parent, inputs.found.left_out
    remaining = Artifact(out / "measured").remaining(packets)
    optional: dict[str, Any] = {"sources_measured_before": len(old.parts), "sources_gone": len(old.gone)} if old else {}
    optional |= {"left_out": left_out.record()} if left_out else {}
    return {"sources": len(inputs.paths), **optional, "packets": len(packets),
            "packets_done": len(packets) - len(remaining), "finished": Artifact(out / "clips").committed,
            "clip_s": (config.num_frames - 1) / config.fps}  # fmt: skip


def run(
    config: CurateConfig, *, clips: str, out: Location, engine: Engine, parent: Location | None = None
) -> dict[str, Any]:
    """Curate `clips` into `out/clips`; return the artifact's record.

    `out/measured` holds the scores of every row, so that another selection needs no video. A finished run returns its
    record; a killed one resumes with the packets that have no part.

    With a `parent` (`--out` of an earlier curation), the measurements of unchanged files are reused if they include all
    scores that these gates read; other sources are measured.

    Raises:
        ArtifactError: no sources, a parent measured with different settings, settings that differ from those of an
            unfinished run in `out`, or another run uses `out`.
        JobStopped: the code or the machine failed.
    """
    found = find_sources(clips)
    if found.left_out:
        print(f"curate: {found.left_out}", file=sys.stderr, flush=True)
    inputs = Inputs(config, clips, found, parent)
    with exclusive(out):
        measured, artifact = Artifact(out / "measured"), Artifact(out / "clips")
        run_plan, absent = inputs.plan(), {"config": absent_settings()}
        measured.begin(run_plan, absent, finished=artifact.committed)
        if artifact.committed:
            return artifact.record()
        start = time.perf_counter()
        done = _measure(inputs, measured, artifact, engine)
        selection, pieces, seen = _select(done.rows, config, inputs.paths)
        _warn_ambiguous_sidecars(seen)
        artifact.begin(run_plan, absent)
        selection.write(artifact, pieces)
        record = _record(inputs, run_plan, artifact, done, selection, seen)
        return artifact.commit(record | {"seconds": {**done.seconds, "total": time.perf_counter() - start}})


def _measure(inputs: Inputs, measured: Artifact, artifact: Artifact, engine: Engine) -> Measured:
    """Measure the sources that have no rows yet, or whose files were replaced since."""
    config, old, packets = inputs.config, inputs.parent, inputs.packets
    working, excluded = _exclude(config, measured.path)
    if replaced := discard_changed_parts(measured, packets):
        artifact.remove_parts()  # verdicts of an earlier attempt on the old files
        words = f"measuring {len(replaced)} sources again because their files were replaced"
        print(f"curate: {words}, first {replaced[0]}", file=sys.stderr, flush=True)
    open_row, schema = row_opener(inputs.sources, inputs.paths), annotated_schema(config.frame_models)
    job = Job(
        name="curate",
        stages=old.stages(stages(config)) if old else stages(config),
        config=working,
        schema=schema,
        open_row=(lambda path: old.open_row(open_row(path))) if old else open_row,
        write_packet=lambda packet, rows: measured.write_part(packet, to_table(rows, schema)),
    )
    seconds, decoding = split_meters(run_packets(job, measured, packets, engine))
    rows = MeasuredRows(measured, [measured.part(packet).name for packet in packets])
    return Measured(rows, excluded, seconds, decoding)


def _record(
    inputs: Inputs, run_plan: dict[str, Any], artifact: Artifact, done: Measured, selection: Selection, seen: pa.Table
) -> dict[str, Any]:
    """Return the record of the written clips, without the seconds."""
    old, out = inputs.parent, artifact.path.parent
    return {
        "kind": "clips",
        "version": __version__,
        "config": run_plan["config"],
        "rules": run_plan["rules"],
        **({"frame_models": inputs.frame_models} if inputs.frame_models else {}),
        "selection": selection.record() | {"measured_gates": run_plan["config"]["gates"]},
        **(
            {"parent": old.record(out, _num_reused_sources(seen)), **fields_of_versions(old.clips.record)}
            if old
            else {}
        ),
        "measured": relative(done.rows.measured.path, out),
        "inputs": {
            "clips": inputs.clips,
            "sources": len(inputs.paths),
            "digest": run_plan["sources"],
            "excluded": inputs.excluded,
            "left_out": inputs.found.left_out.record(),
            **done.excluded,
        },
        "counts": count_written(artifact, len(selection)),
        "pose_models": sorted(pc.unique(seen["pose_model"]).drop_null().to_pylist()),
        "decoding": done.decoding,
    }


def _exclude(config: CurateConfig, measured: Location) -> tuple[CurateConfig, dict[str, Any]]:
    """Return the configuration for workers, with the fingerprints' path, and the record's `excluded_*` entries."""
    if not config.exclude:
        return config, {}
    working, excluded = gather_excluded(config, measured)
    if excluded.unreadable:
        some = [f"  {name}: {why}" for name, why in list(excluded.unreadable.items())[:MAX_SHOWN]]
        more = [f"  and {len(excluded.unreadable) - MAX_SHOWN} more"] if len(excluded.unreadable) > MAX_SHOWN else []
        words = f"curate: {len(excluded.unreadable)} videos of {config.exclude} cannot be compared; matching clips"
        print("\n".join([f"{words} may be accepted:", *some, *more]), file=sys.stderr, flush=True)
    return working, {"excluded_videos": len(excluded.names), "excluded_unreadable": excluded.unreadable}


def _select(
    rows: MeasuredRows, config: CurateConfig, sources: Sequence[str]
) -> tuple[Selection, Iterator[Piece], pa.Table]:
    """Select rows; return the verdicts, the pieces to write, and the columns of `summary_columns`.

    Columns that decide are read once and kept in memory; keypoints and fingerprints are not.
    """
    columns = columns_read(config)
    scope = config.duplicates.scope
    fingerprints = Fingerprints(scope, scratch_dir()) if scope != "off" else None
    summary_columns = ["source_path", "pose_model", "taken_from", "sidecar_note"]
    tables, parts, summaries = [], [], []
    for names, table in rows.tables(
        sorted({*columns, *summary_columns, *(Fingerprints.COLUMNS if fingerprints else ())})
    ):
        if fingerprints:
            fingerprints.add(table)
        tables.append(table.select(columns))
        summaries.append(table.select(summary_columns))
        parts.append((names, len(table)))
    seen = pa.concat_tables(summaries)
    missing = pc.invert(pc.is_in(pa.array(sources, pa.string()), value_set=pc.unique(seen["source_path"])))
    if pc.any(missing).as_py():
        lost = pa.array(sources, pa.string()).filter(missing)
        raise ArtifactError(
            f"{len(lost)} sources have no measured row, first {lost[0]}: delete {rows.measured.path} and curate again"
        )
    groups = fingerprints.groups(config.duplicates.min_common_ratio) if fingerprints else None
    selection = select(lambda: tables, config, groups=groups)
    return selection, _pieces(rows, parts), seen


def _warn_ambiguous_sidecars(seen: pa.Table) -> None:
    """Warn about sidecars that were not used because they may belong to another file."""
    rows = seen.select(["source_path", "sidecar_note"]).filter(seen["sidecar_note"].is_valid())
    notes = {row["source_path"]: row["sidecar_note"] for row in rows.to_pylist()}
    lines = [f"{path}: {note}" for path, note in notes.items()]
    warn_first(_log, lines, "%d more sources have ignored sidecars; see column `sidecar_note`")


def _num_reused_sources(seen: pa.Table) -> int:
    """Count the sources whose measurements were reused from a parent."""
    return len(pc.unique(seen["source_path"].filter(seen["taken_from"].is_valid())))


def _pieces(rows: MeasuredRows, parts: list[tuple[list[str], int]]) -> Iterator[Piece]:
    """Yield the measured rows in pieces of `PART_ROWS` or more; `parts` are names of parts, and their rows."""
    names: list[str] = []
    size = 0
    for k, (more, num_rows) in enumerate(parts):
        names, size = names + more, size + num_rows
        if size >= PART_ROWS or k + 1 == len(parts):
            yield Piece(names, size, partial(rows.read, names, COLUMNS))
            names, size = [], 0
