"""LPIPS and the similarity to a face over time, on the activations and embeddings of frozen networks."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...datasets.arrays import Floats, Floats64


def lpips_distance(activations: Sequence[Floats], others: Sequence[Floats], heads: Sequence[Floats]) -> float:
    """Return LPIPS v0.1 of two images: the sum over layers of the mean weighted squared difference.

    State the range of the pictures that went in: HumanVid and DisCo give the network [0, 1] where it expects [−1, 1],
    and get another number.

    Args:
        activations: per layer [C, h, w], of the first image.
        others: the same of the second image.
        heads: per layer [C], the non-negative weights of the linear heads.
    """
    total = 0.0
    for one, other, head in zip(activations, others, heads, strict=True):
        difference = (_unit_channels(one) - _unit_channels(other)) ** 2
        total += float(np.tensordot(np.asarray(head, np.float64).ravel(), difference, axes=1).mean())
    return total


def _unit_channels(activation: Floats) -> Floats64:
    values = np.asarray(activation, np.float64)
    return values / (np.sqrt((values**2).sum(0, keepdims=True)) + 1e-10)


class IdentityOverTime(NamedTuple):
    """Similarity to the reference face over the frames in which a face was found; NaN if there is none."""

    mean: float
    min: float
    percentile_5: float
    slope_per_s: float
    last_quarter: float
    found_share: float


def identity_over_time(similarity: Floats, fps: float) -> IdentityOverTime:
    """Describe the similarity to the reference face [F], NaN in frames without a face.

    The slope is that of least squares over the found frames, per second; the last quarter are frames from ⌈0.75 F⌉ on.
    Faces below about 40 pixels are not found, which does not make them unlike: print `found_share` beside the rest.

    Args:
        similarity: [F], a cosine, or 1 − distance.
        fps: frames per second.
    """
    values = np.asarray(similarity, np.float64)
    found = np.flatnonzero(~np.isnan(values))
    if not len(found):
        return IdentityOverTime(np.nan, np.nan, np.nan, np.nan, np.nan, 0.0 if len(values) else np.nan)
    seen, times_s = values[found], found / fps
    spread = ((times_s - times_s.mean()) ** 2).sum()
    slope = float(((times_s - times_s.mean()) * (seen - seen.mean())).sum() / spread) if spread > 0 else np.nan
    last = seen[found >= math.ceil(0.75 * len(values))]
    return IdentityOverTime(
        mean=float(seen.mean()),
        min=float(seen.min()),
        percentile_5=float(np.percentile(seen, 5)),
        slope_per_s=slope,
        last_quarter=float(last.mean()) if len(last) else np.nan,
        found_share=len(found) / len(values),
    )
