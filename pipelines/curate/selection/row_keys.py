"""Per-row data of a selection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.arrays import Floats64, Integers, Mask
from ....datasets.artifact import VERDICTS
from ..gates import Gates
from .copies import Copies
from .gating import SIZE_COLUMNS, content_sizes, numbers
from .overrides import ACCEPT, REJECT

# Reasons given by a selection, besides the names of gates; all others are given when rows are measured, and kept.
REASONS = (
    "no_pose",
    "not_measured",
    "duplicate",
    "near_duplicate",
    "quota_of_source",
    "quota_of_shape",
    "decision",
)
OK, REJECTED, QUARANTINED = range(3)


# Half of the lines are interpolated, and interlaced coding costs several times the bits: prefer a progressive copy of
# the same size, but not one of a quarter of the area.
DEINTERLACED_QUALITY = 1 / 16


@dataclass
class RowKeys:
    """Identity and state of rows [n].

    Attributes:
        clip_id, source_path, source_id, duplicate_group: as in the table.
        start_s: 0 where it is null.
        quality: area of the picture × bit rate, for choosing among copies; reduced if deinterlaced.
        deinterlaced: half of its lines are interpolated.
        posed: it has keypoints.
        has_model: a pose model was run, or keypoints were supplied.
        fixed: its verdict was given when it was measured.
        verdict: that verdict, an index into `VERDICTS`.
        decided, notes: manual decisions of an earlier selection of these rows.
    """

    COLUMNS = (
        "clip_id", "source_path", "source_id", "duplicate_group", "start_s", "duration_s", "source_bytes",
        "pose_digest", "pose_model", "verdict", "reason", "detail", "deinterlaced", *SIZE_COLUMNS,
    )  # fmt: skip

    clip_id: pa.ChunkedArray
    source_path: pa.ChunkedArray
    source_id: pa.ChunkedArray
    duplicate_group: pa.ChunkedArray
    start_s: Floats64
    quality: Floats64
    deinterlaced: Mask
    posed: Mask
    has_model: Mask
    fixed: Mask
    verdict: npt.NDArray[np.int8]
    decided: npt.NDArray[np.int8]
    notes: dict[int, str]

    def __post_init__(self) -> None:
        self.position = _positions(self.source_path, self.start_s)
        self.source = _codes(self.source_id)

    def __len__(self) -> int:
        return len(self.start_s)

    @classmethod
    def of(cls, table: pa.Table) -> "RowKeys":
        """Build from a table with `COLUMNS`; `detail` is read only for manual decisions."""
        height, width = content_sizes(table)
        reason = table["reason"]
        ours = _mask(pc.is_in(reason, value_set=pa.array([*Gates.model_fields, *REASONS])))
        by_hand = _mask(pc.equal(reason, "decision"))
        verdict = pc.index_in(table["verdict"], value_set=pa.array(VERDICTS))
        code = pc.fill_null(verdict, -1).to_numpy().astype(np.int8)
        rows = np.flatnonzero(by_hand)
        details = table["detail"].take(pa.array(rows)).to_pylist() if len(rows) else []
        seconds = numbers(table["duration_s"])
        # NaN if unknown; such a copy comes after all others.
        quality = height * width * numbers(table["source_bytes"]) / np.where(seconds > 0, seconds, np.nan)
        deinterlaced = _mask(table["deinterlaced"])
        return cls(
            clip_id=table["clip_id"],
            source_path=table["source_path"],
            source_id=table["source_id"],
            duplicate_group=table["duplicate_group"],
            start_s=np.nan_to_num(numbers(table["start_s"])),
            quality=np.where(deinterlaced, quality * DEINTERLACED_QUALITY, quality),
            deinterlaced=deinterlaced,
            posed=_mask(pc.is_valid(table["pose_digest"])),
            has_model=_mask(pc.is_valid(table["pose_model"])),
            fixed=(code > OK) & ~ours,
            verdict=code,
            decided=np.where(by_hand, np.where(code == OK, ACCEPT, REJECT), 0).astype(np.int8),
            notes=dict(zip(rows.tolist(), (detail or "" for detail in details), strict=True)),
        )

    @classmethod
    def concatenate(cls, parts: Sequence["RowKeys"], groups: pa.Array | None) -> "RowKeys":
        """Concatenate all parts, in order, optionally with other groups."""

        def strings(name: str) -> pa.ChunkedArray:
            return pa.chunked_array([chunk for part in parts for chunk in getattr(part, name).chunks], pa.string())

        def arrays(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])

        starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        return cls(
            clip_id=strings("clip_id"),
            source_path=strings("source_path"),
            source_id=strings("source_id"),
            duplicate_group=strings("duplicate_group") if groups is None else pa.chunked_array([groups], pa.string()),
            **{
                name: arrays(name)
                for name in ("start_s", "quality", "deinterlaced", "posed", "has_model", "fixed", "verdict", "decided")
            },
            notes={
                start + row: note
                for start, part in zip(starts, parts, strict=False)
                for row, note in part.notes.items()
            },
        )

    def copies(self, scope: str, accepted: Mask) -> Copies:
        """Return the duplicates; `accepted` marks rows accepted by hand."""
        clip = _codes(self.clip_id)
        group = _codes(self.duplicate_group) if scope != "off" else np.full(len(self), -1)
        unit = self.source if scope == "source" else clip
        return Copies(clip, group, unit, self.quality, self.position, accepted)


def _positions(path: pa.ChunkedArray, start_s: Floats64) -> Integers:
    """Return the rank of each row in path order."""
    paths = path.combine_chunks()
    if len(paths) < 2:
        return np.arange(len(paths))
    before, after = paths.slice(0, len(paths) - 1), paths.slice(1)
    ordered = _mask(pc.less(before, after)) | (_mask(pc.equal(before, after)) & (start_s[:-1] <= start_s[1:]))
    if ordered.all():
        return np.arange(len(paths))
    keys = pa.table({"path": paths, "start_s": start_s})
    order = pc.sort_indices(keys, sort_keys=[("path", "ascending"), ("start_s", "ascending")]).to_numpy()
    out = np.empty(len(order), np.int64)
    out[order] = np.arange(len(order))
    return out


def _codes(column: pa.ChunkedArray) -> Integers:
    """Encode values as integers [n]; −1 for null."""
    indices = column.combine_chunks().dictionary_encode().indices
    out: Integers = pc.fill_null(indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return out


def _mask(column: Any) -> Mask:
    mask: Mask = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
    return mask
