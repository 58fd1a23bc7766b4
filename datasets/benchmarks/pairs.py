"""A benchmark in memory: its pairs, with the truth, the kinds of misalignment and the problems of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ... import SteadyDancerError
from ..schema import Row

KINDS = ("style", "framing", "skeleton", "start_gap")
"""The paper's kinds of misalignment between a reference image and a driving video (appendix A)."""


class BenchmarkError(SteadyDancerError):
    """A benchmark cannot be read; the message lists what was found and what was expected."""


@dataclass(frozen=True)
class BenchmarkPair:
    """One pair. Paths are absolute, local or addresses.

    Attributes:
        id: file name of the pair's render, without suffix; the truth is matched by it.
        image: reference image.
        driving: driving video.
        prompt: text, empty without one.
        truth: video that a perfect render equals; None if the benchmark has none, or its file is missing.
        kinds: of misalignment, some of `KINDS`; empty if the benchmark does not state them.
        measured: misalignment by name, as `steadydancer xdance build` measured it; None: not measured.
        problems: files that are missing, and what else the copy lacks for this pair.
    """

    id: str
    image: str
    driving: str
    prompt: str = ""
    truth: str | None = None
    kinds: tuple[str, ...] = ()
    measured: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def to_row(self) -> Row:
        """Return the row that the render job takes."""
        return {"id": self.id, "image": self.image, "driving": self.driving, "prompt": self.prompt}


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as it lies on this machine.

    Attributes:
        name: `tiktok`, `tiktok-humanvid`, `realisdance-val`, `x-dance`, or the name that a built benchmark has.
        folder: local copy.
        layout: layout of the copy, one of `layouts.LAYOUTS`.
        digest: of pairs and files: equal digests are equal benchmarks.
        pairs: in the order of their ids.
        remarks: what a reader of results should know about this copy.
    """

    name: str
    folder: str
    layout: str
    digest: str
    pairs: tuple[BenchmarkPair, ...]
    remarks: tuple[str, ...] = ()

    @property
    def truths(self) -> dict[str, str]:
        """Return id → path of the truth, for the pairs that have one."""
        return {pair.id: pair.truth for pair in self.pairs if pair.truth is not None}

    @property
    def problems(self) -> dict[str, tuple[str, ...]]:
        """Return id → problems, for the pairs that have some."""
        return {pair.id: pair.problems for pair in self.pairs if pair.problems}

    def ids_of(self, kind: str) -> list[str]:
        """Return the ids of the pairs with a kind of misalignment."""
        return [pair.id for pair in self.pairs if kind in pair.kinds]

    def to_record(self) -> dict[str, Any]:
        """Return what an artifact's record states about its benchmark."""
        return {
            "name": self.name,
            "layout": self.layout,
            "digest": self.digest,
            "pairs": len(self.pairs),
            "with_truth": len(self.truths),
            "with_problems": len(self.problems),
        }
