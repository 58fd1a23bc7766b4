"""Drivers and pairs are selected in balance, nothing is relabelled, and what is lacking is said."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from steadydancer.datasets.benchmarks import KINDS
from steadydancer.pipelines.benchmarks.candidates import Candidate, File
from steadydancer.pipelines.benchmarks.config import XDanceConfig
from steadydancer.pipelines.benchmarks.selection import STRENGTHS, balance, select_drivers, select_pairs


def driver(name: str, motion: float | None = 1.0, dynamics: str | None = None, **scores: float) -> File:
    row: dict[str, Any] = {"id": name, "motion": motion, "dynamics": dynamics}
    return File(row | {"blur": 0.1, "occlusion": 0.1, "pose_change": 0.1} | scores)


def candidate(image: str, driving: str, **gaps: float | None) -> Candidate:
    names = {kind: kind if kind == "start_gap" else f"{kind}_gap" for kind in KINDS}
    measured: dict[str, Any] = {names[kind]: gaps.get(kind) for kind in KINDS} | {"style_source": "given"}
    return Candidate(driver(image), driver(driving), measured, tuple(kind for kind in KINDS if kind in gaps))


def test_drivers_by_what_makes_them_hard() -> None:
    drivers = [
        driver("fast", 3), driver("blurred", 1, blur=0.9), driver("hidden", 1, occlusion=0.8),
        driver("turning", 1, pose_change=2), driver("plain", 1), driver("calm", 0.1), driver("calmer", 0.05),
        driver("talk", 0.4),
    ]  # fmt: skip
    chosen, remarks = select_drivers(drivers, XDanceConfig(high_drivers=4, low_drivers=2))
    assert [one.id for one in chosen] == ["blurred", "hidden", "turning", "fast", "calmer", "calm"] and remarks == []


def test_drivers_that_are_lacking_are_not_replaced() -> None:
    drivers = [driver("a", 2), driver("b", 0.1), driver("c", 0.2), driver("lost", None)]
    chosen, remarks = select_drivers(drivers, XDanceConfig(high_drivers=2, low_drivers=1))
    assert [one.id for one in chosen] == ["a", "b"]
    assert remarks == [
        "2 drivers of much motion were asked for, found 1",
        "left out, as their motion is not measured (1): lost",
    ]


def test_given_dynamics_outrank_the_measure() -> None:
    drivers = [driver("a", 0.1, "high"), driver("b", 3, "low"), driver("c", None, "low")]
    chosen, _ = select_drivers(drivers, XDanceConfig(high_drivers=1, low_drivers=2))
    assert [one.id for one in chosen] == ["a", "b", "c"]


def test_pairs_are_balanced_over_kinds_strengths_drivers_and_images() -> None:
    rng = np.random.default_rng(0)
    gaps = {
        (f"i{i:02d}", f"d{d}"): {kind: float(rng.uniform(0.3, 1)) for kind in KINDS if rng.random() < 0.6}
        for d in range(6)
        for i in range(20)
    }
    candidates = [candidate(*names, **one) for names, one in gaps.items()]
    config = XDanceConfig(num_pairs=48)
    selected, remarks = select_pairs(candidates, config)
    assert len(selected) == 48 and remarks == []
    assert len({(one.candidate.image.id, one.candidate.driving.id) for one in selected}) == 48
    assert all(one.kind in one.candidate.kinds for one in selected)
    assert Counter(one.kind for one in selected) == dict.fromkeys(KINDS, 12)
    assert set(Counter(one.candidate.driving.id for one in selected).values()) == {8}
    assert max(Counter(one.candidate.image.id for one in selected).values()) <= 4
    counts = balance(selected)
    for by in counts["selected_for"].values():
        assert list(by) == list(STRENGTHS) and sum(by.values()) == 12 and min(by.values()) >= 3
    assert (counts["images"], counts["drivers"]) == (20, 6)
    # The same files in another order of reading give the same pairs.
    again, _ = select_pairs(candidates, config)
    assert again == selected


def test_strengths_are_thirds_of_the_measured_gaps() -> None:
    candidates = [candidate(f"i{k}", f"d{k}", skeleton=0.2 + k / 10) for k in range(6)]
    selected, _ = select_pairs(candidates, XDanceConfig(num_pairs=6))
    strength = {one.candidate.image.id: one.strength for one in selected}
    assert [strength[f"i{k}"] for k in range(6)] == ["mild", "mild", "medium", "medium", "strong", "strong"]


def test_a_kind_that_nobody_has_is_said() -> None:
    selected, remarks = select_pairs([candidate("i", "d", framing=0.9, style=None)], XDanceConfig(num_pairs=4))
    assert [(one.kind, one.strength) for one in selected] == [("style", "mild")]
    assert remarks == [
        "no pair of kind skeleton for these drivers (1): d",
        "no pair of kind start_gap for these drivers (1): d",
        "4 pairs were asked for, found 1: no more have a kind",
    ]


def test_a_measured_style_is_marked() -> None:
    one = candidate("i", "d", style=0.5)
    one.measured["style_source"] = "measured"
    _, remarks = select_pairs([one], XDanceConfig(num_pairs=1))
    assert "1 pairs is that of a picture statistic" in remarks[-1]


@pytest.mark.parametrize("field", ["num_pairs", "min_style_gap", "num_frames"])
def test_the_configuration_refuses_nothing_at_all(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        XDanceConfig.model_validate({field: 0})
