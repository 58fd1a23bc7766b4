"""How often the bootstrap's 95 % intervals contain the true value, over simulated sets of clips.

Each kind of metric is a distribution whose mean is known, of which sets of N clips, pairs or driving videos are drawn:
near-normal (dB), with longer tails, skewed (distances), bounded with a mass near 1 (PCK), shares of 0 and 1 (resolved
start gaps), several pairs of one driving video, paired differences, and ratios of means (jumps). Prints one JSON line
for each kind and N: the share of intervals of `models/metrics/statistics.py` that contain the true value, and the
shares that lie below or above it. The first sets go through the functions themselves; the others through the same draws
as one matrix product, which must give the same intervals.

At N = 100 at least 0.93 is required of every kind but the last, `heavy tail`, whose skewness is 6: it shows where
intervals by the bootstrap end. `models.metrics.statistics.COVERAGE` repeats the smallest and largest shares; the lines
named `coverage` say whether it still does. `--alternatives` adds intervals by other methods: BCa, studentised, and
percentiles widened by Student's t (Hesterberg 2015).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from steadydancer.datasets.arrays import Floats32, Floats64
from steadydancer.models.metrics import statistics
from steadydancer.models.metrics.statistics import COVERAGE, NUM_RESAMPLES

REQUIRED_N, REQUIRED = 100, 0.93
TOLERANCE = 0.02  # of the tabulated shares: four standard errors of 2,000 sets
CHECKED_SETS = 3  # go through the functions
BLOCK = 250  # sets at a time: 20 MB
Ends = tuple[Floats64, Floats64]


class Sets(NamedTuple):
    """Simulated sets, the statistic being Σ sums / Σ weights over the drawn units, and how the project computes it.

    Args:
        sums: [sets, N], of each unit that is drawn: a clip, a pair, or a driving video.
        weights: [sets, N].
        truth: the true value.
        ours: number of a set → low and high by `statistics`.
    """

    sums: Floats64
    weights: Floats64
    truth: float
    ours: Callable[[int], tuple[float, float]]


def means(values: Floats64, truth: float) -> Sets:
    """Return sets of independent clips."""

    def ours(k: int) -> tuple[float, float]:
        return statistics.bootstrap_mean(values[k])[1:3]

    return Sets(values, np.ones_like(values), truth, ours)


def differences(rng: np.random.Generator, shape: tuple[int, int]) -> Sets:
    """Return paired differences of two methods of skewed errors, which are high on the same clips."""
    clip = rng.gamma(2, 0.5, shape)
    a, b = clip * rng.lognormal(0, 0.3, shape), 0.9 * clip * rng.lognormal(0, 0.3, shape)

    def ours(k: int) -> tuple[float, float]:
        return statistics.paired_bootstrap(a[k], b[k])[1:3]

    return Sets(b - a, np.ones(shape), float(-0.1 * np.exp(0.045)), ours)


def clustered(rng: np.random.Generator, shape: tuple[int, int], paired: bool) -> Sets:
    """Return sets of driving videos with one to eight pairs each, which have half of their variance in common."""
    counts = rng.integers(1, 9, shape)
    clusters = [np.repeat(np.arange(shape[1]), counts[k]) for k in range(shape[0])]
    pairs = [rng.normal(0, 1, int(counts[k].sum())) + (rng.gamma(2, 2**-0.5, shape[1]) - 2**0.5)[clusters[k]]
             for k in range(shape[0])]  # fmt: skip
    sums = np.array([np.bincount(clusters[k], pairs[k]) for k in range(shape[0])])

    def ours(k: int) -> tuple[float, float]:
        if paired:
            return statistics.paired_bootstrap(np.zeros_like(pairs[k]), pairs[k], clusters=clusters[k])[1:3]
        return statistics.bootstrap_clusters(pairs[k], clusters[k])[1:3]

    return Sets(sums, counts.astype(np.float64), 0.0, ours)


def ratios(rng: np.random.Generator, shape: tuple[int, int]) -> Sets:
    """Return jumps of renders and of their truths."""
    truths = rng.lognormal(0, 0.6, shape)
    renders = truths * rng.lognormal(0, 0.4, shape)

    def ours(k: int) -> tuple[float, float]:
        return statistics.bootstrap_ratio(renders[k], truths[k])[1:3]

    return Sets(renders, truths, float(np.exp(0.08)), ours)


HEAVY = "heavy tail: lognormal, σ 1"
KINDS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Sets]] = {
    "near-normal": lambda rng, shape: means(rng.normal(30, 3, shape), 30.0),
    "longer tails: Student's t, 5": lambda rng, shape: means(rng.standard_t(5, shape), 0.0),
    "skewed: lognormal, σ 0.5": lambda rng, shape: means(rng.lognormal(0, 0.5, shape), float(np.exp(0.125))),
    "skewed: exponential": lambda rng, shape: means(rng.exponential(1, shape), 1.0),
    "bounded: beta (4.5, 0.5), mean 0.9": lambda rng, shape: means(rng.beta(4.5, 0.5, shape), 0.9),
    "share: 0 or 1, mean 0.8": lambda rng, shape: means((rng.random(shape) < 0.8).astype(np.float64), 0.8),
    "clustered": lambda rng, shape: clustered(rng, shape, paired=False),
    "paired differences": differences,
    "paired differences, clustered": lambda rng, shape: clustered(rng, shape, paired=True),
    "ratios of means": ratios,
    HEAVY: lambda rng, shape: means(rng.lognormal(0, 1, shape), float(np.exp(0.5))),
}


def picks(n: int) -> Floats32:
    """Return how often each unit is drawn by the project's resamples [resamples, n]."""
    drawn = statistics._draw(n, 0) + n * np.arange(NUM_RESAMPLES)[:, None]
    return np.bincount(drawn.ravel(), minlength=NUM_RESAMPLES * n).reshape(NUM_RESAMPLES, n).astype(np.float32)


