"""Two tracks of OpenPose's 18 joints in pixels: which joints are visible, their distances, and the person's size.

Letters: D driven, R render, v visible, e = ‖R − D‖ in pixels, L length of the torso. Both tracks must come from the
same estimator on pictures of equal size, frame by frame at equal times.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...datasets.arrays import Floats, Floats64

NECK, RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP = 1, 2, 5, 8, 11
LIMBS = (3, 4, 6, 7)  # elbows and wrists
BODY_14 = tuple(range(14))  # all but eyes and ears
SHOULDERS_PER_TORSO = 1.3

Visible = NDArray[np.bool_]


@dataclass(frozen=True)
class Poses:
    """A driven and a rendered track in float64: points [F, J, 2] in pixels (0 where invisible), visible [F, J]."""

    driven: Floats64
    driven_visible: Visible
    render: Floats64
    render_visible: Visible

    @classmethod
    def of(cls, driven: Floats, driven_visible: Visible, render: Floats, render_visible: Visible) -> "Poses":
        """Check shapes, and hide points that are not finite.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        d, r = np.asarray(driven, np.float64), np.asarray(render, np.float64)
        shapes = (d.shape, (*np.shape(driven_visible), 2), (*np.shape(render_visible), 2))
        if any(shape != r.shape for shape in shapes) or r.ndim != 3:
            raise ValueError(
                f"Expected points [F, J, 2] and visibility [F, J] of two tracks, got {d.shape} with "
                f"{np.shape(driven_visible)} and {r.shape} with {np.shape(render_visible)}."
            )
        return cls(*_hidden(d, driven_visible), *_hidden(r, render_visible))

    @property
    def both(self) -> Visible:
        """[F, J]: joints that are visible in both tracks."""
        return self.driven_visible & self.render_visible

    @property
    def errors(self) -> Floats64:
        """Distances e [F, J] in pixels; they mean something only where `both`."""
        return np.linalg.norm(self.render - self.driven, axis=-1)


def _hidden(points: Floats64, visible: Visible) -> tuple[Floats64, Visible]:
    seen = np.asarray(visible, bool) & np.isfinite(points).all(-1)
    return np.where(seen[..., None], points, 0.0), seen


def torso_length(points: Floats, visible: Visible) -> tuple[float, int]:
    """Return the length of a track's torso in pixels, and the rule that gave it.

    Rule 1: median over frames of ‖neck − middle of the hips‖. Rule 2, if no frame shows neck and both hips: of
    ‖neck − right hip‖, or the left one in frames without the right. Rule 3: 1.3 × the median width of the shoulders.
    Rule 0: none of them is visible, the length is NaN. Points that are not finite count as invisible.

    Args:
        points: [F, 18, 2] in pixels.
        visible: bool [F, 18].
    """
    points, seen = _hidden(np.asarray(points, np.float64), visible)
    neck, right, left = (points[:, joint] for joint in (NECK, RIGHT_HIP, LEFT_HIP))
    hip = np.where(seen[:, RIGHT_HIP, None], right, left)
    widths = SHOULDERS_PER_TORSO * np.linalg.norm(points[:, RIGHT_SHOULDER] - points[:, LEFT_SHOULDER], axis=-1)
    rules = (
        (np.linalg.norm(neck - (right + left) / 2, axis=-1), seen[:, [NECK, RIGHT_HIP, LEFT_HIP]].all(1)),
        (np.linalg.norm(neck - hip, axis=-1), seen[:, NECK] & seen[:, [RIGHT_HIP, LEFT_HIP]].any(1)),
        (widths, seen[:, [RIGHT_SHOULDER, LEFT_SHOULDER]].all(1)),
    )
    for rule, (lengths, measured) in enumerate(rules, start=1):
        if measured.any() and (length := float(np.median(lengths[measured]))) > 0:
            return length, rule
    return np.nan, 0


def ratio(numerator: float | np.floating, denominator: float | np.floating) -> float:
    """Divide; NaN where the denominator is 0 or NaN."""
    return float(numerator) / float(denominator) if denominator > 0 else np.nan


def mean(values: Floats64) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    measured = values[~np.isnan(values)]
    return float(measured.mean()) if len(measured) else np.nan
