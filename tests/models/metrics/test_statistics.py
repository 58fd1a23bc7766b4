"""Intervals: published values with given draws, loops over the resamples, and known answers."""

import math
from collections.abc import Mapping

import numpy as np
import pytest

from steadydancer.models import metrics
from steadydancer.models.metrics import statistics


def test_published_values(golden: Mapping[str, np.ndarray]) -> None:
    a, b = golden["stats.a"], golden["stats.b"]
    paired = metrics.paired_bootstrap(a, b, golden["stats.index"])
    np.testing.assert_allclose(paired, golden["stats.paired_mean_low_high_p"], rtol=1e-9)
    clustered = metrics.paired_bootstrap(a, b, golden["stats.cluster_index"], golden["stats.cluster"])
    np.testing.assert_allclose(clustered[:3], golden["stats.cluster_mean_low_high"], rtol=1e-9)


def test_the_paired_bootstrap_by_loops() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 9))
        a, b = rng.normal(size=(2, n))
        a[rng.random(n) < 0.2], b[rng.random(n) < 0.2] = math.nan, math.nan
        clusters = rng.integers(0, 4, n) if rng.random() < 0.5 else np.arange(n)
        index = rng.integers(0, 100, (30, n + 2))
        pairs = [(b[i] - a[i], clusters[i]) for i in range(n) if not math.isnan(a[i] + b[i])]
        ours = metrics.paired_bootstrap(a, b, index, clusters if rng.random() < 0.5 else list(clusters))
        if not pairs:
            assert np.isnan(ours).all()
            continue
        names = sorted({name for _, name in pairs})
        means = []
        for row in index:
            drawn = [names[row[j] % len(names)] for j in range(len(names))]
            pooled = [difference for name in drawn for difference, other in pairs if other == name]
            means.append(sum(pooled) / len(pooled))
        low, high = np.percentile(means, [2.5, 97.5])
        p = min(1, 2 * min(np.mean([m <= 0 for m in means]), np.mean([m >= 0 for m in means])))
        np.testing.assert_allclose(ours, [np.mean([d for d, _ in pairs]), low, high, p], atol=1e-12)


def test_a_constant_difference_has_no_width() -> None:
    a = np.arange(6.0)
    same = metrics.paired_bootstrap(a, a)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    better = metrics.paired_bootstrap(a, a + 1)
    assert (better.mean, better.low, better.high, better.p) == (1, 1, 1, 0)


def test_draws_depend_on_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30))
    assert metrics.paired_bootstrap(a, b) == metrics.paired_bootstrap(a, b, seed=0)
    assert metrics.paired_bootstrap(a, b) != metrics.paired_bootstrap(a, b, seed=1)
    clusters = np.repeat(np.arange(3), 10)
    grouped = metrics.paired_bootstrap(a + clusters, b, clusters=clusters)
    alone = metrics.paired_bootstrap(a + clusters, b)
    assert grouped.high - grouped.low > alone.high - alone.low


def test_intervals_have_the_width_of_the_normal_law() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    mean, low, high, n = metrics.bootstrap_mean(values, seed=3)
    half = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean()) and n == 400
    assert low == pytest.approx(mean - half, abs=0.02) and high == pytest.approx(mean + half, abs=0.02)
    assert metrics.bootstrap_mean(values, seed=3) == (mean, low, high, n)
    difference = metrics.paired_bootstrap(np.zeros(400), values)
    assert difference.low == pytest.approx(low, abs=0.02) and difference.high == pytest.approx(high, abs=0.02)


def test_clips_without_a_value_are_left_out() -> None:
    assert metrics.bootstrap_mean([1.0, math.nan, 3.0]).mean == 2 and metrics.bootstrap_mean([1.0, math.nan]).n == 1
    assert metrics.bootstrap_mean([4.0]) == (4, 4, 4, 1)
    mean, low, high, n = metrics.bootstrap_mean([math.nan])
    assert n == 0 and np.isnan([mean, low, high]).all()
    assert np.isnan(metrics.paired_bootstrap([math.nan, 1], [1, math.nan])).all()


