"""Curves over steps for static pages: means with a min–max band. The markup contains no user-supplied text."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from ...datasets.arrays import Floats64

WIDTH, HEIGHT, TOP, BASE = 320, 128, 14, 102
NUM_POINTS = 160  # more would not be visible
TONES = ("accepted", "rejected", "quarantined")  # the page's colours, in turn; then the same, dashed


def draw_curves(lines: Sequence[tuple[Floats64, Floats64]], floor: float | None = None) -> Markup:
    """Draw lines in one frame as inline SVG; many points are averaged, with a band from minimum to maximum.

    Args:
        lines: (x increasing, y) of each line, of equal lengths; values that are not finite are skipped.
        floor: start of the y axis; None uses the smallest value.

    Returns:
        A drawing with the text "not measured" if no line has a point.
    """
    binned = [_binned(*line) for line in lines]
    points = [line for line in binned if len(line)]
    if not points:
        return Markup('<svg viewBox="0 0 320 24"><text x="0" y="14">not measured</text></svg>')
    every = np.concatenate(points)
    ends = [x[np.isfinite(y)][[0, -1]] for x, y in lines if np.isfinite(y).any()]
    left, right = float(np.min(ends)), float(np.max(ends))
    low, high = float(every[:, 2].min()) if floor is None else floor, float(every[:, 3].max())
    across, up = WIDTH / max(right - left, 1e-12), (BASE - TOP) / max(high - low, 1e-12)
    pieces = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><path d="M0 {BASE}H{WIDTH}" stroke="var(--line)"/>']
    for index, line in enumerate(binned):
        if len(line):
            x, placed = (line[:, 0] - left) * across, BASE - (line[:, 1:] - low) * up
            pieces.append(_curve(x, placed, index))
    pieces += [_label(0, BASE + 14, f"step {left:g}", "start"), _label(WIDTH, BASE + 14, f"{right:g}", "end")]
    pieces += [_label(0, TOP - 4, f"{high:.4g}", "start"), _label(0, BASE - 3, f"{low:.4g}", "start")]
    return Markup("".join([*pieces, "</svg>"]))


def legend(names: Sequence[str]) -> str:
    """Return the colour and style of each line of `draw_curves`, as text for a caption."""
    colours = ("blue", "orange", "violet")
    return ", ".join(f"{colours[i % 3]}{' dashed' if i // 3 else ''}: {name}" for i, name in enumerate(names))


def _binned(x: Floats64, y: Floats64) -> Floats64:
    """Return [n, 4]: x, mean, minimum and maximum of at most `NUM_POINTS` groups of neighbours."""
    is_finite = np.isfinite(y)
    groups = zip(*(np.array_split(values[is_finite], NUM_POINTS) for values in (x, y)), strict=True)
    rows = [(xs.mean(), ys.mean(), ys.min(), ys.max()) for xs, ys in groups if len(xs)]
    return np.array(rows).reshape(-1, 4)


def _curve(x: Floats64, placed: Floats64, index: int) -> str:
    tone, dashes = TONES[index % len(TONES)], ' stroke-dasharray="4 3"' if index >= len(TONES) else ""
    mean, least, greatest = placed.T
    band = _path([*zip(x, least, strict=True), *zip(x[::-1], greatest[::-1], strict=True)]) + "z"
    if len(x) == 1:
        return f'<circle class="{tone}" cx="{x[0]:.1f}" cy="{mean[0]:.1f}" r="3"/>'
    line = _path(list(zip(x, mean, strict=True)))
    style = f'style="stroke:var(--{tone});fill:none"'
    return f'<path class="{tone}" d="{band}" opacity=".25"/><path {style} stroke-width="1.5"{dashes} d="{line}"/>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{text}</text>'
