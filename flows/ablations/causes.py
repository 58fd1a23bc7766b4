"""Change driving poses by the causes that the paper gives for its modules (Figure 13).

The pairs of all causes but `start_gap` show the same dancers and have the same truths: only the keypoints differ that
the network is driven by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from ...datasets.skeleton import PoseSequence

CAUSES: Mapping[str, str] = MappingProxyType(
    {
        "clean": "exact poses, and a reference picture in the first pose of the dance",
        "noisy": "noisy poses: every joint is off by a random step in every frame",
        "disparity": "large structural disparity: the limbs of the reference are measured too long or too short, so "
        "that the aligned pose has another build than the picture",
        "missing": "missing or contradictory poses: limbs vanish for some frames, and left and right are exchanged in "
        "others",
        "start_gap": "the reference picture shows another pose than the dance begins with",
    }
)
DRIVING, REFERENCE = ("noisy", "missing"), ("disparity",)
"""Causes that change the keypoints of the driving video, and those of the reference picture."""

NOISE = 0.02  # standard deviation of a joint, as a share of the picture: about a tenth of a torso
LENGTHS = (1.25, 1.5)  # smallest and largest factor of a limb that is too long; the inverse of one too short
BURST_FRAMES = (3, 6)  # shortest and longest gap
NUM_BURSTS = 4
# Limbs from joint to joint, outwards from the neck, in OpenPose's order: a scaled limb carries those after it along.
_BONES = ((1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
          (1, 0), (0, 14), (14, 16), (0, 15), (15, 17))  # fmt: skip
_LIMBS = ((2, 3, 4), (5, 6, 7), (8, 9, 10), (11, 12, 13))
_EXCHANGED = ((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (14, 15), (16, 17))


def corrupted(pose: PoseSequence, cause: str, seed: int) -> PoseSequence:
    """Return keypoints as they are under a cause; the same seed gives the same ones. Others leave them as they are."""
    rng = np.random.default_rng(seed)
    if cause == "noisy":
        return _noisy(pose, rng)
    if cause == "disparity":
        return _other_build(pose, rng)
    return _with_gaps(pose, rng) if cause == "missing" else pose


def _noisy(pose: PoseSequence, rng: np.random.Generator) -> PoseSequence:
    body = pose.body + rng.normal(0, NOISE, pose.body.shape)
    hands = np.where(pose.hands < 0, pose.hands, pose.hands + rng.normal(0, NOISE, pose.hands.shape))
    return replace(pose, body=body, hands=hands)


def _other_build(pose: PoseSequence, rng: np.random.Generator) -> PoseSequence:
    """Scale every limb about its inner joint, left and right alike."""
    low, high = np.log(LENGTHS)
    longer = np.exp(rng.uniform(low, high, 4))
    arms, legs, trunk, head = np.where(rng.random(4) < 0.5, longer, 1 / longer)
    factor = {3: arms, 4: arms, 6: arms, 7: arms, 9: legs, 10: legs, 12: legs, 13: legs, 8: trunk, 11: trunk, 0: head}
    body = pose.body.copy()
    for start, end in _BONES:
        body[:, end] = body[:, start] + factor.get(end, 1.0) * (pose.body[:, end] - pose.body[:, start])
    way = body[:, [7, 4]] - pose.body[:, [7, 4]]  # wrists: left hand first
    hands = np.where(pose.hands < 0, pose.hands, pose.hands + way[:, :, None])
    return replace(pose, body=body, hands=hands)


def _with_gaps(pose: PoseSequence, rng: np.random.Generator) -> PoseSequence:
    """Remove a limb in half of the bursts, and exchange left and right in the others; frame 0 stays as it is."""
    body, visible, hands = pose.body.copy(), pose.body_visible.copy(), pose.hands.copy()
    for burst in range(NUM_BURSTS):
        length = int(rng.integers(BURST_FRAMES[0], BURST_FRAMES[1] + 1))
        begin = int(rng.integers(1, max(len(pose) - length, 1) + 1))
        frames = slice(begin, begin + length)
        if burst % 2 == 0:
            side = int(rng.integers(len(_LIMBS)))
            visible[frames, list(_LIMBS[side])] = False
            if side < 2:
                hands[frames, 1 - side] = -1  # the left hand stands first
        else:
            for right, left in _EXCHANGED:
                body[frames, [right, left]] = body[frames, [left, right]]
                visible[frames, [right, left]] = visible[frames, [left, right]]
            hands[frames] = hands[frames, ::-1]
    return replace(pose, body=body, body_visible=visible, hands=hands)


def cause_of(name: str) -> str:
    """Return the cause of a pair by its id."""
    return name.partition("-")[0]
