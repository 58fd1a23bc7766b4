"""How the joints of a render move, beside the driven ones: amount, correlation, lag, jerk, and a jump at the start.

u_t = p_{t+1} − p_t is the step of a joint that is visible in both frames.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...datasets.arrays import Floats64
from .pixels import START_STEPS
from .pose_points import Poses, Visible, ratio

MAX_LAG = 8  # frames
MIN_MOTION_RATIO = 0.05  # below it, a render is frozen: what moves is the estimator's noise
MIN_LAG_CORRELATION = 0.5
OUTLIER = 3.0  # × the 95th percentile of the driven steps: an estimator's slip, or a cut
MIRRORED_JOINTS = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)  # right and left exchanged


def steps(points: Floats64, visible: Visible) -> tuple[Floats64, Visible]:
    """Return the steps [F − 1, J, 2] and where they are valid [F − 1, J]."""
    return np.diff(points, axis=0), visible[1:] & visible[:-1]


def motion(poses: Poses, width: float) -> dict[str, float | Floats64]:
    """Compute the amount of motion, its correlation with the driven motion, and the lag of the render.

    `motion_ratio` is √(Σ ‖u_R‖² / Σ ‖u_D‖²) over steps valid in both. At or below 0.05 the correlations are 0, and
    there is no lag. `curve` holds C(ℓ) for ℓ = −8 … 8, `velocity_correlation` is C(0), `lag_correlation` the largest
    C(ℓ), and `lag` its ℓ, NaN if that C is below 0.5; a positive lag is a late render. `mirror_correlation` is C(0)
    after mirroring the render: larger than C(0) if the render has left and right exchanged.
    """
    driven, render = steps(poses.driven, poses.driven_visible), steps(poses.render, poses.render_visible)
    valid = driven[1] & render[1]
    amount = float(np.sqrt(ratio((render[0][valid] ** 2).sum(), (driven[0][valid] ** 2).sum())))
    curve = np.full(2 * MAX_LAG + 1, np.nan)
    if np.isnan(amount) or amount <= MIN_MOTION_RATIO:
        still = 0.0 if amount <= MIN_MOTION_RATIO else np.nan
        values = {"velocity_correlation": still, "lag": np.nan, "lag_correlation": np.nan, "mirror_correlation": still}
        return {"motion_ratio": amount, "curve": curve, **values}
    curve = velocity_curve(poses)
    lag, best = _lag(curve)
    return {
        "motion_ratio": amount,
        "velocity_correlation": float(curve[MAX_LAG]),
        "lag": lag,
        "lag_correlation": best,
        "curve": curve,
        "mirror_correlation": float(velocity_curve(_mirrored(poses, width))[MAX_LAG]),
    }


def velocity_curve(poses: Poses) -> Floats64:
    """Return C(ℓ) = Σ u_D[t] · u_R[t + ℓ] / √(Σ ‖u_D‖² Σ ‖u_R‖²) for ℓ = −8 … 8 [17].

    The sums run over steps that are valid in both tracks and no longer than 3 × the 95th percentile of the driven
    steps. NaN where fewer than half as many terms remain as at ℓ = 0.
    """
    (driven, driven_valid), (render, render_valid) = (
        steps(points, visible)
        for points, visible in ((poses.driven, poses.driven_visible), (poses.render, poses.render_visible))
    )
    curve = np.full(2 * MAX_LAG + 1, np.nan)
    lengths = np.linalg.norm(driven, axis=-1)
    if not driven_valid.any():
        return curve
    longest = OUTLIER * np.percentile(lengths[driven_valid], 95)
    driven_valid = driven_valid & (lengths <= longest)
    render_valid = render_valid & (np.linalg.norm(render, axis=-1) <= longest)
    enough = (driven_valid & render_valid).sum() / 2
    for lag in range(-MAX_LAG, MAX_LAG + 1):
        count = len(driven) - abs(lag)
        if count <= 0 or not enough:
            continue
        first, second = slice(max(-lag, 0), max(-lag, 0) + count), slice(max(lag, 0), max(lag, 0) + count)
        valid = driven_valid[first] & render_valid[second]
        if valid.sum() >= enough:
            u_d, u_r = driven[first][valid], render[second][valid]
            curve[lag + MAX_LAG] = ratio((u_d * u_r).sum(), np.sqrt((u_d**2).sum() * (u_r**2).sum()))
    return curve


def _lag(curve: Floats64) -> tuple[float, float]:
    """Return the lag of the largest C, of equal ones the shorter, then the positive one; and that C."""
    if np.isnan(curve).all():
        return np.nan, np.nan
    best = float(np.nanmax(curve))
    lags = [index - MAX_LAG for index in range(len(curve)) if curve[index] >= best - 1e-9]
    lag = min(lags, key=lambda lag: (abs(lag), -lag))
    return float(lag) if best >= MIN_LAG_CORRELATION else np.nan, best


def _mirrored(poses: Poses, width: float) -> Poses:
    joints = list(MIRRORED_JOINTS)
    render = poses.render[:, joints] * (-1, 1) + (width, 0)
    return Poses(poses.driven, poses.driven_visible, render, poses.render_visible[:, joints])


def jerk_ratio(poses: Poses) -> float:
    """Return Σ ‖third difference of R‖ / Σ ‖third difference of D‖ over four frames in which both show the joint.

    2 % of noise on a smooth track gives about 50: never compare an estimate with a noiseless pose.
    """
    if len(poses.driven) < 4:
        return np.nan
    both = poses.both
    valid = both[:-3] & both[1:-2] & both[2:-1] & both[3:]
    ours, theirs = (np.linalg.norm(np.diff(p, 3, axis=0), axis=-1)[valid].sum() for p in (poses.render, poses.driven))
    return ratio(ours, theirs)


def speed(points: Floats64, visible: Visible) -> Floats64:
    """Return the mean ‖u_t‖ in pixels over the joints that are valid in step t [F − 1]; NaN where there are none."""
    moves, valid = steps(points, visible)
    counts = valid.sum(1)
    sums = np.where(valid, np.linalg.norm(moves, axis=-1), 0).sum(1)
    return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def speed_jump(speeds: Floats64, num_start_steps: int = START_STEPS) -> float:
    """Return the largest of the first eight speeds over the median of the later ones; NaN if there is none.

    A dance itself may begin quickly: `jump_excess` divides the render's jump by that of the driven track.
    """
    first, later = speeds[:num_start_steps], speeds[num_start_steps:]
    if np.isnan(first).all() or np.isnan(later).all():
        return np.nan
    return ratio(np.nanmax(first), np.nanmedian(later))


def hides_start(metrics: Mapping[str, Any]) -> bool:
    """Return whether fewer than half of the first eight speeds are known: the render may jump in the others.

    Args:
        metrics: of `pose_metrics`. Without a torso they have no speeds, and this is False.
    """
    known = np.isfinite(metrics["speed"][:START_STEPS]).sum()
    return bool(metrics["torso_rule"]) and int(known) < START_STEPS // 2


def jumps(poses: Poses, torso_px: float) -> dict[str, float | Floats64]:
    """Compute `speed` of the render in torso lengths, and the jumps, which have no unit and need no torso."""
    ours, theirs = speed(poses.render, poses.render_visible), speed(poses.driven, poses.driven_visible)
    jump, jump_driven = speed_jump(ours), speed_jump(theirs)
    return {
        "speed": ours / torso_px,
        "jump": jump,
        "jump_driven": jump_driven,
        "jump_excess": ratio(jump, jump_driven),
    }
