"""All pairs of the measured images and driving videos, with their misalignment and its kinds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ...datasets.benchmarks.pairs import KINDS
from ...datasets.schema import Row
from ...datasets.skeleton import PoseSequence
from .config import XDanceConfig
from .misalignment import MIN_LIMBS, Box, framing_gap, person_box, shown_parts, skeleton_gap, start_gap

_LEGS = {"leg_upper", "leg_lower"}


@dataclass(frozen=True)
class File:
    """A measured image or driving video."""

    row: Row

    @property
    def id(self) -> str:
        """Return the name that is unique among the files of its role."""
        return str(self.row["id"])

    @property
    def aspect(self) -> float:
        """Return width / height."""
        return float(self.row["width"] / self.row["height"])

    @cached_property
    def pose(self) -> PoseSequence:
        """Return the main person's pose."""
        return PoseSequence.from_bytes(self.row["pose"])

    @cached_property
    def box(self) -> Box | None:
        """Return the main person's box."""
        return person_box(self.pose)

    @cached_property
    def parts(self) -> set[str]:
        """Return the body parts that are shown."""
        return shown_parts(self.pose)


@dataclass(frozen=True)
class Candidate:
    """A possible pair: what was measured, its kinds of misalignment, and why a gap is null."""

    image: File
    driving: File
    measured: dict[str, Any]
    kinds: tuple[str, ...]
    notes: dict[str, str] = field(default_factory=dict)

    def gap(self, kind: str) -> float | None:
        """Return the measured gap of a kind."""
        value = self.measured[gap_name(kind)]
        return None if value is None else float(value)


def all_candidates(images: list[File], drivings: list[File], config: XDanceConfig) -> Iterator[Candidate]:
    """Yield every pair, measured."""
    for driving in drivings:
        for image in images:
            yield measure_pair(image, driving, config)


def measure_pair(image: File, driving: File, config: XDanceConfig) -> Candidate:
    """Measure the misalignment of one image and one driving video.

    `measured` has the four gaps (see `misalignment`); `style_source` and, with `--notes`, both styles; for the framing
    also `height_ratio` (of the boxes, reference over driving) and `hidden_parts`, which the video shows and the image
    does not. None: not measured; `notes` says why.
    """
    notes: dict[str, str] = {}
    styles = (image.row["style"], driving.row["style"])
    is_given = all(styles)
    one, other = image.box, driving.box
    framing = np.nan if one is None or other is None else framing_gap(one, other)
    skeleton = skeleton_gap(image.pose, driving.pose, image.aspect, driving.aspect)
    start, reason = start_gap(image.pose, driving.pose, image.aspect, driving.aspect)
    flat = (image.row["flatness"], driving.row["flatness"])
    gaps = {
        "style": (
            np.nan if None in flat else abs(flat[0] - flat[1]),
            "a person is too small to measure the picture in",
        ),
        "framing": (framing, "too few joints are visible to have a box"),
        "skeleton": (skeleton, f"fewer than {MIN_LIMBS} limbs are visible in both"),
        "start_gap": (start, reason or ""),
    }
    measured: dict[str, Any] = {}
    for kind, (value, why) in gaps.items():
        measured[gap_name(kind)] = None if np.isnan(value) else value
        if np.isnan(value):
            notes[gap_name(kind)] = why
    heights = (_height(one), _height(other))
    measured |= {
        "style_source": "given" if is_given else "measured",
        "reference_style": styles[0],
        "driving_style": styles[1],
        "height_ratio": heights[0] / heights[1] if all(heights) else None,
        "hidden_parts": sorted(driving.parts - image.parts),
    }
    least = {kind: getattr(config, f"min_{gap_name(kind)}") for kind in KINDS}
    kinds = [kind for kind in KINDS if not np.isnan(gaps[kind][0]) and gaps[kind][0] >= least[kind]]
    if "framing" not in kinds and _LEGS & set(measured["hidden_parts"]):
        kinds.append("framing")
    if is_given:
        kinds = [*(["style"] if styles[0] != styles[1] else []), *(kind for kind in kinds if kind != "style")]
    return Candidate(image, driving, measured, tuple(kind for kind in KINDS if kind in kinds), notes)


def gap_name(kind: str) -> str:
    """Return the name of a kind's gap in `measured`."""
    return kind if kind == "start_gap" else f"{kind}_gap"


def _height(box: Box | None) -> float:
    return 0.0 if box is None else box.bottom - box.top
