"""A source in pieces gives what it gives at once."""

from collections.abc import Callable

import numpy as np
import pytest

from steadydancer.datasets.arrays import Frames
from steadydancer.models.curation import shot_detector
from steadydancer.pipelines.curate.config import CurateConfig
from steadydancer.pipelines.curate.scores.shots import DETECTOR_CONTEXT, DETECTOR_STEP, ShotPass

CONFIG = CurateConfig(num_frames=21)
Span = tuple[int, int, int]


def source(num_frames: int = 400, seed: int = 0) -> Frames:
    """Small pictures whose colours change at once now and then, and slowly once."""
    chance = np.random.default_rng(seed)
    edges = np.sort(chance.choice(np.arange(8, num_frames - 8), 9, replace=False))
    colours = chance.integers(0, 255, (10, 3)).astype(float)
    shown = colours[np.searchsorted(edges, np.arange(num_frames), side="right")]
    dissolve = np.linspace(0, 1, 12)[:, None]
    shown[200:212] = (1 - dissolve) * shown[199] + dissolve * shown[212]
    noise = chance.normal(0, 6, (num_frames, 9, 12, 3))
    return np.clip(shown[:, None, None] + noise, 0, 255).astype(np.uint8)


def look_around(frames: Frames) -> np.ndarray:
    """A detector with TransNetV2's windows: what it says of a frame depends on 25 beyond its window on both sides."""
    means = frames.mean(axis=(1, 2, 3))
    windows = -(-len(means) // DETECTOR_STEP)
    after = windows * DETECTOR_STEP - len(means) + DETECTOR_CONTEXT
    padded = np.pad(means, (DETECTOR_CONTEXT, after), "edge")
    found = []
    for k in range(windows):
        window = padded[k * DETECTOR_STEP : k * DETECTOR_STEP + DETECTOR_STEP + 2 * DETECTOR_CONTEXT]
        steps = np.abs(np.diff(window, append=window[-1]))
        found.append((steps > 2 * steps.mean() + 2)[DETECTOR_CONTEXT:-DETECTOR_CONTEXT])
    return np.concatenate(found)[: len(means)].astype(np.float32)


def walked(frames: Frames, piece: int, detector: Callable[[Frames], np.ndarray] | None) -> tuple[list[Span], ShotPass]:
    seen, spans, held = ShotPass(CONFIG, detector), [], 0
    for first in range(0, len(frames) + 1, piece):  # the last one may be empty
        some = frames[first : first + piece]
        for shot, start, stop in seen.spans(some, ended=len(some) < piece):
            np.testing.assert_array_equal(seen.frames(start, stop), frames[start:stop])
            spans.append((shot, start, stop))
        assert seen._frames is not None
        held = max(held, len(seen._frames))
    assert piece > 100 or held < 220
    return spans, seen


@pytest.mark.parametrize("detector", [None, look_around])
@pytest.mark.parametrize("piece", [1, 7, 50, 64, 100, 401])
def test_spans_and_scores_are_the_same_however_the_source_is_cut(
    piece: int, detector: Callable[[Frames], np.ndarray] | None
) -> None:
    for seed in range(2):
        frames = source(seed=seed)
        spans, once = walked(frames, 1000, detector)
        again, pieces = walked(frames, piece, detector)
        assert again == spans and len({shot for shot, _, _ in spans}) > 3
        assert {stop - start == 21 for _, start, stop in spans} == {True, False}
        np.testing.assert_array_equal(pieces.change, once.change)
        np.testing.assert_array_equal(pieces.motion, once.motion)
        np.testing.assert_array_equal(pieces.transition, once.transition)


def test_a_source_without_a_shot_is_one() -> None:
    spans, _ = walked(source()[:60], 7, lambda frames: np.ones(len(frames), np.float32))
    assert spans == [(0, 0, 21), (0, 21, 42)]


def test_the_detector_has_the_windows_that_pieces_respect() -> None:
    assert DETECTOR_CONTEXT == shot_detector.CONTEXT
    assert DETECTOR_STEP == shot_detector.WINDOW - 2 * shot_detector.CONTEXT
