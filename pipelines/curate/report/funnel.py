"""The funnel: counts of rows from all inputs to the accepted clips, which must add up.

Quarantined rows (unreadable or damaged) are counted apart from rejected ones (by a gate or rule). Everything is
columnar: a million rows take seconds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.arrays import Mask
from ....datasets.artifact import ArtifactError
from ....datasets.clips import Clips
from ....datasets.schema import CLIP_SCHEMA
from ..config import SHAPES, CurateConfig
from ..gates import Gates, bound_text
from ..selection.gating import Bounds, apply_gates, values_of
from ..selection.row_keys import REASONS

# Stage → a column that it always writes: null means that the stage did not finish.
WRITTEN_BY = (("probe", "codec"), ("shots", "start_s"), ("score", "brightness"), ("pose", None))
BEFORE_GATES = ("too_short", "max_clips_per_source")  # decided by the stage `shots`
SELECTION_REASONS = (*Gates.model_fields, *REASONS)  # given by a selection; other reasons come from measuring
FUNNEL_COLUMNS = ["verdict", "reason", "codec", "start_s", "brightness"]

MEANINGS = {
    "too_short": "the shot is shorter than a clip",
    "max_clips_per_source": "its source already has the maximum number of clips",
    "no_pose": "passes all gates but has no keypoints",
    "not_measured": "rejected by a cheap gate when it was measured, so no pose was estimated",
    "duplicate": "another clip with the same bytes is kept",
    "near_duplicate": "a better copy of the same video is kept",
    "quota_of_source": "over the quota of its source",
    "quota_of_shape": "over the quota of its shape",
    "decision": "decided by hand",
    "unreadable": "missing, empty, not a file, or an unknown container",
    "no_video": "audio only, or a still image",
    "truncated": "packets are missing at the end of the file",
    "corrupt_frames": "frames do not decode",
    "vfr_bad_ts": "timestamps cannot be used to select frames",
    "unsupported_hdr": "high dynamic range, which does not fit into 8 bits",
    "unsupported_colours": "unsupported colour matrix",
    "unsupported_orientation": "its rotation is not a multiple of 90°",
    "interlaced": "each picture contains a single field",
    "changing_aspect": "the aspect ratio changes within the file",
    "too_big": "more pixels or a longer duration than allowed",
    "other_rules": "measured by an older version, which read the file differently",
    "source_changed": "the file was replaced after it was curated, or while it was read",
    "timeout": "the decoder hung and was killed",
    "decoder_crash": "the decoder process crashed",
}


@dataclass(frozen=True)
class Step:
    """One step of the funnel: rows `lost` at it and `left` after it, the verdict of the lost rows, its meaning."""

    name: str
    lost: int
    left: int
    verdict: str
    meaning: str


@dataclass(frozen=True)
class GateCount:
    """Counts of one gate over the rows that reached the gates.

    Args:
        gate: its name.
        column: the score that it reads.
        side: "min" or "max".
        bounds: its thresholds, one per shape (`SHAPES`); NaN where it is off.
        measured: rows with a value.
        accepted_unmeasured: accepted clips without a value.
        beyond: rows that it rejects, regardless of other gates.
        first: rows that have it as their reason.
        alone: rows that no other gate rejects.
    """

    gate: str
    column: str
    side: str
    bounds: tuple[float, ...]
    measured: int
    accepted_unmeasured: int
    beyond: int
    first: int
    alone: int

    @property
    def threshold_text(self) -> str:
        """The threshold in words, one per shape where they differ."""
        return bounds_text(self.side, self.bounds)


def config_of(record: dict[str, Any]) -> CurateConfig:
    """Return the configuration of a record, with the thresholds that the selection used.

    A gate that the version of the record did not know was off.
    """
    recorded = {**record["config"], **record.get("selection", {})}
    gates = {name: recorded["gates"].get(name) for name in Gates.model_fields}
    known = {name: value for name, value in recorded.items() if name in CurateConfig.model_fields}
    return CurateConfig(**{**known, "gates": gates})


def read_columns(clips: Clips, columns: Sequence[str]) -> pa.Table:
    """Read columns of all rows; a column that the version of the rows did not know is null."""
    there = clips.artifact.part_schema(clips.artifact.parts()[0]).names
    table = clips.read([name for name in columns if name in there])
    for name in columns:
        if name not in there:
            table = table.append_column(CLIP_SCHEMA.field(name), pa.nulls(len(table), CLIP_SCHEMA.field(name).type))
    return table


def bounds_text(side: str, bounds: Sequence[float]) -> str:
    """Return a gate's threshold in words, "at least 0.12"; one value per shape where they differ."""
    if len(set(bounds)) == 1:
        return bound_text(side, bounds[0])
    words = "at least" if side == "min" else "at most"
    each = (f"{bound:.4g} ({shape})" for shape, bound in zip(SHAPES, bounds, strict=True) if not np.isnan(bound))
    return f"{words} {', '.join(each)}"


