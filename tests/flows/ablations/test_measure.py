"""Measuring: known answers on truths as renders, and what the small backbone's columns see."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steadydancer.flows.ablations import backbone
from steadydancer.flows.ablations.measure import (
    FVD,
    POSE_METRICS,
    RESOLVED_BY_JOINTS,
    RESOLVED_BY_PIXELS,
    Measured,
    _resolved,
    measure_renders,
)
from steadydancer.flows.ablations.world import GAPS, make_pairs
from steadydancer.flows.demo.dancers import PairSet
from steadydancer.models.components import load_components


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairSet:
    return make_pairs(tmp_path_factory.mktemp("world") / "pairs", num_pairs=1)


@pytest.fixture(scope="module")
def encoder(components: Path) -> Any:
    return load_components(str(components), ("image_encoder",), torch.float32)["image_encoder"]


@pytest.fixture(scope="module")
def measured(pairs: PairSet, encoder: Any) -> Measured:
    """Truths as renders of the clean pair and of the one with a gap, and a wrong truth as that of the noisy one."""
    videos = {name: pairs.video("truth", name) for name in ("clean-pair_0", "start_gap-pair_0")}
    videos["noisy-pair_0"] = pairs.video("wrong", "noisy-pair_0")
    return measure_renders(pairs, videos, json.loads((pairs.folder / GAPS).read_text()), encoder, None)


def test_a_truth_is_a_perfect_render_and_another_dance_is_not(measured: Measured) -> None:
    right, wrong = measured.videos["clean-pair_0"], measured.videos["noisy-pair_0"]
    assert right["person_psnr_db"] == right["psnr_db"] == 100 and right["start_gap_jump_excess"] == 1
    assert right["right_minus_wrong_db"] == -wrong["right_minus_wrong_db"] > 50
    assert set(measured.videos) == {"clean-pair_0", "noisy-pair_0", "start_gap-pair_0"}


def test_a_gap_is_resolved_or_not_and_without_one_nothing_is_said(measured: Measured) -> None:
    assert measured.videos["clean-pair_0"][RESOLVED_BY_PIXELS] is None
    assert measured.videos["start_gap-pair_0"][RESOLVED_BY_PIXELS] == 1
    assert [_resolved("start_gap-pair_0", jump) for jump in (1.29, 1.31)] == [1, 0]


def test_without_an_estimator_joints_are_not_measured(measured: Measured) -> None:
    values = measured.videos["clean-pair_0"]
    assert all(values[name] is None for name in (*POSE_METRICS, "pck_0_1_limbs", RESOLVED_BY_JOINTS))


def test_the_video_distance_of_a_set_to_itself_is_zero(measured: Measured) -> None:
    assert measured.distance(["clean-pair_0", "start_gap-pair_0"]) == pytest.approx(0, abs=1e-6)
    assert measured.distance(["clean-pair_0", "noisy-pair_0"]) > 1e-4
    assert measured.distance(["clean-pair_0"]) is None and FVD == "fvd[toydance-tower,8d]"


def test_the_background_columns_do_not_see_what_is_covered(encoder: Any) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    frames = np.repeat(image[None], 4, axis=0)
    covered = np.zeros((48, 48), bool)
    covered[10:30, 10:30] = True
    frames[2, 12:20, 12:20] = 255
    values, _ = backbone.subject_and_background(encoder, frames, image, covered)
    names = [f"{name}[{backbone.NAME}]" for name in ("i2v_subject", "i2v_background", "subject_consistency")]
    assert [*values] == names
    assert values[names[1]] == pytest.approx(1) and values[names[0]] < 1 - 1e-6 and values[names[2]] < 1 - 1e-6
