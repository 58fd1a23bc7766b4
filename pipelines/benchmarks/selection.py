"""Select drivers and pairs: the paper's mix of motion, and kinds and strengths of misalignment in balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...datasets.benchmarks.pairs import KINDS
from .candidates import Candidate, File
from .config import XDanceConfig

STRENGTHS = ("mild", "medium", "strong")
"""Thirds of the candidates that have a kind, by the measured gap."""

HARDNESS = ("blur", "occlusion", "pose_change", "motion")
"""What a driver of much motion is selected for, in turn."""


@dataclass(frozen=True)
class Selected:
    """A pair, and the kind and strength that it was selected for."""

    candidate: Candidate
    kind: str
    strength: str


def dynamics_of(driving: File, config: XDanceConfig) -> str | None:
    """Return `high` or `low`: as given, else by the measured motion; None if neither is known."""
    given, motion = driving.row["dynamics"], driving.row["motion"]
    if given:
        return str(given)
    return None if motion is None else "high" if motion >= config.min_high_motion else "low"


def select_drivers(drivings: Sequence[File], config: XDanceConfig) -> tuple[list[File], list[str]]:
    """Return the drivers, those of much motion first, and remarks on what is lacking.

    Drivers of much motion are taken in turn for the most blur, occlusion, change of pose and motion, so that each of
    the paper's difficulties is present; drivers of little motion for the least. None is relabelled to fill a number.
    """
    levels = {one.id: dynamics_of(one, config) for one in drivings}
    high = [one for one in drivings if levels[one.id] == "high"]
    low = [one for one in drivings if levels[one.id] == "low"]
    chosen: list[File] = []
    while high and len(chosen) < config.high_drivers:
        by = HARDNESS[len(chosen) % len(HARDNESS)]
        best = max(high, key=lambda one: (one.row[by] if one.row[by] is not None else -np.inf, one.id))
        chosen.append(best)
        high.remove(best)
    calm = sorted(low, key=lambda one: (one.row["motion"] if one.row["motion"] is not None else np.inf, one.id))
    kept = calm[: config.low_drivers]
    remarks = [
        f"{wanted} drivers of {much} motion were asked for, found {found}"
        for much, found, wanted in (
            ("much", len(chosen), config.high_drivers),
            ("little", len(kept), config.low_drivers),
        )
        if found < wanted
    ]
    if unknown := [one.id for one in drivings if levels[one.id] is None]:
        remarks.append(f"left out, as their motion is not measured ({len(unknown)}): {', '.join(unknown[:5])}")
    return [*chosen, *kept], remarks


def select_pairs(candidates: Sequence[Candidate], config: XDanceConfig) -> tuple[list[Selected], list[str]]:
    """Select up to `num_pairs` pairs, and return remarks on the kinds that are lacking.

    In rounds over drivers and kinds, each cell takes one pair that has the kind: of the strength that was selected
    least often for it, then of the reference that was, then by the names. No pair is selected twice.

    Args:
        candidates: all pairs of the selected drivers.
        config: number of pairs.
    """
    strengths = {kind: _strengths(candidates, kind) for kind in KINDS}
    drivers = list(dict.fromkeys(one.driving.id for one in candidates))
    cells = {
        (driver, kind): [one for one in candidates if one.driving.id == driver and kind in one.kinds]
        for driver in drivers
        for kind in KINDS
    }
    chosen: list[Selected] = []
    by_strength, by_image, taken = Counter[tuple[str, str]](), Counter[str](), set[int]()
    progress = True
    while progress and len(chosen) < config.num_pairs:
        progress = False
        for (_, kind), cell in cells.items():
            left = [one for one in cell if id(one) not in taken]
            if not left or len(chosen) >= config.num_pairs:
                continue
            best = min(
                left,
                key=lambda one: (
                    by_strength[kind, strengths[kind][id(one)]],
                    by_image[one.image.id],
                    one.image.id,
                ),
            )
            strength = strengths[kind][id(best)]
            chosen.append(Selected(best, kind, strength))
            by_strength[kind, strength] += 1
            by_image[best.image.id] += 1
            taken.add(id(best))
            progress = True
    return chosen, _lacks(cells, chosen, config)


def balance(selected: Sequence[Selected]) -> dict[str, Any]:
    """Count the selected pairs by kind and strength they were selected for, and by every kind they have."""
    picked = Counter((one.kind, one.strength) for one in selected)
    return {
        "selected_for": {kind: {name: picked[kind, name] for name in STRENGTHS} for kind in KINDS},
        "having": {kind: sum(kind in one.candidate.kinds for one in selected) for kind in KINDS},
        "images": len({one.candidate.image.id for one in selected}),
        "drivers": len({one.candidate.driving.id for one in selected}),
    }


def _strengths(candidates: Sequence[Candidate], kind: str) -> dict[int, str]:
    """Return id(candidate) → third of the candidates with this kind, by the gap; one without a gap is mild."""
    having = [one for one in candidates if kind in one.kinds]
    gaps = [gap for one in having if (gap := one.gap(kind)) is not None]
    edges = np.quantile(gaps, [1 / 3, 2 / 3]) if gaps else np.zeros(2)
    return {
        id(one): STRENGTHS[0 if (gap := one.gap(kind)) is None else int(np.searchsorted(edges, gap, "left"))]
        for one in having
    }


def _lacks(
    cells: dict[tuple[str, str], list[Candidate]], chosen: Sequence[Selected], config: XDanceConfig
) -> list[str]:
    remarks = []
    for kind in KINDS:
        without = [driver for (driver, name), cell in cells.items() if name == kind and not cell]
        if without:
            remarks.append(f"no pair of kind {kind} for these drivers ({len(without)}): {', '.join(without[:5])}")
    if len(chosen) < config.num_pairs:
        remarks.append(f"{config.num_pairs} pairs were asked for, found {len(chosen)}: no more have a kind")
    measured = sum(
        "style" in one.candidate.kinds and one.candidate.measured["style_source"] == "measured" for one in chosen
    )
    if measured:
        remarks.append(
            f"the style of {measured} pairs is that of a picture statistic (share of flat colour), which does not tell "
            "drawings from photographs; state styles with --notes"
        )
    return remarks
