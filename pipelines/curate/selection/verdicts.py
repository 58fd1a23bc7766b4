"""Verdicts, reasons and details of a selection."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.arrays import Integers
from ....datasets.artifact import VERDICTS, Artifact
from ....datasets.clips import clips_packet
from ..config import SHAPES, CurateConfig
from ..gates import Gates
from .gating import Bounds, GateResults
from .overrides import ACCEPT, REJECT
from .row_keys import OK, REASONS, REJECTED, RowKeys

NO_MODEL = "no keypoints supplied and no pose model found; run `steadydancer weights fetch blazepose`"


class Piece(NamedTuple):
    """The rows of one part of `clips`: `read` returns them, `content` (a JSON value) names the part."""

    content: Any
    num_rows: int
    read: Callable[[], pa.Table]


class Selection:
    """Verdicts of rows [n].

    Attributes:
        config: with the found thresholds, if there was a target.
        target: the record of the target; None without one.
        verdict: indices into `VERDICTS`.
    """

    def __init__(
        self, config: CurateConfig, bounds: Bounds, gate_results: GateResults, rows: RowKeys,
        decided: npt.NDArray[np.int8], notes: dict[int, str], groups: pa.Array | None, target: dict[str, Any] | None,
    ) -> None:  # fmt: skip
        self.config, self.bounds, self.gate_results, self.rows = config, bounds, gate_results, rows
        self.decided, self.notes, self.groups, self.target = decided, notes, groups, target
        self.other = np.full(len(rows), -1)
        self.names = (*bounds.gates, *REASONS)

    def set_reasons(self, reason: npt.NDArray[np.int16]) -> None:
        """Set the reasons of all rows: indices into `names`, −1 for accepted rows; derive the verdicts."""
        self.reason = reason
        fixed = self.rows.fixed
        self.verdict = np.where(fixed, self.rows.verdict, np.where(reason < 0, OK, REJECTED)).astype(np.int8)
        if self.target is not None:
            self.target |= {"accepted": int((self.verdict == OK).sum())}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows of each verdict."""
        numbers = np.bincount(self.verdict, minlength=len(VERDICTS))
        return {name: int(number) for name, number in zip(VERDICTS, numbers, strict=True)}

    def record(self) -> dict[str, Any]:
        """Return the entry for the record: settings, target and funnel."""
        fields = {"gates", "gates_by_shape", "quotas", "duplicates"}
        return {
            **self.config.model_dump(mode="json", include=fields),
            "target": self.target,
            "accepted_by_shape": self.accepted_by_shape(),
            "funnel": self.funnel(),
        }

    def decided_counts(self) -> dict[str, int]:
        """Count rows accepted and rejected by hand; accepted in vain: unreadable, without keypoints or duplicate."""
        accepted, ok = self.decided == ACCEPT, self.verdict == OK
        return {
            "accepted": int((accepted & ok).sum()),
            "rejected": int(((self.decided == REJECT) & ~self.rows.fixed).sum()),
            "accepted_in_vain": int((accepted & ~ok).sum()),
        }

    def accepted_by_shape(self) -> dict[str, int]:
        """Count accepted rows by shape of picture."""
        numbers = np.bincount(self.gate_results.shape[self.verdict == OK], minlength=len(SHAPES))
        return {name: int(number) for name, number in zip(SHAPES, numbers, strict=True)}

    def funnel(self) -> dict[str, Any]:
        """Count per gate the rows that it rejects `first`, that it rejects `alone`, and that lack its score."""
        results, open_ = self.gate_results, ~self.rows.fixed & (self.decided == 0)
        alone = open_ & (results.num_rejected == 1) & self.rows.posed
        gates = {
            gate: {
                "first": int((open_ & (results.first == k)).sum()),
                "alone": int((alone & (results.first == k)).sum()),
                "unmeasured": int((open_ & (results.unmeasured >> np.uint64(k) & np.uint64(1)).astype(bool)).sum()),
            }
            for k, gate in enumerate(self.bounds.gates)
        }
        given = self.reason[~self.rows.fixed]
        others = {name: int(number) for k, name in enumerate(REASONS, len(gates)) if (number := (given == k).sum())}
        return {"measuring": int(self.rows.fixed.sum()), "gates": gates, **others}

    def apply(self, table: pa.Table, start: int) -> pa.Table:
        """Return the rows from `start` on with the verdicts of this selection."""
        rows = slice(start, start + len(table))
        fixed = pa.array(self.rows.fixed[rows])
        columns = {
            "verdict": pa.array(VERDICTS).take(pa.array(self.verdict[rows])),
            "reason": self._reasons(rows),
            "detail": self._details(rows),
            "unmeasured": self._unmeasured(rows),
        }
        for name, column in columns.items():
            place = table.schema.get_field_index(name)
            kept = table[name].combine_chunks() if name in table.column_names else column
            table = table.set_column(place, table.schema.field(name), pc.if_else(fixed, kept, column))
        if self.groups is not None:
            place = table.schema.get_field_index("duplicate_group")
            group = self.groups.slice(start, len(table))
            table = table.set_column(place, table.schema.field("duplicate_group"), group)
        return table

    def write(self, artifact: Artifact, pieces: Iterable[Piece]) -> None:
        """Write the missing parts of `clips`, each while the rows of the next are read.

        Args:
            artifact: receives the parts.
            pieces: all rows, in the order of this selection, one piece per part.
        """
        start = 0
        with ThreadPoolExecutor(1) as writer:
            writing: Future[None] | None = None
            for index, piece in enumerate(pieces):
                packet = clips_packet(index, piece.content)
                if not artifact.part(packet).is_file():
                    table = self.apply(piece.read(), start)
                    if writing:
                        writing.result()  # raises here if the disk is full
                    writing = writer.submit(artifact.write_part, packet, table)
                start += piece.num_rows
            if writing:
                writing.result()

    def _reasons(self, rows: slice) -> pa.Array:
        names = pa.array([*self.names, None], pa.string())
        by_hand = (self.reason[rows] < 0) & (self.decided[rows] == ACCEPT)
        index = np.where(by_hand, self.names.index("decision"), self.reason[rows])
        return names.take(pa.array(np.where(index < 0, len(self.names), index)))

    def _unmeasured(self, rows: slice) -> pa.Array:
        patterns, which = np.unique(self.gate_results.unmeasured[rows], return_inverse=True)
        gates = self.bounds.gates
        words = [",".join(g for k, g in enumerate(gates) if bits >> k & 1) or None for bits in patterns.tolist()]
        return pa.array(words, pa.string()).take(pa.array(which))

    def _details(self, rows: slice) -> pa.Array:
        reason = self.reason[rows]
        out = np.full(len(reason), None, object)
        for code in np.unique(reason).tolist():
            here = np.flatnonzero(reason == code)
            if code < 0:
                here = here[self.decided[rows][here] == ACCEPT]
            out[here] = self._details_of(code, here + rows.start)
        return pa.array(out, pa.string())

    def _details_of(self, code: int, rows: Integers) -> list[str]:
        """Return the details of rows with one reason."""
        if 0 <= code < len(self.bounds.gates):
            return self.bounds.details(code, self.gate_results.value[rows], self.gate_results.shape[rows])
        name = self.names[code] if code >= 0 else "decision"
        if name == "decision":
            return [self.notes.get(row) or "decided by hand" for row in rows.tolist()]
        if name == "no_pose":
            words = ["no person was found" if has else NO_MODEL for has in self.rows.has_model[rows]]
            return self._note_overruled(rows, words)
        if name == "not_measured":
            return self._note_overruled(rows, self._not_measured(rows))
        if name.startswith("quota"):
            return self._quota_details(name, rows)
        paths = self.rows.source_path.take(pa.array(self.other[rows])).to_pylist()
        if name == "duplicate":
            return [f"same content as {path}" for path in paths]
        starts = self.rows.start_s[self.other[rows]].tolist()
        woven = self.rows.deinterlaced[rows] & ~self.rows.deinterlaced[self.other[rows]]
        return [
            f"copy of {path} at {start:.2f} s, which {'is not interlaced' if only else 'has more pixels and bits'}"
            for path, start, only in zip(paths, starts, woven.tolist(), strict=True)
        ]

    def _not_measured(self, rows: Integers) -> list[str]:
        fields = list(Gates.model_fields)
        early = [fields[k] if k >= 0 else None for k in self.gate_results.early[rows].tolist()]
        # With all gates off there is no name, and a row accepted by hand may have none.
        first = [self.bounds.gates[k] if k >= 0 else None for k in self.gate_results.first[rows].tolist()]
        return [
            f"no pose was estimated because {gate or now} rejected the clip: run `steadydancer curate --parent` with "
            "gates that let it pass"
            for gate, now in zip(early, first, strict=True)
        ]

    def _note_overruled(self, rows: Integers, words: list[str]) -> list[str]:
        """Mark the details of rows that were accepted by hand."""
        wanted = (self.decided[rows] == ACCEPT).tolist()
        return [f"accepted by hand, but {word}" if yes else word for word, yes in zip(words, wanted, strict=True)]

    def _quota_details(self, name: str, rows: Integers) -> list[str]:
        quotas = self.config.quotas
        if name == "quota_of_source":
            limit = quotas.max_accepted_per_source
            return [f"over quota: the best {limit} clips of its source were kept"] * len(rows)
        limits = [
            f"over quota: the best {quotas.max_accepted_by_shape.get(shape)} {shape} clips were kept"
            for shape in SHAPES
        ]
        return [limits[k] for k in self.gate_results.shape[rows].tolist()]
