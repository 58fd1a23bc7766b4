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
from .misalignment import Box, framing_gap, person_box, shown_parts, skeleton_gap, start_gap

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
        value = self.measured[f"{kind}_gap" if kind != "start_gap" else kind]
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
    flat = (image.row["flatness"], driving.row["flatness"])
    if None in flat:
        notes["style_gap"] = "a person is too small to measure the picture in"
    boxes = (image.box, driving.box)
    skeleton = skeleton_gap(image.pose, driving.pose, image.aspect, driving.aspect)
    if np.isnan(skeleton):
        notes["skeleton_gap"] = "fewer than four limbs are visible in both"
    gap, reason = start_gap(image.pose, driving.pose, image.aspect, driving.aspect)
    if reason:
        notes["start_gap"] = reason
    measured: dict[str, Any] = {
        "style_gap": None if None in flat else abs(flat[0] - flat[1]),
        "framing_gap": None if None in boxes else framing_gap(*boxes),
        "skeleton_gap": None if np.isnan(skeleton) else skeleton,
        "start_gap": None if np.isnan(gap) else gap,
        "style_source": "given" if is_given else "measured",
        "reference_style": styles[0],
        "driving_style": styles[1],
        "height_ratio": None if None in boxes else _height(boxes[0]) / max(_height(boxes[1]), 1e-6),
        "hidden_parts": sorted(driving.parts - image.parts),
    }
    thresholds = {kind: getattr(config, f"min_{kind}" if kind == "start_gap" else f"min_{kind}_gap") for kind in KINDS}
    kinds = [
        kind
        for kind in KINDS
        if (value := measured[kind if kind == "start_gap" else f"{kind}_gap"]) is not None and value >= thresholds[kind]
    ]
    if "framing" not in kinds and _LEGS & set(measured["hidden_parts"]):
        kinds.append("framing")
    if is_given:
        kinds = [*(["style"] if styles[0] != styles[1] else []), *(kind for kind in kinds if kind != "style")]
    return Candidate(image, driving, measured, tuple(kind for kind in KINDS if kind in kinds), notes)


def _height(box: Box | None) -> float:
    return 0.0 if box is None else box.bottom - box.top
