"""Distances between sets of features [N, D]: Fréchet (FID, FVD), kernel (KID), and their limit for many samples.

Features of the same network only. A Fréchet distance grows as N falls: print N beside it, or use `fid_infinity` or
`kernel_distance`, which have no such bias.
"""

from collections.abc import Sequence

import numpy as np

from ...datasets.arrays import Floats, Floats64

_NUM_SIZES = 8
_BLOCK = 1024  # rows of each side


def frechet_distance(x: Floats, y: Floats) -> float:
    """Return ‖μ_x − μ_y‖² + tr S_x + tr S_y − 2 tr √(S_x S_y), with covariances divided by N − 1.

    tr √(S_x S_y) is the nuclear norm of A Bᵀ / √((n − 1)(m − 1)) for the centred rows A and B: exact also where N < D,
    without the root of a singular product or an added ε.

    Args:
        x: [n, D], n ≥ 2.
        y: [m, D], m ≥ 2.

    Returns:
        NaN if a set has fewer than two rows.
    """
    x, y = _rows(x, y)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        return np.nan
    a, b = x - x.mean(0), y - y.mean(0)
    mean_term = float(((x.mean(0) - y.mean(0)) ** 2).sum())
    traces = float((a**2).sum()) / (n - 1) + float((b**2).sum()) / (m - 1)
    root = np.linalg.norm(_small(a) @ _small(b).T, "nuc") / np.sqrt((n - 1) * (m - 1))
    return mean_term + traces - 2 * float(root)


def kernel_distance(x: Floats, y: Floats) -> float:
    """Return the unbiased squared MMD with the kernel (xᵀ y / D + 1)³ (KID); about 0, also below, for equal sets.

    Args:
        x: [n, D], n ≥ 2.
        y: [m, D], m ≥ 2.

    Returns:
        NaN if a set has fewer than two rows.
    """
    x, y = _rows(x, y)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        return np.nan
    within_x = (_kernel_sum(x, x) - _kernel_diagonal_sum(x)) / (n * (n - 1))
    within_y = (_kernel_sum(y, y) - _kernel_diagonal_sum(y)) / (m * (m - 1))
    return within_x + within_y - 2 * _kernel_sum(x, y) / (n * m)


def humanvid_fvd(render: Floats, truth: Floats) -> float:
    """Return the mean of ‖a − b‖² over pairs of videos and prefix lengths: what HumanVid's code prints as FVD.

    It compares each video with its own truth, not two sets: never compare it with an FVD.

    Args:
        render: [P, K, D], one feature for each of P videos and K prefix lengths (10 to 24 frames).
        truth: same shape as `render`.

    Raises:
        ValueError: the shapes differ.
    """
    a, b = np.asarray(render, np.float64), np.asarray(truth, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"Features of shape {a.shape} cannot be paired with {b.shape}.")
    return float(((a - b) ** 2).sum(-1).mean()) if a.size else np.nan


def fid_infinity(
    x: Floats,
    y: Floats,
    sizes: Sequence[int] | None = None,
    permutation: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[float, float, Floats64]:
    """Estimate the Fréchet distance at infinitely many samples of x.

    Args:
        x: [n, D].
        y: [m, D], the larger set.
        sizes: subset sizes; by default eight from a quarter of n to n.
        permutation: order of x, of which each subset takes the first rows; by default drawn from `seed`.
        seed: of the permutation.

    Returns:
        The intercept and the slope of the least-squares line through the distances against 1 / size, and the distances.
    """
    x, y = _rows(x, y)
    if sizes is None:
        sizes = [int(size) for size in np.linspace(max(len(x) / 4, 2), len(x), _NUM_SIZES)]
    order = np.random.default_rng(seed).permutation(len(x)) if permutation is None else np.asarray(permutation)
    values = np.array([frechet_distance(x[order[:size]], y) for size in sizes])
    slope, intercept = np.polyfit(1 / np.asarray(sizes, np.float64), values, 1)
    return float(intercept), float(slope), values


def _rows(x: Floats, y: Floats) -> tuple[Floats64, Floats64]:
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"Expected features [n, D] and [m, D], got {a.shape} and {b.shape}.")
    return a, b


def _small(rows: Floats64) -> Floats64:
    """Return at most D rows with the same Gram matrix, which is all that the nuclear norm depends on."""
    return np.asarray(np.linalg.qr(rows, mode="r"), np.float64) if len(rows) > rows.shape[1] else rows


def _kernel_sum(x: Floats64, y: Floats64) -> float:
    """Return the sum of the kernel over all pairs, block by block: the frames of 500 videos are 10⁹ pairs."""
    starts = [range(0, len(rows), _BLOCK) for rows in (x, y)]
    return sum(
        float(((x[i : i + _BLOCK] @ y[j : j + _BLOCK].T / x.shape[1] + 1) ** 3).sum())
        for i in starts[0]
        for j in starts[1]
    )


def _kernel_diagonal_sum(x: Floats64) -> float:
    return float((((x**2).sum(1) / x.shape[1] + 1) ** 3).sum())