def blocks(sets: Sets, drawn: Floats32) -> Iterator[tuple[Floats32, Floats32, Floats32]]:
    """Yield the sums and weights of some sets, and their resampled statistics [block, resamples], sorted.

    In float32, because NumPy sorts it four times as fast.
    """
    for start in range(0, len(sets.sums), BLOCK):
        rows = slice(start, start + BLOCK)
        sums, weights = sets.sums[rows].astype(np.float32), sets.weights[rows].astype(np.float32)
        totals = weights @ drawn.T if np.ptp(weights) else weights[0].sum()
        yield sums, weights, np.sort((sums @ drawn.T) / totals, axis=1)


def at(ordered: Floats32, shares: Floats64 | float) -> Floats64:
    """Return a quantile of each row, linearly between the values as np.percentile: `shares` [rows] or one for all."""
    position = np.broadcast_to(shares, len(ordered)) * (ordered.shape[1] - 1)
    below = np.minimum(position.astype(int), ordered.shape[1] - 2)
    rows = np.arange(len(ordered))
    first, second = ordered[rows, below], ordered[rows, below + 1]
    return first + (position - below) * (second - first)


def percentile(sums: Floats32, weights: Floats32, ordered: Floats32, drawn: Floats32) -> Ends:
    """Return the intervals of `statistics`."""
    return at(ordered, 0.025), at(ordered, 0.975)


def widened(sums: Floats32, weights: Floats32, ordered: Floats32, drawn: Floats32) -> Ends:
    """Return percentiles farther out: of the normal law at √(n / (n − 1)) × Student's quantile."""
    n = sums.shape[1]
    t, nu = 1.959964, n - 1  # expansion of Student's quantile in 1 / ν
    t += (t**3 + t) / (4 * nu) + (5 * t**5 + 16 * t**3 + 3 * t) / (96 * nu**2)
    share = float(torch.special.ndtr(torch.tensor(-t * (n / (n - 1)) ** 0.5, dtype=torch.float64)))
    return at(ordered, share), at(ordered, 1 - share)


def bca(sums: Floats32, weights: Floats32, ordered: Floats32, drawn: Floats32) -> Ends:
    """Return bias-corrected and accelerated percentiles (Efron 1987)."""
    estimates = (sums.sum(1) / weights.sum(1))[:, None]
    below = ((ordered < estimates).mean(1) + (ordered == estimates).mean(1) / 2).clip(1e-4, 1 - 1e-4)
    bias = torch.special.ndtri(torch.from_numpy(below)).numpy()
    without = (sums.sum(1, keepdims=True) - sums) / (weights.sum(1, keepdims=True) - weights)
    moved = without.mean(1, keepdims=True) - without
    acceleration = (moved**3).sum(1) / np.maximum(6 * (moved**2).sum(1) ** 1.5, 1e-30)
    shares = []
    for z in (-1.959964, 1.959964):
        adjusted = bias + (bias + z) / (1 - acceleration * (bias + z))
        shares.append(torch.special.ndtr(torch.from_numpy(adjusted)).numpy())
    return at(ordered, shares[0]), at(ordered, shares[1])


