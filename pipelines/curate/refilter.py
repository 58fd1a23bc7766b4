"""Refilter: select again from stored scores. Reads no video and copies no keypoints."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from ... import __version__
from ...datasets.artifact import Artifact, ArtifactError, exclusive
from ...datasets.clips import COLUMNS, PART_ROWS, Clips, MeasuredRows, count_written, with_columns
from ...datasets.rules import recorded_rules, with_absent
from ...datasets.storage import Location, relative
from ...datasets.storage.cache import require_scratch, scratch_dir
from ...datasets.storage.digests import json_digest
from .config import SELECTION_FIELDS, CurateConfig
from .parent import absent_settings, fields_of_versions, measured_gates
from .selection.fingerprints import Fingerprints
from .selection.overrides import Decisions, read_decisions
from .selection.select import columns_read, select
from .selection.verdicts import Piece, Selection


def change_selection(record: dict[str, Any], changes: dict[str, Any]) -> CurateConfig:
    """Return the configuration of finished clips with other `SELECTION_FIELDS`.

    Args:
        record: of the clips.
        changes: field → value; `gates` and `quotas` are updated, other fields replaced.

    Raises:
        ArtifactError: a value is invalid, or a field affects measurements.
    """
    # A gate that an older version did not know was off, whatever its default is today.
    config = with_absent(record["config"], CurateConfig().model_dump(), absent_settings())
    for name, value in changes.items():
        if name not in SELECTION_FIELDS:
            raise ArtifactError(
                f"{name} affects measurements: run `steadydancer curate --parent`, which reuses what is unchanged"
            )
        config[name] = {**config.get(name, {}), **value} if name in ("gates", "quotas") else value
    try:
        return CurateConfig.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"invalid selection: {place}: {first['msg'].removeprefix('Value error, ')}") from error


def plan(config: CurateConfig, *, clips: Location, out: Location, decisions: Location | None = None) -> dict[str, Any]:
    """Return what `run` would give: counts, the funnel, and the thresholds found for a target."""
    old = Clips(clips)
    selection = _select(old, config, read_decisions(decisions) if decisions else None)
    counts = {"inputs": len(selection), **selection.counts}
    return {
        "clips": str(old.artifact.path),
        "counts": counts,
        "were": old.record["counts"],
        "accepted_by_shape": selection.accepted_by_shape(),
        "funnel": selection.funnel(),
        "target": selection.target,
        "finished": Artifact(out / "clips").committed,
    }


def run(config: CurateConfig, *, clips: Location, out: Location, decisions: Location | None = None) -> dict[str, Any]:
    """Select from `clips` again into `out/clips`, which records its parent; return its record. Resumes after a kill.

    Args:
        config: of the parent with other `SELECTION_FIELDS` (see `change_selection`).
        clips: finished output of `curate` or `refilter`.
        out: another folder.
        decisions: a table of manual decisions.

    Raises:
        ArtifactError: the parent is unfinished, damaged or the same folder, `out` holds an unfinished run with other
            settings, decisions are invalid, or rows do not add up.
    """
    start = time.perf_counter()
    old = Clips(clips)
    artifact = Artifact(out / "clips")
    if artifact.path == old.artifact.path:
        raise ArtifactError(f"{artifact.path} is the input, which refilter never changes: choose another --out")
    table = read_decisions(decisions) if decisions else None
    digest = json_digest(old.record)
    fields = config.model_dump(mode="json", include=set(SELECTION_FIELDS))
    with exclusive(out):
        run_plan = {"selection": fields, "parent": digest, "decisions": table.digest if table else None}
        artifact.begin(run_plan, {"selection": absent_settings()})
        if artifact.committed:
            return artifact.record()
        selection = _select(old, config, table)
        selection.write(artifact, _pieces(old, digest))
        return artifact.commit(
            {
                "kind": "clips",
                "version": __version__,
                "config": config.model_dump(mode="json"),
                # Rules by which the rows were measured; older versions recorded none.
                **recorded_rules(old.record),
                "selection": selection.record()
                | {
                    "measured_gates": measured_gates(old.record).model_dump(mode="json"),
                    "decisions": _decisions_record(table, selection),
                },
                "parent": old.artifact.reference_from(out),
                "measured": relative(old.measured.path, out),
                "inputs": old.record["inputs"],
                "counts": count_written(artifact, old.record["counts"]["inputs"]),
                "pose_models": old.record["pose_models"],
                **fields_of_versions(old.record),
                "seconds": {"total": time.perf_counter() - start},
            }
        )


def _select(old: Clips, config: CurateConfig, decisions: Decisions | None) -> Selection:
    gates = measured_gates(old.record)
    columns = columns_read(config, gates)
    if not old.record.get("selection", {}).get("decisions"):
        columns.remove("detail")  # only needed for notes of manual decisions
    selection = select(
        lambda: old.tables(columns),
        config,
        groups=_groups(old, config),
        measured_gates=gates,
        decisions=decisions,
    )
    expected = old.record["counts"]["inputs"]
    if len(selection) != expected:
        raise ArtifactError(
            f"{old.artifact.path} has {len(selection)} rows, but its record states {expected}: copy it again, or "
            "curate again"
        )
    return selection


def _groups(old: Clips, config: CurateConfig) -> pa.Array | None:
    """Return the groups of near-duplicates if the settings differ from those of the rows; else None."""
    wanted = config.duplicates
    if wanted.scope == "off" or wanted.model_dump() == old.record["config"]["duplicates"]:
        return None
    require_scratch()
    fingerprints = Fingerprints(wanted.scope, scratch_dir())
    for _, table in MeasuredRows(old.measured, old.measured.parts()).tables(list(Fingerprints.COLUMNS)):
        fingerprints.add(table)
    return fingerprints.groups(wanted.min_common_ratio, old.read([fingerprints.key])[fingerprints.key])


def _pieces(old: Clips, digest: str) -> Iterator[Piece]:
    """Yield the rows of the parent, at most `PART_ROWS` per part; `digest` is of its record."""
    for part in old.artifact.parts():
        table = old.artifact.read_part(part)
        for first in range(0, len(table), PART_ROWS):
            rows = table.slice(first, PART_ROWS)
            yield Piece([digest, part, first], len(rows), partial(with_columns, rows, COLUMNS))


def _decisions_record(decisions: Decisions | None, selection: Selection) -> dict[str, Any] | None:
    """Return the record's entry on decisions: the table's digest, and counts that include earlier decisions."""
    counts = selection.decided_counts()
    if decisions is None and not any(counts.values()):
        return None
    file = {"file": decisions.file, "digest": decisions.digest} if decisions else {"file": None, "digest": None}
    return {**file, **counts}
