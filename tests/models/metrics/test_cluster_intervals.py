"""The interval of a mean over clips that depend on each other: known answers, and the width by clusters."""

import numpy as np
import pytest

from steadydancer.models.metrics.statistics import bootstrap_clusters, bootstrap_mean, paired_bootstrap


def test_single_clips_are_drawn_as_by_the_plain_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_clusters(values, np.arange(30)) == pytest.approx(bootstrap_mean(values))
    shared = np.arange(30) % 6
    against_zero = paired_bootstrap(np.zeros(30), values, clusters=shared)
    assert bootstrap_clusters(values, shared)[:3] == pytest.approx(against_zero[:3])


def test_the_width_is_that_of_the_clusters() -> None:
    """Twenty copies of each of five values are no more than five values."""
    values, clusters = np.repeat([1.0, 2, 4, 8, 16], 20), np.repeat(list("abcde"), 20)
    found = bootstrap_clusters(values, clusters)
    assert found.n == 5 and found.mean == values.mean()
    assert found == pytest.approx(bootstrap_clusters([1, 2, 4, 8, 16], list("abcde")))
    assert found.high - found.low > 3 * (bootstrap_mean(values).high - bootstrap_mean(values).low)


def test_weights_are_numbers_of_frames() -> None:
    found = bootstrap_clusters([1.0, 4.0, np.nan], ["a", "b", "c"], [3, 1, 100])
    assert (found.mean, found.n) == (1.75, 2) and (found.low, found.high) == (1.0, 4.0)
    assert bootstrap_clusters([2.0, 2.0], ["a", "b"], [1, 9]) == (2, 2, 2, 2)
    assert np.isnan(bootstrap_clusters([np.nan], ["a"]).mean)
