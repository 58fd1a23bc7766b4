"""Where a curation's rows went: from every input to the accepted clips, in counts that must add up.

What is broken (quarantined, with the class of its error) is counted apart from what does not please (rejected by a
gate). All of it is columnar: a million rows take seconds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.artifact import ArtifactError
from ....datasets.clips import Clips
from ....datasets.schema import CLIP_SCHEMA
from ..config import SHAPES, CurateConfig
from ..gates import Gates, bound_text
from ..selection.gating import Bounds, Mask, apply_gates, values_of
from ..selection.row_keys import REASONS

# A column that a stage always writes: where it is null, the stage did not come to its end.
WRITTEN_BY = (("probe", "codec"), ("shots", "start_s"), ("score", "brightness"), ("pose", None))
BEFORE_GATES = ("too_short", "max_clips_per_source")  # decided while shots are cut
SELECTED = (*Gates.model_fields, *REASONS)  # what a selection says; other reasons were there before it
FUNNEL_COLUMNS = ["verdict", "reason", "codec", "start_s", "brightness"]

MEANINGS = {
    "too_short": "the shot is shorter than a clip",
    "max_clips_per_source": "the source has given as many clips as were asked for",
    "no_pose": "passed every gate, but there are no keypoints",
    "not_measured": "a gate had refused it when it was measured, so that its pose is not known",
    "duplicate": "another clip of the same bytes is kept",
    "near_duplicate": "a better copy of the same video is kept",
    "quota_of_source": "its source has enough better clips",
    "quota_of_shape": "there are enough better clips of its shape",
    "decision": "a person decided so",
    "unreadable": "missing, empty, no file, or no known container",
    "no_video": "sound only, or a still image",
    "truncated": "packets are missing at the end",
    "corrupt_frames": "frames do not decode",
    "vfr_bad_ts": "times by which no frame can be picked",
    "unsupported_hdr": "high dynamic range, which eight bits would falsify",
    "unsupported_colours": "a matrix of colours that cannot be converted here",
    "unsupported_orientation": "players turn it by no right angle",
    "interlaced": "a single field in each picture",
    "changing_aspect": "the picture's width / height changes inside the file",
    "too_big": "more pixels or a longer duration than is allowed",
    "other_rules": "measured by an older version, which read the file otherwise",
    "source_changed": "the file was replaced after it was curated, or while it was read",
    "timeout": "the decoder hung and was ended",
    "decoder_crash": "the decoder crashed in its process",
}


@dataclass(frozen=True)
class Step:
    """One step of the funnel: `name`, rows `lost` at it and `left` after it, and with which verdict they were lost."""

    name: str
    lost: int
    left: int
    verdict: str
    meaning: str


@dataclass(frozen=True)
class GateCount:
    """What one gate did among the rows that came to the gates.

    Args:
        gate: its name.
        column: that it looks at.
        side: "min" or "max".
        bounds: of it, one a shape of picture (`SHAPES`); NaN where it is off.
        measured: rows with a value.
        accepted_unmeasured: accepted clips that it could say nothing about.
        beyond: rows that it refuses, whatever other gates say.
        first: rows whose reason it is.
        alone: rows that no other gate refuses.
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
    def asks(self) -> str:
        """The bound in words; bounds, where shapes have their own."""
        return bounds_text(self.side, self.bounds)


def config_of(record: dict[str, Any]) -> CurateConfig:
    """The configuration as a record holds it, with the bounds that the selection used.

    A gate that the version that wrote it did not know was off.
    """
    recorded = {**record["config"], **record.get("selection", {})}
    gates = {name: recorded["gates"].get(name) for name in Gates.model_fields}
    known = {name: value for name, value in recorded.items() if name in CurateConfig.model_fields}
    return CurateConfig(**{**known, "gates": gates})


def read_columns(clips: Clips, columns: Sequence[str]) -> pa.Table:
    """Columns of all rows; one that the version that wrote them did not know is null."""
    there = clips.artifact.part_schema(clips.artifact.parts()[0]).names
    table = clips.read([name for name in columns if name in there])
    for name in columns:
        if name not in there:
            table = table.append_column(CLIP_SCHEMA.field(name), pa.nulls(len(table), CLIP_SCHEMA.field(name).type))
    return table


