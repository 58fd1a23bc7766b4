"""What a selection says of every row."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ....datasets.artifact import VERDICTS, Artifact
from ....datasets.clips import clips_packet
from ..config import SHAPES, CurateConfig
from ..gates import Gates
from .gating import Bounds, GateResults, Integers
from .overrides import ACCEPT, REJECT
from .row_keys import OK, REASONS, REJECTED, RowKeys

NO_MODEL = "no keypoints beside the clip, and no pose model here: `steadydancer weights fetch blazepose`"


class Piece(NamedTuple):
    """The rows of one part of `clips`: `read` returns them, `content` (a JSON value) gives the part its name."""

    content: Any
    num_rows: int
    read: Callable[[], pa.Table]


class Selection:
    """Verdicts of rows [n].

    Attributes:
        config: with the bounds that were found, where there was a target.
        target: what was asked for and reached; None without a target.
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
        """Take the reasons of all rows: an index into `names`, −1 for what is accepted."""
        self.reason = reason
        fixed = self.rows.fixed
        self.verdict = np.where(fixed, self.rows.verdict, np.where(reason < 0, OK, REJECTED)).astype(np.int8)
        if self.target is not None:
            self.target |= {"accepted": int((self.verdict == OK).sum())}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each verdict."""
        numbers = np.bincount(self.verdict, minlength=len(VERDICTS))
        return {name: int(number) for name, number in zip(VERDICTS, numbers, strict=True)}

    def record(self) -> dict[str, Any]:
        """For the record: the gates that were used, and what each did."""
        fields = {"gates", "gates_by_shape", "quotas", "duplicates"}
        return {
            **self.config.model_dump(mode="json", include=fields),
            "target": self.target,
            "accepted_by_shape": self.accepted_by_shape(),
            "funnel": self.funnel(),
        }

    def decided_counts(self) -> dict[str, int]:
        """Rows that a person accepted, rejected, and accepted in vain: unreadable, without keypoints, twice."""
        accepted, ok = self.decided == ACCEPT, self.verdict == OK
        return {
            "accepted": int((accepted & ok).sum()),
            "rejected": int(((self.decided == REJECT) & ~self.rows.fixed).sum()),
            "accepted_in_vain": int((accepted & ~ok).sum()),
        }

    def accepted_by_shape(self) -> dict[str, int]:
        """Accepted rows of each shape of picture."""
        numbers = np.bincount(self.gate_results.shape[self.verdict == OK], minlength=len(SHAPES))
        return {name: int(number) for name, number in zip(SHAPES, numbers, strict=True)}

    def funnel(self) -> dict[str, Any]:
        """What each gate does: rows that it is the `first` to refuse, that it `alone` refuses, and has no score of."""
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
        """Rows `start` and on, with what this selection says of them."""
        rows = slice(start, start + len(table))
        fixed = pa.array(self.rows.fixed[rows])
        said = {
            "verdict": pa.array(VERDICTS).take(pa.array(self.verdict[rows])),
            "reason": self._reasons(rows),
            "detail": self._details(rows),
            "unmeasured": self._unmeasured(rows),
        }
        for name, column in said.items():
            place = table.schema.get_field_index(name)
            kept = table[name].combine_chunks() if name in table.column_names else column
            table = table.set_column(place, table.schema.field(name), pc.if_else(fixed, kept, column))
        if self.groups is not None:
            place = table.schema.get_field_index("duplicate_group")
            group = self.groups.slice(start, len(table))
            table = table.set_column(place, table.schema.field("duplicate_group"), group)
        return table

    def write(self, artifact: Artifact, pieces: Iterable[Piece]) -> None:
        """Write the parts of `clips` that are not there yet, each while the rows of the next are read.

        Args:
            artifact: in which the parts lie.
            pieces: all rows, in the order of this selection, one piece a part.
        """
        start = 0
        with ThreadPoolExecutor(1) as writer:
            writing: Future[None] | None = None
            for index, piece in enumerate(pieces):
                packet = clips_packet(index, piece.content)
                if not artifact.part(packet).is_file():
                    table = self.apply(piece.read(), start)
                    if writing:
                        writing.result()  # a full disk is told here
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
        """Details of rows that have one reason."""
        if 0 <= code < len(self.bounds.gates):
            return self.bounds.details(code, self.gate_results.value[rows], self.gate_results.shape[rows])
        name = self.names[code] if code >= 0 else "decision"
        if name == "decision":
            return [self.notes.get(row) or "decided by hand" for row in rows.tolist()]
        if name == "no_pose":
            words = ["nobody was found" if has else NO_MODEL for has in self.rows.has_model[rows]]
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
            f"a copy of {path} from {start:.2f} s, which {'is not interlaced' if only else 'has more pixels and bits'}"
            for path, start, only in zip(paths, starts, woven.tolist(), strict=True)
        ]

    def _not_measured(self, rows: Integers) -> list[str]:
        fields = list(Gates.model_fields)
        early = [fields[k] if k >= 0 else None for k in self.gate_results.early[rows].tolist()]
        # With all gates off there is no name at all, and an accepted row need not have one.
        first = [self.bounds.gates[k] if k >= 0 else None for k in self.gate_results.first[rows].tolist()]
        return [
            f"{gate or now} had refused it, so its pose was not measured: `steadydancer curate --parent` with gates "
            "that let it through measures what is missing"
            for gate, now in zip(early, first, strict=True)
        ]

    def _note_overruled(self, rows: Integers, words: list[str]) -> list[str]:
        """A person wanted some of them."""
        wanted = (self.decided[rows] == ACCEPT).tolist()
        return [f"accepted by hand, but {word}" if yes else word for word, yes in zip(words, wanted, strict=True)]

    def _quota_details(self, name: str, rows: Integers) -> list[str]:
        quotas = self.config.quotas
        if name == "quota_of_source":
            limit = quotas.max_accepted_per_source
            return [f"not among the best {limit} of its source; no more are asked"] * len(rows)
        limits = [
            f"{quotas.max_accepted_by_shape.get(shape)} {shape} clips are better, and no more asked" for shape in SHAPES
        ]
        return [limits[k] for k in self.gate_results.shape[rows].tolist()]
