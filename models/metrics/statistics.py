"""Intervals by the bootstrap: of a mean, of a ratio of means, and of the paired difference of two methods.

Intervals are the 2.5th and 97.5th percentiles; over few clips they carry `small_n_remark`. NaN means not measured: such
a clip is left out, and n counts the rest.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...datasets.arrays import Floats64

NUM_RESAMPLES = 10_000
_INTERVAL = (2.5, 97.5)
# Number of clips (of driving videos where several pairs share one) → smallest and largest share of 95 % intervals that
# contain the true value, over the kinds of metrics that `benchmarks/interval_coverage.py` simulates (30 November 2026).
COVERAGE = {
    2: (0.32, 0.5),
    3: (0.48, 0.75),
    4: (0.56, 0.8),
    5: (0.67, 0.84),
    12: (0.87, 0.91),
    24: (0.9, 0.94),
    50: (0.93, 0.95),
    100: (0.93, 0.96),
}
MANY_CLIPS = max(COVERAGE)

# Degrees of freedom → 97.5th percentile of Student's distribution.
_STUDENT = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228,
    12: 2.179, 15: 2.131, 20: 2.086, 30: 2.042, 60: 2.0, 120: 1.98, 1e9: 1.96,
}  # fmt: skip

Index = NDArray[np.integer]


class Interval(NamedTuple):
    """A mean (or ratio), its 95 % interval, and the number of clips it is over."""

    mean: float
    low: float
    high: float
    n: int


class PairedDifference(NamedTuple):
    """The mean of b − a, its 95 % interval, and the two-sided p."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap_mean(values: ArrayLike, seed: int = 0) -> Interval:
    """Return the mean over clips and its interval: clips are drawn with replacement 10,000 times.

    Args:
        values: [N], one per clip; NaN where not measured.
        seed: of the draws.
    """
    measured = np.asarray(values, np.float64).ravel()
    measured = measured[~np.isnan(measured)]
    n = len(measured)
    if not n:
        return Interval(np.nan, np.nan, np.nan, 0)
    low, high = np.percentile(measured[_draw(n, seed)].mean(1), _INTERVAL)
    return Interval(float(measured.mean()), float(low), float(high), n)


def bootstrap_clusters(
    values: ArrayLike, clusters: ArrayLike, weights: ArrayLike | None = None, seed: int = 0
) -> Interval:
    """Return the weighted mean over clips and its interval: clusters are drawn with replacement, with all their clips.

    Args:
        values: [N], one per clip; NaN where not measured.
        clusters: [N], equal for clips that depend on each other, such as those with one driving video.
        weights: [N], for example numbers of frames; None: equal.
        seed: of the draws.

    Returns:
        The interval, whose `n` is the number of clusters.
    """
    measured = np.asarray(values, np.float64).ravel()
    known = ~np.isnan(measured)
    shares = np.ones(len(measured)) if weights is None else np.asarray(weights, np.float64).ravel()
    if not known.any():
        return Interval(np.nan, np.nan, np.nan, 0)
    measured, shares = measured[known], shares[known]
    _, group = np.unique(np.asarray(clusters).ravel()[known], return_inverse=True)
    sums, totals = np.bincount(group, measured * shares), np.bincount(group, shares)
    draws = _draw(len(sums), seed)
    low, high = np.percentile(sums[draws].sum(1) / totals[draws].sum(1), _INTERVAL)
    return Interval(float(sums.sum() / totals.sum()), float(low), float(high), len(sums))


def bootstrap_ratio(numerators: ArrayLike, denominators: ArrayLike, seed: int = 0) -> Interval:
    """Return the mean of the numerators over the mean of the denominators, and its interval over pairs.

    The start-gap jump of a method is such a ratio: `pixel_jump` of the renders over that of the truths. A pair is drawn
    as a whole, and left out if either of its values is not measured.

    Args:
        numerators: [N], one per pair.
        denominators: [N], of the same pairs.
        seed: of the draws.
    """
    above, below, _ = _pairs(numerators, denominators, None)
    n = len(above)
    if not n:
        return Interval(np.nan, np.nan, np.nan, 0)
    draws = _draw(n, seed)
    low, high = np.percentile(above[draws].mean(1) / below[draws].mean(1), _INTERVAL)
    return Interval(float(above.mean() / below.mean()), float(low), float(high), n)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    index: Index | None = None,
    clusters: ArrayLike | None = None,
    seed: int = 0,
) -> PairedDifference:
    """Compare two methods on the pairs that both have: mean of b − a, its interval, and p.

    p = min(1, 2 min(P(≤ 0), P(≥ 0))) over the resampled means.

    Args:
        a: [N], a metric of each pair; NaN where the method has none.
        b: [N], of the other method, in the same order.
        index: [draws, ≥ n] of integers to resample by: of the n pairs (or clusters) that both methods have, column
            j < n of a row picks number `index[row, j] % n`. By default 10,000 rows are drawn from `seed`.
        clusters: [N], equal for pairs that depend on each other, such as those with one driving video. Clusters are
            drawn instead of pairs, in the order of their sorted values, and the pairs of the drawn clusters are pooled.
        seed: of the draws.

    Returns:
        NaN if the methods have no pair in common.

    Raises:
        ValueError: lengths differ, or `index` has too few columns.
    """
    first, second, groups = _pairs(a, b, clusters)
    differences = second - first
    if not len(differences):
        return PairedDifference(np.nan, np.nan, np.nan, np.nan)
    _, group = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group, differences), np.bincount(group)
    n = len(sums)
    draws = _draw(n, seed) if index is None else _picks(index, n)
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, _INTERVAL)
    p = min(1.0, 2 * min(float((means <= 0).mean()), float((means >= 0).mean())))
    return PairedDifference(float(differences.mean()), float(low), float(high), p)


