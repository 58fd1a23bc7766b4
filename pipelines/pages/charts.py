"""Charts for static pages: bars in tables, histograms with bounds. The markup contains no user-supplied text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ...datasets.arrays import Floats64, Integers

NUM_BINS = 40
WIDTH, HEIGHT, BASE = 320, 118, 92  # size of a histogram in px, and the y of its axis


@dataclass(frozen=True)
class Histogram:
    """Histogram of two groups of values.

    Args:
        edges: [n + 1], increasing, linear or (`is_log`) geometric; the first and last bin include all values beyond.
        accepted, rejected: [n] counts of each group.
        is_log: whether the axis is logarithmic.
        is_whole: whether the values are integers, each in the middle of a bin.
    """

    edges: Floats64
    accepted: Integers
    rejected: Integers
    is_log: bool
    is_whole: bool = False


def histogram(accepted: Floats64, rejected: Floats64, bounds: Sequence[float] = (), whole: bool = False) -> Histogram:
    """Count values in bins that span 99 % of them and the bounds; values beyond are counted in the outer bins.

    Args:
        accepted: values without NaN.
        rejected: values of the other group.
        bounds: values that the axis must include.
        whole: whether the values are integers.
    """
    both = np.concatenate([accepted, rejected])
    finite = both[np.isfinite(both)]
    marks = [*np.quantile(finite, (0.005, 0.995)), *bounds] if len(finite) else [0.0, 1.0, *bounds]
    low, high = float(min(marks)), float(max(marks))
    # If most values are positive and in the first tenth of the axis, a linear axis would show a single column.
    is_log = not whole and low > 0 and high > 100 * low and float(np.median(finite)) < high / 10
    if whole:
        low, high = np.floor(low), np.ceil(high)
        step = max(1.0, np.ceil((high - low + 1) / NUM_BINS))
        edges = np.arange(low - 0.5, high + step, step)
    elif is_log:
        edges = np.geomspace(low, high, NUM_BINS + 1)
    else:
        room = 0.02 * (high - low) or max(abs(low), 1.0) / 10
        edges = np.linspace(max(0.0, low - room) if low >= 0 else low - room, high + room, NUM_BINS + 1)
    return Histogram(edges, _count(accepted, edges), _count(rejected, edges), is_log, whole)


def _count(values: Floats64, edges: Floats64) -> Integers:
    inside = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    return np.bincount(inside, minlength=len(edges) - 1).astype(np.int64)


def draw_histogram(bins: Histogram, bounds: Sequence[tuple[str, float]] = ()) -> Markup:
    """Draw a histogram as inline SVG: accepted below, rejected on top; the range that the bounds reject is shaded.

    Args:
        bins: the counts.
        bounds: ("min" or "max", bound); of several on one side, the range that all of them reject is shaded.
    """
    tallest = max(1, int((bins.accepted + bins.rejected).max(initial=0)))
    scale = (BASE - 14) / tallest
    beside = 0.5 if bins.is_whole else 0.0  # the line of a bound "at most 1" is right of the bin of 1
    at = [(side, _position(bins, bound + (beside if side == "max" else -beside)), bound) for side, bound in bounds]
    left = min((x for side, x, _ in at if side == "min"), default=0.0)
    right = max((x for side, x, _ in at if side == "max"), default=WIDTH)
    pieces = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for start, stop in ((0.0, left), (right, WIDTH)):
        if stop > start:
            shape = f'x="{start:.1f}" y="8" width="{stop - start:.1f}" height="{BASE - 8}"'
            pieces.append(f'<rect {shape} fill="var(--shade)"/>')
    pieces.append(_bars(bins.accepted, np.zeros_like(bins.accepted), scale, "accepted"))
    pieces.append(_bars(bins.rejected, bins.accepted, scale, "rejected"))
    pieces.append(f'<path d="M0 {BASE}H{WIDTH}" stroke="var(--line)"/>')
    for _, x, bound in at:
        pieces.append(f'<path d="M{x:.1f} 8V{BASE}" stroke="var(--bound)" stroke-width="1.5"/>')
        pieces.append(_label(min(max(x, 14), WIDTH - 14), BASE + 24, f"{bound:.4g}", "middle", "var(--bound)"))
    low, high = bins.edges[0], bins.edges[-1]
    pieces.append(_label(0, BASE + 12, f"{low:.3g}", "start"))
    pieces.append(_label(WIDTH, BASE + 12, f"{high:.3g}{' (log)' if bins.is_log else ''}", "end"))
    pieces.append(_label(0, 8, f"{tallest:,}".replace(",", "\u202f"), "start"))
    return Markup("".join([*pieces, "</svg>"]))


def _position(bins: Histogram, value: float) -> float:
    low, high = bins.edges[0], bins.edges[-1]
    if bins.is_log:
        low, high, value = np.log(low), np.log(high), np.log(value)
    return float(np.clip((value - low) / (high - low), 0, 1) * WIDTH)


def _bars(counts: Integers, below: Integers, scale: float, tone: str) -> str:
    step = WIDTH / len(counts)
    pieces = []
    for index in np.flatnonzero(counts):
        height = max(1.0, float(counts[index]) * scale)  # keep a single clip among a million visible
        bottom = BASE - float(below[index]) * scale
        pieces.append(f"M{index * step + 0.4:.1f} {bottom:.1f}v-{height:.1f}h{step - 0.8:.1f}v{height:.1f}z")
    return f'<path class="{tone}" d="{"".join(pieces)}"/>'


def _label(x: float, y: float, text: str, anchor: str, colour: str = "") -> str:
    style = f' style="fill:{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}"{style}>{text}</text>'


def bar(shares: Sequence[tuple[float, str]]) -> Markup:
    """Draw a stacked bar for a table cell from (share of the full width, tone) pairs."""
    parts = "".join(
        f'<div class="bar {tone}" style="width:{100 * share:.2f}%"></div>' for share, tone in shares if share
    )
    return Markup(f'<div class="track" style="display:flex">{parts}</div>')
