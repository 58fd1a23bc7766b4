"""Intervals by the bootstrap: of a mean, of a ratio of means, and of the paired difference of two methods.

Intervals are the 2.5th and 97.5th percentiles. NaN means not measured: such a clip is left out, and n counts the rest.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...datasets.arrays import Floats64

NUM_RESAMPLES = 10_000
_INTERVAL = (2.5, 97.5)
_NORMAL_95 = 1.959964

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


def interval_coverage(n: int) -> float:
    """Return the share of 95 % intervals of `bootstrap_mean` that contain the true mean, of n normal values.

    Resampled means are nearly normal with the variance s² (n − 1) / n², so an interval is mean ± 1.96 s √(n − 1) / n.
    It contains the true mean if |t| ≤ 1.96 √((n − 1) / n), for Student's t of n − 1 degrees of freedom (Abramowitz and
    Stegun, 26.7.3 and 26.7.4). Of skewed values the share is smaller.

    Args:
        n: number of clips, or of clusters.

    Raises:
        ValueError: n < 2, which has no interval.
    """
    if n < 2:
        raise ValueError(f"{n} values have no interval: at least 2 are needed")
    freedom = n - 1
    angle = math.atan(_NORMAL_95 / math.sqrt(n))  # tan θ = t / √ν
    is_odd = freedom % 2
    term = math.cos(angle) if is_odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + is_odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (k - 1) / k
        total += term
    within = math.sin(angle) * total
    return 2 / math.pi * (angle + within) if is_odd else within


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


def holm(p_values: ArrayLike) -> Floats64:
    """Return p-values adjusted for their number by Holm's method [N]; NaN stays NaN and is not counted."""
    values = np.asarray(p_values, np.float64)
    adjusted = np.full(values.shape, np.nan)
    order = np.argsort(values)[: int((~np.isnan(values)).sum())]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return adjusted


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