def crossed_interval(values: ArrayLike) -> Interval:
    """Return the mean over training seeds and pairs and its 95 % interval, where both are samples of many.

    The variance of the mean is that of the seeds' means over S plus that of the pairs' means over P, which is a little
    too large, because each contains the scatter that is left. Its degrees of freedom are Satterthwaite's. For paired
    differences, pass the differences.

    Args:
        values: [S, P], of every seed on the same P pairs; P is 1 for a metric of a whole set. A pair that a seed does
            not measure (NaN) is left out of all seeds.

    Returns:
        The interval, whose `n` is the number of pairs counted. Its ends are NaN for one seed.
    """
    measured = np.atleast_2d(np.asarray(values, np.float64))
    measured = measured[:, ~np.isnan(measured).any(axis=0)]
    seeds, pairs = measured.shape
    if not measured.size:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(measured.mean())
    if seeds < 2:
        return Interval(mean, np.nan, np.nan, pairs)
    by_seed = float(measured.mean(1).var(ddof=1)) / seeds
    by_pair = float(measured.mean(0).var(ddof=1)) / pairs if pairs > 1 else 0.0
    variance = by_seed + by_pair
    if variance <= 0:
        return Interval(mean, mean, mean, pairs)
    freedom = variance**2 / (by_seed**2 / (seeds - 1) + by_pair**2 / max(pairs - 1, 1))
    reach = _student(freedom) * float(np.sqrt(variance))
    return Interval(mean, mean - reach, mean + reach, pairs)


def _student(freedom: float) -> float:
    """Return the 97.5th percentile of Student's distribution, interpolated over the inverse degrees of freedom."""
    inverse = [1 / key for key in reversed(_STUDENT)]
    return float(np.interp(1 / max(freedom, 1.0), inverse, [*reversed(_STUDENT.values())]))


def holm(p_values: ArrayLike) -> Floats64:
    """Return p-values adjusted for their number by Holm's method [N]; NaN stays NaN and is not counted."""
    values = np.asarray(p_values, np.float64)
    adjusted = np.full(values.shape, np.nan)
    order = np.argsort(values)[: int((~np.isnan(values)).sum())]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return adjusted


def interval_coverage(n: int) -> tuple[float, float] | None:
    """Return the smallest and largest share of 95 % intervals over n clips that contain the true value.

    The bootstrap's intervals are too short for few clips. Of `COVERAGE`, the largest number that is at most n counts.

    Args:
        n: number of clips or pairs; of driving videos where several pairs share one (`Interval.n`).

    Returns:
        None for fewer than 2 clips, which have no interval, and for at least `MANY_CLIPS`, whose interval holds.
    """
    if n < min(COVERAGE) or n >= MANY_CLIPS:
        return None
    return COVERAGE[max(size for size in COVERAGE if size <= n)]


def small_n_remark(n: int) -> str | None:
    """Return the remark that an interval over n clips must carry; None where it need not."""
    shares = interval_coverage(n)
    if shares is None:
        return None
    return (
        f"an interval over {n} is too short: about {shares[0] * 100:.0f} to {shares[1] * 100:.0f} % of such intervals "
        "contain the true value, not 95 %"
    )


def _pairs(a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None) -> tuple[Floats64, Floats64, NDArray]:
    first, second = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    groups = np.arange(len(first)) if clusters is None else np.asarray(clusters).ravel()
    if not len(first) == len(second) == len(groups):
        raise ValueError(f"Pairs of different number: a has {len(first)}, b {len(second)}, clusters {len(groups)}.")
    both = ~(np.isnan(first) | np.isnan(second))
    return first[both], second[both], groups[both]


def _picks(index: Index, n: int) -> Index:
    picks = np.asarray(index)
    if picks.ndim != 2 or picks.shape[1] < n:
        raise ValueError(f"The index of shape {picks.shape} has fewer than {n} columns.")
    return picks[:, :n].astype(np.int64) % n


def _draw(n: int, seed: int) -> Index:
    return np.random.default_rng(seed).integers(0, n, (NUM_RESAMPLES, n))
