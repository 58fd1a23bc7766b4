"""Incremental curation: reuse the measurements of a parent for files that have not changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...datasets.arrays import Mask
from ...datasets.artifact import MAX_LOOKUPS, Artifact, ArtifactError, Packet
from ...datasets.clips import Clips
from ...datasets.local_copies import local_copy
from ...datasets.rules import is_older, newer_rules
from ...datasets.schema import Row
from ...datasets.sidecars import KEYPOINTS, candidates, sidecar, sidecar_note
from ...datasets.source_content import content_id
from ...datasets.storage import Location, is_address, location
from ...datasets.storage.digests import format_differences
from ...datasets.storage.files import changed_ns
from ...datasets.supplied_poses import SUPPLIED
from ...datasets.text import TextError, read_caption, strip_text
from ...datasets.video import VideoError
from ..common.older_rules import has_same_pictures, uses_older_pictures
from ..common.older_versions import absent_fields
from ..runtime.stage import Stage
from .config import SELECTION_FIELDS, CurateConfig
from .gates import CHEAP_GATES, Gates
from .selection.gating import Bounds, apply_gates, columns_for

# Fields that do not affect measurements: those of the selection, and those that only divide the work.
IRRELEVANT_FIELDS = (*SELECTION_FIELDS, "packet_size", "num_gpus")
REJECTED_UNMEASURED = pa.array(["too_short", "max_clips_per_source"])  # reasons given before any measurement
MAX_NAMED = 20
SIDECAR_RULES = ("sidecars", "texts")
RULES_READ = ("pictures", *SIDECAR_RULES)


@dataclass(frozen=True)
class Parent:
    """A finished curation whose measurements are reused.

    Attributes:
        clips: the artifact.
        parts: source → part of its `measured`, for sources whose rows have all that the new gates need.
        gone: its sources that the new curation does not contain.
    """

    clips: Clips
    parts: dict[str, str]
    gone: list[str]

    @classmethod
    def of(cls, folder: Location, config: CurateConfig, sources: pa.ChunkedArray, others: dict[str, Any]) -> "Parent":
        """Find the measurements in `folder` that can be reused under `config`.

        Args:
            folder: `--out` of the parent.
            config: of the new curation.
            sources: paths of the new curation's sources.
            others: what else decides measurements: the digest of the `excluded` set, versions of the `frame_models`.

        Raises:
            ArtifactError: the parent is not finished, or was measured with different settings or rules.
        """
        clips = Clips(folder.absolute())  # workers may run in other folders
        kept = set(CurateConfig.model_fields) - set(IRRELEVANT_FIELDS)
        new: dict[str, Any] = config.model_dump(mode="json", include=kept)
        old = CurateConfig.model_validate(clips.record["config"]).model_dump(mode="json", include=kept)
        excluded, frame_models = clips.record["inputs"].get("excluded"), clips.record.get("frame_models", {})
        new, old = new | others, old | {"excluded": excluded, "frame_models": frame_models}
        if changes := format_differences(old, new):
            raise ArtifactError(
                f"{clips.artifact.path} was measured with different settings:\n{changes}\n"
                "curate without --parent, or with the parent's settings"
            )
        # Older rules: `reuse_measurements` checks per file whether today's rules give another result.
        if by := newer_rules(clips.record, *RULES_READ):
            raise ArtifactError(
                f"{clips.artifact.path} was measured by a newer version of this program with different rules:\n"
                f"{by}\ncurate without --parent"
            )
        complete, gone = _sources(clips, config, sources)
        return cls(clips, complete, gone)

    def record(self, out: Location, num_reused: int) -> dict[str, Any]:
        """Return the entry for the record."""
        return {
            **self.clips.artifact.reference_from(out),
            "sources_taken_over": num_reused,
            "sources_gone": len(self.gone),
            "gone": self.gone[:MAX_NAMED],
        }

    def stages(self, stages: list[Stage]) -> list[Stage]:
        """Return the stages, with reuse of measured rows before them."""
        record = self.clips.record
        take = partial(
            reuse_measurements,
            self.clips.measured,
            older_pictures=uses_older_pictures(record),
            older_sidecars=is_older(record, *SIDECAR_RULES),
        )
        first = Stage("parent", take, ("source_path", "measured_part"), ("measured_part",))
        probe, *others = (replace(stage, function=skip_reused_rows(stage.function)) for stage in stages)
        gone = frozenset(self.clips.record.get("forgotten", ()))
        reads = ("source_id",)
        return [
            first,
            probe,
            Stage("forgotten", partial(reject_forgotten, gone), reads, ("verdict", "reason")),
            *others,
        ]

    def open_row(self, row: Row) -> Row:
        """Return a source's first row, with the part that holds its measurements."""
        return {**row, "measured_part": self.parts.get(row["source_path"])}