def meaning_of(reason: str | None) -> str:
    """Return the meaning of a reason."""
    if reason in Gates.model_fields:
        return Gates.model_fields[reason].description or ""
    return MEANINGS.get(reason or "", "")


def verdict_is(table: pa.Table, verdict: str) -> Mask:
    """Return a mask [n] of the rows with this verdict."""
    return _mask(pc.equal(table["verdict"], verdict))


def reached_gates(table: pa.Table) -> Mask:
    """Return a mask [n] of the rows that reached the gates: not quarantined, not rejected by stage `shots`."""
    selected = _mask(pc.is_in(table["reason"], value_set=pa.array(SELECTION_REASONS)))
    return verdict_is(table, "ok") | (verdict_is(table, "rejected") & selected)


def rejected_by(table: pa.Table, gate: str) -> Mask:
    """Return a mask [n] of the rows whose reason is this gate."""
    return _mask(pc.equal(table["reason"], gate))


def _mask(column: Any) -> Mask:
    mask: Mask = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
    return mask


def reasons(table: pa.Table) -> dict[tuple[str, str], int]:
    """Count rows by (verdict, reason), most first; the reason of ok rows is empty or `decision`."""
    counted = table.group_by(["verdict", "reason"]).aggregate([([], "count_all")]).to_pylist()
    found = {(row["verdict"], row["reason"] or ""): row["count_all"] for row in counted}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def funnel(table: pa.Table, record: dict[str, Any]) -> list[Step]:
    """Return the steps from the inputs to the accepted clips, in the order of the stages.

    Args:
        table: all rows, with `FUNNEL_COLUMNS`.
        record: of the artifact.

    Raises:
        ArtifactError: the steps do not add up from the record's inputs to its accepted clips.
    """
    left, steps = record["counts"]["inputs"], []
    for name, lost, verdict, meaning in _losses(table, config_of(record)):
        left -= lost
        steps.append(Step(name, lost, left, verdict, meaning))
    if left != record["counts"]["ok"] or len(table) != record["counts"]["inputs"]:
        raise ArtifactError(
            f"the funnel does not balance: {len(table)} rows, {left} of them accepted, but the record has "
            f"{record['counts']}: parts were added, lost or changed since; curate again"
        )
    return steps


def _losses(table: pa.Table, config: CurateConfig) -> Iterator[tuple[str, int, str, str]]:
    """Yield (step, rows lost, verdict, meaning): quarantined by stage, then rejected, gates in their order."""
    broken = verdict_is(table, "quarantined")
    for stage, column in WRITTEN_BY:
        if config.trust and stage == "score":
            continue  # the stage was skipped
        here = broken if column is None else broken & _mask(pc.is_null(table[column]))
        broken = broken & ~here
        yield stage, int(here.sum()), "quarantined", "unreadable or damaged: failed in this stage"
    counted = {reason: number for (verdict, reason), number in reasons(table).items() if verdict == "rejected"}
    order = [*Bounds.of(config).gates, *REASONS]
    before = [*BEFORE_GATES, *sorted(counted.keys() - {*BEFORE_GATES, *order})]
    for reason in [*before, *order]:
        yield reason, counted.get(reason, 0), "rejected", meaning_of(reason)


def count_gates(table: pa.Table, bounds: Bounds) -> list[GateCount]:
    """Count the effect of each active gate; `table` has `FUNNEL_COLUMNS` and the columns of the gates."""
    table = table.filter(pa.array(reached_gates(table)))
    accepted, results = verdict_is(table, "ok"), apply_gates(table, bounds)
    first = {reason: number for (_, reason), number in reasons(table).items()}
    counts = []
    for index, gate in enumerate(bounds.gates):
        values = values_of(table, bounds.columns[index])
        unknown, beyond = np.isnan(values), bounds.rejects(index, values, results.shape)
        counts.append(
            GateCount(
                gate,
                bounds.columns[index],
                bounds.sides[index],
                tuple(bounds.values[index].tolist()),
                measured=int((~unknown).sum()),
                accepted_unmeasured=int((accepted & unknown).sum()),
                beyond=int(beyond.sum()),
                first=first.get(gate, 0),
                alone=int((beyond & (results.num_rejected == 1)).sum()),
            )
        )
    return counts