def studentised(sums: Floats32, weights: Floats32, ordered: Floats32, drawn: Floats32) -> Ends:
    """Return intervals by the resampled t, with the linearised standard error; infinite where resamples have none."""
    estimates = sums.sum(1) / weights.sum(1)
    error = np.sqrt(((sums - estimates[:, None] * weights) ** 2).sum(1)) / weights.sum(1)
    tops, bottoms = sums @ drawn.T, weights @ drawn.T
    values = tops / bottoms
    squares = sums**2 @ drawn.T - 2 * values * ((sums * weights) @ drawn.T) + values**2 * (weights**2 @ drawn.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (values - estimates[:, None]) * bottoms / np.sqrt(np.maximum(squares, 0))
        t = np.sort(np.nan_to_num(t, nan=0.0), axis=1)
        low, high = estimates - at(t, 0.975) * error, estimates - at(t, 0.025) * error
    return np.nan_to_num(low, nan=-np.inf), np.nan_to_num(high, nan=np.inf)


METHODS = {"percentile": percentile, "widened": widened, "bca": bca, "studentised": studentised}


def measure(sets: Sets, drawn: Floats32, methods: list[str]) -> dict[str, tuple[float, float]]:
    """Return the shares of intervals that lie below and above the true value, by method."""
    missed = {name: np.zeros(2) for name in methods}
    for block, (sums, weights, ordered) in enumerate(blocks(sets, drawn)):
        for name in methods:
            low, high = METHODS[name](sums, weights, ordered, drawn)
            slack = 1e-6 * max(1.0, abs(sets.truth))  # a true value at the end of an interval is in it
            missed[name] += (high < sets.truth - slack).sum(), (low > sets.truth + slack).sum()
            if name == "percentile" and not block:
                for k in range(min(CHECKED_SETS, len(low))):
                    np.testing.assert_allclose((low[k], high[k]), sets.ours(k), rtol=1e-5, atol=1e-5)
    return {name: tuple(counts / len(sets.sums)) for name, counts in missed.items()}


def main() -> None:
    """Simulate, print, and fail where the intervals are too short at N = 100."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=6000, help="of each kind and N")
    parser.add_argument("--sizes", type=int, nargs="+", default=[*COVERAGE], metavar="N")
    parser.add_argument("--alternatives", action="store_true", help="also measure intervals by other methods")
    options = parser.parse_args()
    methods = list(METHODS) if options.alternatives else ["percentile"]
    start, failed = time.process_time(), []
    for n in options.sizes:
        drawn, shares = picks(n), {}
        for number, (kind, simulate) in enumerate(KINDS.items()):
            sets = simulate(np.random.default_rng([n, number]), (options.sets, n))
            missed = measure(sets, drawn, methods)
            shares[kind] = 1 - sum(missed["percentile"])
            below, above = (round(float(share), 4) for share in missed["percentile"])
            line = {"kind": kind, "n": n, "sets": options.sets, "contain": round(shares[kind], 4),
                    "below": below, "above": above}  # fmt: skip
            others = {name: round(1 - sum(found), 4) for name, found in missed.items() if name != "percentile"}
            print(json.dumps({**line, **others}, ensure_ascii=False), flush=True)
            if n == REQUIRED_N and kind != HEAVY and shares[kind] < REQUIRED:
                failed.append(kind)
        usual = [share for kind, share in shares.items() if kind != HEAVY]
        found = round(min(usual), 3), round(max(usual), 3)
        agrees = n in COVERAGE and all(abs(a - b) <= TOLERANCE for a, b in zip(COVERAGE[n], found, strict=True))
        print(json.dumps({"coverage": n, "smallest_largest": found, "tabulated": COVERAGE.get(n), "agrees": agrees}))
    print(json.dumps({"cpu_s": round(time.process_time() - start, 1), "failed": failed}))
    if failed:
        sys.exit(f"at N = {REQUIRED_N} fewer than {REQUIRED} of the intervals contain the true value: {failed}")


if __name__ == "__main__":
    main()