def absent_settings() -> dict[str, Any]:
    """Return the values of fields that an older plan or record lacks; a missing gate was off."""
    return absent_fields(CurateConfig) | {"gates": dict.fromkeys(Gates.model_fields)}


def measured_gates(record: dict[str, Any]) -> Gates:
    """Return the gates with which clips were measured; a gate that an older version did not know was off."""
    gates = record.get("selection", {}).get("measured_gates") or record["config"]["gates"]
    return Gates(**{name: gates.get(name) for name in Gates.model_fields})


def _sources(clips: Clips, config: CurateConfig, sources: pa.ChunkedArray) -> tuple[dict[str, str], list[str]]:
    """Return the sources that need no new measurement, with their parts, and the sources that are gone.

    A row is complete if the new cheap gates reject it, or if the old ones let it pass to the stage `pose`. Quarantined
    sources are tried again: a disk or a network may have caused the failure.
    """
    expensive = set(Gates.model_fields) - CHEAP_GATES
    bounds, old = Bounds.of(config, without=expensive), measured_gates(clips.record)
    keys = ["source_path", "measured_part", "verdict", "reason", "pose_model"]
    columns = sorted(columns_for({*bounds.gates, *(gate for gate, *_ in old.bounds())}) | set(keys))
    complete, gone = dict[str, str](), list[str]()
    for table in clips.tables(columns):
        results = apply_gates(table, bounds, old)
        missing = (results.first < 0) & (results.early >= 0) & table["pose_model"].is_null().to_numpy()
        missing &= ~_mask(pc.is_in(table["reason"], value_set=REJECTED_UNMEASURED))
        # A pose model may be available now.
        missing |= _mask(pc.equal(table["reason"], "no_pose")) & table["pose_model"].is_null().to_numpy()
        missing |= _mask(pc.equal(table["verdict"], "quarantined"))
        wanted = _mask(pc.is_in(table["source_path"], value_set=sources))
        paths, parts = (table[name].to_pylist() for name in ("source_path", "measured_part"))
        for k in np.flatnonzero(wanted & ~missing).tolist():
            complete.setdefault(paths[k], parts[k])
        for k in np.flatnonzero(wanted & missing).tolist():
            complete[paths[k]] = ""
        gone += [paths[k] for k in np.flatnonzero(~wanted).tolist()]
    return {path: part for path, part in complete.items() if part}, sorted(set(gone))


def _mask(column: pa.ChunkedArray) -> Mask:
    out: Mask = pc.fill_null(column, False).to_numpy()
    return out


