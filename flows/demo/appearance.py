"""What a dancer looks like, as the colours of body parts, to ask whose identity a render shows."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ...datasets.arrays import Floats, Floats64, Frames

# Parts of the body as points between two of OpenPose's joints: (joint, joint, share of the way), left and right alike.
_PARTS: tuple[tuple[tuple[int, int, float], ...], ...] = (
    ((1, 0, 1.0),),  # face
    ((1, 0, 1.75),),  # hair
    ((1, 8, 0.35), (1, 11, 0.35)),  # chest
    ((1, 8, 0.75), (1, 11, 0.75)),  # waist
    ((2, 3, 0.5), (5, 6, 0.5)),
    ((3, 4, 0.6), (6, 7, 0.6)),
    ((8, 9, 0.5), (11, 12, 0.5)),
    ((9, 10, 0.5), (12, 13, 0.5)),
    ((9, 10, 1.0), (12, 13, 1.0)),  # feet
)


def appearance(frames: Frames, points: Floats, visible: np.ndarray) -> Floats64:
    """Return the median colours of nine parts of the body over a clip, in CIE Lab [9, 3]; NaN where none is visible.

    Args:
        frames: [F, H, W, 3].
        points: [F, 18, 2], the joints in pixels.
        visible: bool [F, 18].
    """
    lab = [cv2.cvtColor(cv2.GaussianBlur(frame, (3, 3), 0).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
           for frame in frames]  # fmt: skip
    height, width = frames.shape[1:3]
    colours = np.full((len(_PARTS), 3), np.nan)
    for part, places in enumerate(_PARTS):
        seen = []
        for start, end, share in places:
            way = (1 - share) * points[:, start] + share * points[:, end]
            pixels = np.floor(way).astype(int)
            inside = ((pixels >= 0) & (pixels < (width, height))).all(1) & visible[:, start] & visible[:, end]
            seen += [lab[t][pixels[t, 1], pixels[t, 0]] for t in np.flatnonzero(inside)]
        if seen:
            colours[part] = np.median(np.asarray(seen, np.float64), axis=0)
    return colours


def nearest(query: Floats64, gallery: Sequence[Floats64]) -> int:
    """Return the index of the appearance in `gallery` with the smallest mean distance over the parts that both have.

    Returns:
        −1 if no part is measured in both.
    """
    distances = [np.linalg.norm(query - other, axis=-1) for other in gallery]
    means = [float(np.nanmean(each)) if not np.isnan(each).all() else np.inf for each in distances]
    return int(np.argmin(means)) if np.isfinite(means).any() else -1
