"""Measure a long video where its windows begin and end, and from window to window.

Clips are uint8 RGB [F, H, W, 3]. A value that cannot be measured is NaN. The motion itself may be quick at a seam, or
return to where it began: compare each value with that of the truth at the same frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...datasets.arrays import Floats, Floats64, Frames
from .pixels import pixel_steps

NUM_SEAM_FRAMES = 8  # before and after a seam: two latent frames, half a second


def seam_jump(frames: Frames, seams: Sequence[int]) -> float:
    """Return the mean of `pixel_steps` into the frames `seams` over the median of the other steps.

    1 is an even motion. The first step is not counted: frame 0 is a picture of its own.

    Args:
        frames: [F, H, W, 3].
        seams: frames at which a window begins, or the first ones that a window no longer reaches, ≥ 2.

    Returns:
        NaN without seams or without motion elsewhere.
    """
    steps = pixel_steps(frames)
    at_seams = np.zeros(len(steps), bool)
    at_seams[[seam - 1 for seam in seams]] = True
    inside = steps[1:][~at_seams[1:]]
    if not at_seams.any() or not len(inside) or not (median := float(np.median(inside))) > 0:
        return np.nan
    return float(steps[at_seams].mean()) / median


def reference_return(
    frames: Frames, reference: Frames, seams: Sequence[int], num_frames: int = NUM_SEAM_FRAMES
) -> float:
    """Return how much nearer to the reference a video is after its seams than before: a ratio of distances.

    1 means no return; 2 that the frames after a seam are half as far from the reference as those before it.

    Args:
        frames: [F, H, W, 3].
        reference: [H, W, 3].
        seams: frames at which windows begin.
        num_frames: compared on each side of a seam; fewer at the end of the video or beside another seam.

    Returns:
        The mean root mean square distance before, over that after; each seam counts once. NaN without seams, or if all
        frames after them equal the reference.
    """
    distance = np.array([np.sqrt(((frame.astype(np.float64) - reference) ** 2).mean()) for frame in frames])
    bounds = [1, *sorted(seams), len(frames)]
    before, after = [], []
    for left, seam, right in zip(bounds, bounds[1:], bounds[2:], strict=False):
        before.append(distance[max(left, seam - num_frames) : seam].mean())
        after.append(distance[seam : min(right, seam + num_frames)].mean())
    if not after or not (beyond := float(np.mean(after))) > 0:
        return np.nan
    return float(np.mean(before)) / beyond


def mean_by_window(values: Floats, starts: Sequence[int]) -> Floats64:
    """Return the mean of a value per frame over the frames of each window [K], up to where the next one begins.

    Args:
        values: [F], one per frame; NaN where not measured.
        starts: first frames of the windows after the first.

    Returns:
        NaN for a window without a measured frame.
    """
    parts = np.split(np.asarray(values, np.float64), list(starts))
    return np.array([part[~np.isnan(part)].mean() if not np.isnan(part).all() else np.nan for part in parts])
