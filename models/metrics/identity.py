"""Identity of the person over time: how similar each frame is to the reference, between a ceiling and a floor."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ...datasets.arrays import Floats, Floats32, Floats64, Frames
from .perceptual import IdentityOverTime, identity_over_time

MIN_FOUND_SHARE = 0.1  # of the frames; what is seen in fewer of them says nothing about the clip


class IdentityJudge(Protocol):
    """A network that embeds a person.

    Attributes:
        name: of the network and what it sees.
        missing: reason of a clip in which it finds nothing to embed.
    """

    name: str
    missing: str

    def embed(self, frames: Frames) -> Floats32:
        """Return an embedding of each frame [F, D], NaN where nothing is found."""
        ...

    def similarity(self, features: Floats, others: Floats) -> Floats64:
        """Compare embeddings [N, D] with others [M, D]: [N, M], 1 for equal ones."""
        ...


class Identity(NamedTuple):
    """The similarity to the reference over time, and what it is to be compared with.

    Attributes:
        judge: name of the judge.
        over_time: statistics over the frames.
        ceiling: mean similarity of different real frames of one person; NaN if unknown.
        floor: mean similarity of other people to the reference; NaN if unknown.
        reason: why nothing was measured; None if it was.
    """

    judge: str
    over_time: IdentityOverTime
    ceiling: float
    floor: float
    reason: str | None = None


def distance_similarity(features: Floats, others: Floats) -> Floats64:
    """Return 1 − the Euclidean distance of embeddings [N, D] and [M, D]: [N, M]; 0.4 is dlib's usual threshold."""
    one, other = np.asarray(features, np.float64), np.asarray(others, np.float64)
    distances = [np.linalg.norm(row - other, axis=-1) for row in one]  # not all differences [N, M, D] at once
    return 1 - np.array(distances).reshape(len(one), len(other))


def cosine_similarity(features: Floats, others: Floats) -> Floats64:
    """Return the cosine of embeddings [N, D] and [M, D]: [N, M]."""
    one, other = (np.asarray(values, np.float64) for values in (features, others))
    lengths = np.linalg.norm(one, axis=-1)[:, None] * np.linalg.norm(other, axis=-1)
    return (one @ other.T) / np.maximum(lengths, 1e-12)


def measure_identity(
    judges: Sequence[IdentityJudge],
    frames: Frames,
    reference: Frames,
    fps: float,
    real: Frames | None = None,
    others: Sequence[Frames] = (),
) -> Identity:
    """Measure by the first judge that sees the person; the result names it. Never compare results of two judges.

    Args:
        judges: in order of preference, at least one: a face is more exact than clothes.
        frames: the render, uint8 RGB [F, H, W, 3].
        reference: the reference image [H, W, 3].
        fps: frames per second.
        real: frames of the driving video or of the truth [G, H, W, 3], for the ceiling.
        others: images of other people, each [H, W, 3], for the floor.
    """
    for judge in judges:
        found = identity(
            judge,
            judge.embed(frames),
            judge.embed(reference[None])[0],
            fps,
            None if real is None else judge.embed(real),
            np.concatenate([judge.embed(image[None]) for image in others]) if others else None,
        )
        if found.reason is None:
            break
    return found


def identity(
    judge: IdentityJudge,
    features: Floats,
    reference: Floats,
    fps: float,
    real: Floats | None = None,
    others: Floats | None = None,
) -> Identity:
    """Measure identity on embeddings, NaN rows where nothing was found.

    Args:
        judge: compares the embeddings.
        features: of the render [F, D].
        reference: of the reference image [D].
        fps: frames per second.
        real: of real frames of one person [G, D].
        others: of other people [K, D].

    Returns:
        NaN and a reason, `missing` of the judge, if it finds the person in less than a tenth of the frames; with
        `_in_reference` if it does not find it in the reference.
    """
    ceiling = np.nan if real is None else mean_similarity(judge, real)
    if np.isnan(reference).any():
        return Identity(judge.name, _nothing(features), ceiling, np.nan, f"{judge.missing}_in_reference")
    floor = np.nan
    if others is not None and len(seen := _found(others)):
        floor = float(judge.similarity(seen, reference[None]).mean())
    over_time = identity_over_time(judge.similarity(features, reference[None])[:, 0], fps)
    if not over_time.found_share >= MIN_FOUND_SHARE:
        return Identity(judge.name, _nothing(features), ceiling, floor, judge.missing)
    return Identity(judge.name, over_time, ceiling, floor)


def mean_similarity(judge: IdentityJudge, features: Floats) -> float:
    """Return the mean similarity of each two different frames of embeddings [G, D]; NaN if fewer than two are found."""
    seen = _found(features)
    if len(seen) < 2:
        return np.nan
    return float(judge.similarity(seen, seen)[np.triu_indices(len(seen), 1)].mean())


def _found(features: Floats) -> Floats:
    return features[~np.isnan(features).any(axis=1)]


def _nothing(features: Floats) -> IdentityOverTime:
    """Return NaN for all but the share of frames in which the judge finds the person."""
    found = len(_found(features)) / len(features) if len(features) else np.nan
    return identity_over_time(np.full(len(features), np.nan), 1.0)._replace(found_share=found)
