"""Identity over time on embeddings whose similarities are known."""

from typing import Any

import numpy as np
import pytest

from steadydancer.models.metrics.identity import (
    cosine_similarity,
    distance_similarity,
    identity,
    mean_similarity,
    measure_identity,
)

NAN = [np.nan, np.nan]


class Judge:
    """Embeds a frame as two of its pixels, or as nothing if they are 255."""

    def __init__(self, name: str = "pixels", sees: int = 255) -> None:
        self.name, self.missing, self.sees = name, f"no_{name}", sees
        self.similarity = staticmethod(distance_similarity)

    def embed(self, frames: np.ndarray) -> np.ndarray:
        found = frames[:, 0, :2, 0].astype(np.float32) / 100
        found[frames[:, 0, 0, 0] >= self.sees] = np.nan
        return found


def picture(x: int, y: int = 0) -> np.ndarray:
    return np.broadcast_to(np.array([x, y], np.uint8)[None, :, None], (2, 2, 3)).copy()


def test_similarities_of_known_vectors() -> None:
    one, other = np.array([[0, 0], [3, 4]], np.float32), np.array([[3, 4], [3, 0], [0, 2]], np.float32)
    np.testing.assert_allclose(distance_similarity(one, other), [[-4, -2, -1], [1, -3, 1 - 13**0.5]])
    np.testing.assert_allclose(cosine_similarity(one, other), [[0, 0, 0], [1, 0.6, 0.8]], atol=1e-7)


def test_the_render_is_compared_with_the_reference_between_ceiling_and_floor() -> None:
    features = np.array([[0.1, 0], [0.2, 0], NAN, [0.4, 0]])
    real = np.array([[0, 0], [0, 0.3], NAN, [0.4, 0]])  # 0.3, 0.4 and 0.5 apart
    others = np.array([[0, 0.8], NAN, [0, 1]])
    found = identity(Judge(), features, np.array([0.0, 0]), 2.0, real, others)
    assert found.judge == "pixels" and found.reason is None
    assert found.over_time.mean == pytest.approx(1 - 0.7 / 3)
    assert found.over_time.last_quarter == pytest.approx(0.6)
    assert found.over_time.slope_per_s == pytest.approx(-0.2)  # times 0, 0.5 and 1.5 s, similarities .9, .8 and .6
    assert found.over_time.found_share == 0.75
    assert found.ceiling == pytest.approx(0.6)
    assert found.floor == pytest.approx(0.1)


def test_what_is_missing_is_nan_with_a_reason_and_the_rest_stays() -> None:
    real = np.array([[0, 0], [0, 0.3]])
    seen, unseen = np.array([[0.1, 0]]), np.array([NAN])
    without = identity(Judge(), np.repeat(seen, 4, 0), unseen[0], 2.0, real, seen)
    assert without.reason == "no_pixels_in_reference" and np.isnan(without.over_time.mean)
    assert without.ceiling == pytest.approx(0.7) and np.isnan(without.floor)
    # A tenth of the frames is enough, and less is not.
    for count, reason in ((9, None), (10, "no_pixels")):
        few = identity(Judge(), np.concatenate([seen, np.repeat(unseen, count, 0)]), seen[0], 2.0, None, unseen)
        assert few.reason == reason and np.isnan(few.ceiling) and np.isnan(few.floor)
        assert few.over_time.found_share == pytest.approx(1 / (count + 1))
        assert np.isnan(few.over_time.mean) == (reason is not None)
    empty = identity(Judge(), np.zeros((0, 2)), seen[0], 2.0)
    assert empty.reason == "no_pixels"
    assert np.isnan(mean_similarity(Judge(), np.concatenate([seen, unseen])))


def measured(judges: list[Judge], reference: int = 10) -> Any:
    frames = np.stack([picture(10), picture(30)])
    return measure_identity(
        judges,
        frames,
        picture(reference),
        8.0,
        real=np.stack([picture(0), picture(50)]),
        others=[picture(110), picture(90)],
    )


def test_the_first_judge_that_sees_the_person_measures_and_is_named() -> None:
    face, crop, blind = Judge("face", sees=255), Judge("crop"), Judge("none", sees=0)
    both = measured([face, crop])
    assert both.judge == "face" and both.reason is None
    assert both.over_time.mean == pytest.approx(0.9) and both.ceiling == pytest.approx(0.5)
    assert both.floor == pytest.approx(0.1)
    assert measured([blind, crop]) == both._replace(judge="crop")
    nobody = measured([Judge("face", sees=0), blind])
    assert nobody.judge == "none" and nobody.reason == "no_none_in_reference"
    assert measured([Judge("face", sees=20), crop]).judge == "face"  # half of the frames