def reuse_measurements(
    measured: Artifact,
    row: Row,
    config: CurateConfig,
    tools: None = None,
    *,
    older_pictures: bool = False,
    older_sidecars: bool = False,
) -> Row | list[Row]:
    """Return the measured rows of a source if its file has the same bytes; else its row, to be measured.

    Sidecars (keypoints, a caption) have no digest in the rows: they must be older than the measured part. If the rows
    were measured by older rules for pictures, sidecars or texts, today's rules must give the same result for the file.
    """
    part = row.get("measured_part")
    if not part:
        return {**row, "measured_part": None}
    rows = [one for one in measured.read_part(part).to_pylist() if one["source_path"] == row["source_path"]]
    place = location(row["source_path"])
    same = bool(rows) and rows[0]["source_id"] is not None and rows[0]["source_id"] == _digest(place)
    measured_ns = changed_ns(measured.path / part) or 0
    newer = any((changed_ns(one) or 0) > measured_ns for one in candidates(place))
    # A sidecar may belong to another video now: a file with the same stem was added or removed.
    newer = newer or (same and bool(rows[0].get("sidecar_note") or sidecar_note(place)))
    if not same or newer or (older_pictures and not has_same_pictures(row["source_path"])):
        return {**row, "measured_part": None}
    if older_sidecars and not _has_the_same_sidecars(row, rows[0]):
        return {**row, "measured_part": None}
    given = {name: row.get(name) for name in ("origin", "licence")} | {"prompt": row.get("prompt") or rows[0]["prompt"]}
    return [{**_without_assumed_confidence(one), **given, "measured_part": part} for one in rows]


def _without_assumed_confidence(measured: Row) -> Row:
    """Remove the confidence of supplied keypoints: older versions stored their visibility there."""
    return {**measured, "pose_confidence": None} if measured.get("pose_model") == SUPPLIED else measured


def discard_changed_parts(measured: Artifact, packets: Sequence[Packet]) -> list[str]:
    """Delete the parts of packets with a source that was replaced since it was measured; return those sources.

    Only files that were modified after their part was written are read. A source that was unreadable and has changed
    is measured again, too. More than `MAX_LOOKUPS` objects of a store are not checked: `cache` or `export` detects a
    replaced one when it reads it.
    """
    missing = {packet.id for packet in measured.remaining(packets)}
    done = [packet for packet in packets if packet.id not in missing]
    if sum(is_address(path) for packet in done for path in packet.ids) > MAX_LOOKUPS:
        done = [packet for packet in done if not any(map(is_address, packet.ids))]
    changed = []
    for packet in done:
        part = measured.part(packet)
        written_ns = changed_ns(part, and_status=True) or 0
        newer = [path for path in packet.ids if (changed_ns(location(path), and_status=True) or 0) > written_ns]
        if not newer:
            continue
        table = measured.read_part(part.name, ["source_path", "source_id"])
        known = dict(zip(table["source_path"].to_pylist(), table["source_id"].to_pylist(), strict=True))
        replaced = [path for path in newer if _digest(location(path)) not in (None, known.get(path))]
        if replaced:
            part.unlink()
            changed += replaced
    return changed


def _has_the_same_sidecars(row: Row, measured: Row) -> bool:
    """Check whether a file has the same caption and keypoints as under older rules (matched by stem, read as UTF-8)."""
    with local_copy(row["source_path"]) as here:
        if not row.get("prompt"):
            try:
                caption = read_caption(here)
            except TextError:
                return False
            before = measured["prompt"]
            if (caption and caption != before) or (before and not strip_text(before)):
                return False
        keypoints = sidecar(here, KEYPOINTS)
        return keypoints is None or keypoints.name.lower() != f"{here.name}{KEYPOINTS}".lower()


def _digest(place: Location) -> str | None:
    """Return the digest of a file's content; None if it cannot be read."""
    try:
        return content_id(place)
    except (VideoError, OSError):
        return None


def fields_of_versions(record: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a record that hold for the next version as well: forgotten sources, and frame models."""
    return {name: record[name] for name in ("forgotten", "tombstones", "frame_models") if name in record}


def reject_forgotten(forgotten: frozenset[str], row: Row, config: CurateConfig, tools: None = None) -> Row:
    """Reject a source that was forgotten, even if its file is back."""
    if row.get("source_id") not in forgotten:
        return row
    return {**row, "verdict": "rejected", "reason": "forgotten", "detail": "removed by `steadydancer forget`"}


def skip_reused_rows(
    function: Callable[[Row, Any, Any], Row | list[Row]],
) -> Callable[[Row, Any, Any], Row | list[Row]]:
    """Wrap a stage so that it returns reused rows unchanged."""

    def on_new_rows(row: Row, config: Any, tools: Any = None) -> Row | list[Row]:
        return row if row.get("measured_part") else function(row, config, tools)

    return on_new_rows