def bounds_text(side: str, bounds: Sequence[float]) -> str:
    """What a gate asks, "at least 0.12"; one bound a shape where they differ."""
    if len(set(bounds)) == 1:
        return bound_text(side, bounds[0])
    words = "at least" if side == "min" else "at most"
    each = (f"{bound:.4g} ({shape})" for shape, bound in zip(SHAPES, bounds, strict=True) if not np.isnan(bound))
    return f"{words} {', '.join(each)}"


def meaning_of(reason: str | None) -> str:
    """A reason in words."""
    if reason in Gates.model_fields:
        return Gates.model_fields[reason].description or ""
    return MEANINGS.get(reason or "", "")


def verdict_is(table: pa.Table, verdict: str) -> Mask:
    """Rows [n] with this verdict."""
    return _mask(pc.equal(table["verdict"], verdict))


def reached_gates(table: pa.Table) -> Mask:
    """Rows [n] that the gates were asked about: neither quarantined, nor refused while shots were cut."""
    selected = _mask(pc.is_in(table["reason"], value_set=pa.array(SELECTED)))
    return verdict_is(table, "ok") | (verdict_is(table, "rejected") & selected)


def rejected_by(table: pa.Table, gate: str) -> Mask:
    """Rows [n] whose reason is this gate."""
    return _mask(pc.equal(table["reason"], gate))


def _mask(column: Any) -> Mask:
    mask: Mask = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
    return mask


def reasons(table: pa.Table) -> dict[tuple[str, str], int]:
    """(verdict, reason) → rows, most first; what is ok has none, or a person's decision."""
    counted = table.group_by(["verdict", "reason"]).aggregate([([], "count_all")]).to_pylist()
    found = {(row["verdict"], row["reason"] or ""): row["count_all"] for row in counted}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def funnel(table: pa.Table, record: dict[str, Any]) -> list[Step]:
    """Every loss from the inputs to the accepted clips, in the order of the walk.

    Args:
        table: all rows, with `FUNNEL_COLUMNS`.
        record: of the artifact.

    Raises:
        ArtifactError: the steps do not lead from the record's inputs to its accepted clips: rows were lost.
    """
    left, steps = record["counts"]["inputs"], []
    for name, lost, verdict, meaning in _losses(table, config_of(record)):
        left -= lost
        steps.append(Step(name, lost, left, verdict, meaning))
    if left != record["counts"]["ok"] or len(table) != record["counts"]["inputs"]:
        raise ArtifactError(
            f"the funnel does not balance: {len(table)} rows and {left} left, but the record says {record['counts']}: "
            "parts were added, lost or changed since; curate anew"
        )
    return steps


def _losses(table: pa.Table, config: CurateConfig) -> Iterator[tuple[str, int, str, str]]:
    """(step, rows lost, their verdict, meaning) for stages, then for what is refused, gates in their order."""
    broken = verdict_is(table, "quarantined")
    for stage, column in WRITTEN_BY:
        if config.trust and stage == "score":
            continue  # it wrote nothing, and read nothing
        here = broken if column is None else broken & _mask(pc.is_null(table[column]))
        broken = broken & ~here
        yield stage, int(here.sum()), "quarantined", "broken: could not be read or decoded there"
    counted = {reason: number for (verdict, reason), number in reasons(table).items() if verdict == "rejected"}
    order = [*Bounds.of(config).gates, *REASONS]
    before = [*BEFORE_GATES, *sorted(counted.keys() - {*BEFORE_GATES, *order})]
    for reason in [*before, *order]:
        yield reason, counted.get(reason, 0), "rejected", meaning_of(reason)


def count_gates(table: pa.Table, bounds: Bounds) -> list[GateCount]:
    """What each gate that is on did; `table` has `FUNNEL_COLUMNS` and the columns of the gates."""
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