def test_a_ratio_is_that_of_means_over_whole_pairs() -> None:
    """The start-gap jump: renders that jump half as much as their truths have the ratio 0.5 in every resample."""
    truths = np.random.default_rng(0).uniform(1, 20, 24)
    half = metrics.bootstrap_ratio(truths / 2, truths)
    assert half.mean == half.low == half.high == pytest.approx(0.5) and half.n == 24
    renders = np.array([1.0, 3.0, math.nan, 8.0])
    ratio = metrics.bootstrap_ratio(renders, [2.0, 2.0, 5.0, math.nan])
    assert ratio.mean == 1 and ratio.n == 2  # 4 / 4, not the mean of 0.5 and 1.5
    assert (ratio.low, ratio.high) == (0.5, 1.5)
    uneven = metrics.bootstrap_ratio([1.0, 9.0], [1.0, 3.0])
    assert uneven.mean == 2.5 and (uneven.low, uneven.high) == (1, 3)
    assert metrics.bootstrap_ratio([math.nan], [1.0]).n == 0


def test_intervals_over_few_clips_carry_how_often_they_hold() -> None:
    assert metrics.small_n_remark(1) is None and metrics.small_n_remark(100) is None  # no interval; enough clips
    twelve = metrics.small_n_remark(12)
    assert twelve is not None and "over 12 " in twelve and "about 87 to 91 %" in twelve
    between = metrics.small_n_remark(23)  # what is known of 12, not of 24
    assert between is not None and "over 23 " in between and "about 87 to 91 %" in between
    assert all(metrics.small_n_remark(n) for n in range(2, 100))
    lows, highs = zip(*statistics.COVERAGE.values(), strict=True)
    assert [*lows] == sorted(lows) and [*highs] == sorted(highs) and lows[-1] >= 0.93


def test_intervals_hold_as_often_as_their_remark_says() -> None:
    """Normal clips: the largest share; `benchmarks/interval_coverage.py` has the other kinds."""
    sets = np.random.default_rng(0).normal(5, 1, (400, 12))
    intervals = [metrics.bootstrap_mean(values) for values in sets]
    assert np.mean([one.low <= 5 <= one.high for one in intervals]) == pytest.approx(
        statistics.COVERAGE[12][1], abs=0.04
    )


def test_holm_multiplies_by_the_tests_that_remain() -> None:
    adjusted = metrics.holm([0.04, 0.01, math.nan, 0.03, 0.9])
    np.testing.assert_allclose(adjusted, [0.09, 0.04, math.nan, 0.09, 0.9])
    np.testing.assert_allclose(metrics.holm([0.6, 0.7]), [1, 1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="Pairs of different number"):
        metrics.paired_bootstrap([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="fewer than 3 columns"):
        metrics.paired_bootstrap([1, 2, 3], [1, 2, 4], np.zeros((5, 2), int))


def test_intervals_over_seeds_and_pairs_of_known_values() -> None:
    """By hand: one pair or one spread alone is Student's interval; equal values have no width."""
    mean, low, high, n = metrics.crossed_interval([[1.0], [2.0], [3.0]])
    assert (mean, n) == (2, 1)
    assert [high - mean, mean - low] == pytest.approx([4.303 / math.sqrt(3)] * 2)
    pairs = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    ours = metrics.crossed_interval([pairs, pairs, pairs])  # no spread over seeds: Student's with 4 degrees of freedom
    assert ours.high - ours.mean == pytest.approx(2.776 * pairs.std(ddof=1) / math.sqrt(5))
    assert metrics.crossed_interval([[5.0, 5.0], [5.0, 5.0]])[:3] == (5, 5, 5)
    one = metrics.crossed_interval([[1.0, 3.0]])
    assert one.mean == 2 and math.isnan(one.low) and one.n == 2
    holes = metrics.crossed_interval([[1.0, math.nan, 3.0], [2.0, 9.0, 4.0]])
    assert holes.mean == 2.5 and holes.n == 2
    assert metrics.crossed_interval([[math.nan], [math.nan]]).n == 0


@pytest.mark.parametrize("spread_of_seeds", [0.0, 0.3, 1.0])
def test_intervals_over_seeds_and_pairs_contain_the_true_value(spread_of_seeds: float) -> None:
    """In at least 93 of 100 cases, whichever of the two spreads is the larger one, also with three seeds."""
    rng = np.random.default_rng(0)
    hits, trials = 0, 1000
    for _ in range(trials):
        values = rng.normal(0, spread_of_seeds, (3, 1)) + rng.normal(0, 1, (1, 12)) + rng.normal(0, 0.5, (3, 12))
        low, high = metrics.crossed_interval(values)[1:3]
        hits += low <= 0 <= high
    assert hits >= 0.93 * trials
