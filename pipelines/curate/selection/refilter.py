"""Refilter: another selection of what was measured. No video is touched, and no keypoints are copied."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from .... import __version__
from ....datasets.artifact import Artifact, ArtifactError, exclusive
from ....datasets.clips import COLUMNS, PART_ROWS, Clips, MeasuredRows, count_written, with_columns
from ....datasets.rules import said_in, with_absent
from ....datasets.storage import Location, relative
from ....datasets.storage.cache import require_scratch, scratch
from ....datasets.storage.digests import json_digest
from ..config import SELECTION_FIELDS, CurateConfig
from ..parent import absent_settings, forgotten_fields, measured_gates
from .fingerprints import Fingerprints
from .overrides import Decisions, read_decisions
from .select import columns_read, select
from .verdicts import Piece, Selection


def change_selection(record: dict[str, Any], changes: dict[str, Any]) -> CurateConfig:
    """The configuration of finished clips with other `SELECTION_FIELDS`.

    Args:
        record: of the clips.
        changes: field → value; of `gates` and `quotas` those that are named, of the others all.

    Raises:
        ArtifactError: a field is wrong, or decides what is measured.
    """
    # An older version did not ask a gate that it did not know, whatever its bound is today.
    config = with_absent(record["config"], CurateConfig().model_dump(), absent_settings())
    for name, value in changes.items():
        if name not in SELECTION_FIELDS:
            raise ArtifactError(f"{name} decides what is measured: curate anew (--parent takes over what stays)")
        config[name] = {**config.get(name, {}), **value} if name in ("gates", "quotas") else value
    try:
        return CurateConfig.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"no such selection: {place}: {first['msg'].removeprefix('Value error, ')}") from error


def plan(config: CurateConfig, *, clips: Location, out: Location, decisions: Location | None = None) -> dict[str, Any]:
    """What `run` would give: counts, what each gate does, and the bounds that a target found."""
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
    """Select anew from `clips` into `out/clips`, which names its parent; returns its record. Resumes after a kill.

    Args:
        config: of the parent with other `SELECTION_FIELDS` (see `change_selection`).
        clips: of `curate` or `refilter`, finished.
        out: another folder.
        decisions: a table of a person's accepts and rejects.

    Raises:
        ArtifactError: the parent is unfinished, damaged or the same folder, `out` was begun with something else, the
            decisions cannot be followed, or rows do not balance.
    """
    start = time.perf_counter()
    old = Clips(clips)
    artifact = Artifact(out / "clips")
    if artifact.path == old.artifact.path:
        raise ArtifactError(f"{artifact.path} is finished and never changed: choose another --out")
    said = read_decisions(decisions) if decisions else None
    digest = json_digest(old.record)
    fields = config.model_dump(mode="json", include=set(SELECTION_FIELDS))
    with exclusive(out):
        begun = {"selection": fields, "parent": digest, "decisions": said.digest if said else None}
        artifact.begin(begun, {"selection": absent_settings()})
        if artifact.committed:
            return artifact.record()
        selection = _select(old, config, said)
        selection.write(artifact, _pieces(old, digest))
        return artifact.commit(
            {
                "kind": "clips",
                "version": __version__,
                "config": config.model_dump(mode="json"),
                # By which the rows were measured; an older version kept none.
                **said_in(old.record),
                "selection": selection.record()
                | {
                    "measured_gates": measured_gates(old.record).model_dump(mode="json"),
                    "decisions": _decisions_record(said, selection),
                },
                "parent": old.artifact.named(out),
                "measured": relative(old.measured.path, out),
                "inputs": old.record["inputs"],
                "counts": count_written(artifact, old.record["counts"]["inputs"]),
                "pose_models": old.record["pose_models"],
                **forgotten_fields(old.record),
                "seconds": {"total": time.perf_counter() - start},
            }
        )


def _select(old: Clips, config: CurateConfig, decisions: Decisions | None) -> Selection:
    gates = measured_gates(old.record)
    columns = columns_read(config, gates)
    if not old.record.get("selection", {}).get("decisions"):
        columns.remove("detail")  # it is read for what a person noted
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
            f"{old.artifact.path} holds {len(selection)} rows, and its record says {expected}: copy it or make it again"
        )
    return selection


def _groups(old: Clips, config: CurateConfig) -> pa.Array | None:
    """Groups of copies, if others are asked for than the rows already say."""
    wanted = config.duplicates
    if wanted.scope == "off" or wanted.model_dump() == old.record["config"]["duplicates"]:
        return None
    require_scratch()
    fingerprints = Fingerprints(wanted.scope, scratch())
    for _, table in MeasuredRows(old.measured, old.measured.parts()).tables(list(Fingerprints.COLUMNS)):
        fingerprints.add(table)
    return fingerprints.groups(wanted.min_common_ratio, old.read([fingerprints.key])[fingerprints.key])


def _pieces(old: Clips, digest: str) -> Iterator[Piece]:
    """Yield the rows of the parent, at most `PART_ROWS` a part; `digest` is of its record."""
    for part in old.artifact.parts():
        table = old.artifact.read_part(part)
        for first in range(0, len(table), PART_ROWS):
            rows = table.slice(first, PART_ROWS)
            yield Piece([digest, part, first], len(rows), partial(with_columns, rows, COLUMNS))


def _decisions_record(decisions: Decisions | None, selection: Selection) -> dict[str, Any] | None:
    """For the record: the table's digest, and how many rows a person accepted and rejected, here or before."""
    counts = selection.decided_counts()
    if decisions is None and not any(counts.values()):
        return None
    file = {"file": decisions.file, "digest": decisions.digest} if decisions else {"file": None, "digest": None}
    return {**file, **counts}
