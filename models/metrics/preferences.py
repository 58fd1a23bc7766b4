"""What people prefer: strengths from pairwise votes, good/same/bad, and the agreement of a metric with people."""

import logging

import numpy as np
from numpy.typing import ArrayLike

from ...datasets.arrays import Floats, Floats64

PRIOR_VOTES = 0.5
_MAX_ITERATIONS, _TOLERANCE = 100_000, 1e-12

log = logging.getLogger(__name__)


def bradley_terry(wins: Floats, ties: Floats) -> Floats64:
    """Return the log strengths [M] of maximum likelihood, centred to a mean of 0: P(i beats j) = p_i / (p_i + p_j).

    A tie counts as half a win each. Finite strengths exist only if no group of methods won, or lost, all its votes
    against the rest; otherwise half a vote is added to each direction of each pair, with a warning.

    Args:
        wins: [M, M], how often i beat j.
        ties: [M, M], each tie once, above the diagonal.

    Raises:
        ValueError: the tables are not square or differ in shape, or contain negative counts.
    """
    wins, ties = np.asarray(wins, np.float64), np.triu(np.asarray(ties, np.float64), 1)
    if wins.ndim != 2 or wins.shape[0] != wins.shape[1] or ties.shape != wins.shape:
        raise ValueError(f"Expected two tables [M, M], got {wins.shape} and {ties.shape}.")
    if (wins < 0).any() or (ties < 0).any():
        raise ValueError("Votes cannot be negative.")
    votes = wins + (ties + ties.T) / 2
    np.fill_diagonal(votes, 0)
    if not _is_strongly_connected(votes > 0):
        log.warning("a method won or lost all its votes: half a vote is added to each direction of each pair")
        votes = votes + PRIOR_VOTES * (1 - np.eye(len(votes)))
    strengths, played = np.ones(len(votes)), votes + votes.T
    for _ in range(_MAX_ITERATIONS):  # Hunter's minorisation: converges wherever a maximum exists
        before = strengths
        strengths = votes.sum(1) / (played / (before[:, None] + before)).sum(1) if len(votes) > 1 else before
        strengths = strengths / np.exp(np.log(strengths).mean())
        if np.abs(np.log(strengths / before)).max() < _TOLERANCE:
            break
    return np.log(strengths)


def _is_strongly_connected(beats: np.ndarray) -> bool:
    reach = beats | np.eye(len(beats), dtype=bool)
    for _ in range(len(beats)):
        reach = (reach.astype(np.int64) @ reach) > 0
    return bool(reach.all())


def good_same_bad(good: float, same: float, bad: float) -> float:
    """Return (G − B) / (G + S + B) in [−1, 1]; NaN without votes."""
    total = good + same + bad
    return (good - bad) / total if total > 0 else np.nan


def kendall_tau_b(x: ArrayLike, y: ArrayLike) -> float:
    """Return Kendall's τ-b, the agreement of two orders with ties, in [−1, 1]; NaN if either is constant.

    Pairs of values of which one is NaN are left out.
    """
    x, y = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    both = ~(np.isnan(x) | np.isnan(y))
    sign_x, sign_y = (np.sign(values[both][:, None] - values[both]) for values in (x, y))
    untied = np.sqrt((sign_x**2).sum() * (sign_y**2).sum())
    return float((sign_x * sign_y).sum() / untied) if untied > 0 else np.nan
