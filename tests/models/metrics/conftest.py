"""Values that the published implementations give on procedural inputs (tests/golden/README.md)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[2] / "golden" / "eval_1.npz"


@pytest.fixture(scope="session")
def golden() -> Mapping[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def _dance(seed: int, num_frames: int, size: tuple[int, int] = (400, 300)) -> tuple[np.ndarray, np.ndarray]:
    """A smooth walk of all joints about a body, all visible."""
    rng = np.random.default_rng(seed)
    body = rng.uniform(0.2, 0.8, (18, 2)) * size
    body[[1, 8, 11]] = (0.5 * size[0], 0.3 * size[1]), (0.45 * size[0], 0.6 * size[1]), (0.55 * size[0], 0.6 * size[1])
    t = np.arange(num_frames)[:, None, None]
    swing = np.sin(t * rng.uniform(0.1, 0.5, (1, 18, 2)) + rng.uniform(0, 6, (1, 18, 2)))
    return body + swing * rng.uniform(3, 20, (1, 18, 2)), np.ones((num_frames, 18), bool)


@pytest.fixture
def dance() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return _dance


def _same(ours: dict[str, Any], expected: Mapping[str, Any], tolerance: float = 1e-9) -> None:
    for key, value in expected.items():
        np.testing.assert_allclose(np.asarray(ours[key], float), value, rtol=tolerance, atol=tolerance, err_msg=key)


@pytest.fixture
def same() -> Callable[..., None]:
    return _same
