"""How far a reference person and a driving person are apart: style, framing, skeleton, start gap.

NaN is not measured. Coordinates are shares of the picture, as in `PoseSequence`.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ...datasets.arrays import Floats64, Frames
from ...datasets.driving_poses import MIN_LENGTH, SIDES, NoStartError, driving_poses
from ...datasets.skeleton import PARTS, PoseSequence, in_heights, lengths
from ...models.metrics import start_gap as start_gap_of
from ...models.metrics import torso_length

FLAT_LEVELS = 2  # of 255, between the lightest and the darkest of 3 × 3 pixels
STYLE_SIDE_PX = 256
MIN_BOX_PX = 16
MIN_LIMBS = 4
MIN_LIMBS_SHARE = 0.75  # of the most limbs that a frame of the clip can compare
MIN_PART_SHARE = 0.5  # of the frames: a part seen in fewer does not count as shown
# Lengths in a face change with the turn of the head.
_LIMB = np.array([not part.startswith("face") for part, _ in SIDES])


class Box(NamedTuple):
    """A person's box in shares of the picture."""

    left: float
    top: float
    right: float
    bottom: float


def person_box(pose: PoseSequence) -> Box | None:
    """Return the median box of the visible joints, inside the picture; None if fewer than two are ever visible."""
    boxes = [
        [*points.min(axis=0), *points.max(axis=0)]
        for body, seen in zip(pose.body, pose.body_visible, strict=True)
        if seen.sum() >= 2
        for points in [np.clip(body[seen], 0, 1)]
    ]
    return Box(*map(float, np.median(boxes, axis=0))) if boxes else None


def shown_parts(pose: PoseSequence) -> set[str]:
    """Return the body parts (`skeleton.PARTS`) that at least half of the frames with the person show."""
    present = pose.body_visible.any(axis=1)
    shown: set[str] = set()
    for part, side in SIDES:
        seen = np.asarray(pose.body_visible[present][:, list(side)].all(axis=1))
        if len(seen) and seen.mean() >= MIN_PART_SHARE:
            shown.add(part)
    return shown


def flatness(image: Frames, box: Box) -> float:
    """Return the share of flat colour in a person's box: pixels whose 3 × 3 neighbourhood spans at most 2 levels.

    Drawings have it, photographs have texture. The picture, uint8 [H, W, 3] RGB, is first scaled to a shorter side of
    256, where noise and the traces of coding are gone. NaN if the box is too small.
    """
    scale = STYLE_SIDE_PX / min(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    patch = crop(np.asarray(grey, np.uint8), box)
    if min(patch.shape[:2]) < MIN_BOX_PX:
        return np.nan
    kernel = np.ones((3, 3), np.uint8)
    span = cv2.subtract(cv2.dilate(patch, kernel), cv2.erode(patch, kernel))
    return float((span[1:-1, 1:-1] <= FLAT_LEVELS).mean())


def crop(image: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8]:
    """Cut a person's box out of a picture [H, W, …]."""
    height, width = image.shape[:2]
    rows, columns = (
        (int(box.top * height), int(np.ceil(box.bottom * height))),
        (
            int(box.left * width),
            int(np.ceil(box.right * width)),
        ),
    )
    return image[slice(*rows), slice(*columns)]


def framing_gap(reference: Box, driving: Box) -> float:
    """Return 1 − intersection over union of both boxes, each in shares of its own picture: height, place and parts."""
    width, height = (max(0.0, min(reference[k + 2], driving[k + 2]) - max(reference[k], driving[k])) for k in (0, 1))
    areas = sum((box.right - box.left) * (box.bottom - box.top) for box in (reference, driving))
    union = areas - width * height
    return 1 - width * height / union if union > 0 else np.nan


def skeleton_gap(
    reference: PoseSequence, driving: PoseSequence, reference_aspect: float, driving_aspect: float
) -> float:
    """Return how differently two people are built: the mean |ln ratio| of their limbs after one common scale.

    0.1 is limbs that are 10 % too long or too short on average. Limbs point towards the camera in some frames, so this
    is the smallest value over the driving frames, that of the pose most like the reference's. A person against itself
    gives 0. NaN if fewer than four limbs can be compared.

    Args:
        reference: one frame.
        driving: [F] frames.
        reference_aspect: width / height of the image.
        driving_aspect: width / height of the video.
    """
    one, many = _limbs(reference[:1], reference_aspect), _limbs(driving, driving_aspect)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(one / many)  # [F, limbs]
    counts = np.isfinite(logs).sum(axis=1)
    usable = counts >= max(MIN_LIMBS, MIN_LIMBS_SHARE * counts.max(initial=0))
    if not usable.any():
        return np.nan
    logs = np.where(np.isfinite(logs), logs, np.nan)[usable]
    away = np.abs(logs - np.nanmedian(logs, axis=1, keepdims=True))
    return float(np.nanmean(away, axis=1).min())


def _limbs(pose: PoseSequence, aspect: float) -> Floats64:
    """Return lengths [F, limbs] in picture heights; NaN where a joint is not visible or the limb has no length."""
    body, _, _ = in_heights(pose, aspect)
    every = np.concatenate([lengths(body, part) for part in PARTS], axis=1)
    seen = np.stack([pose.body_visible[:, list(side)].all(axis=1) for _, side in SIDES], axis=1)
    return np.where(seen & (every > MIN_LENGTH), every, np.nan)[:, _LIMB]


def start_gap(
    reference: PoseSequence, driving: PoseSequence, reference_aspect: float, driving_aspect: float
) -> tuple[float, str | None]:
    """Return the mean distance of the reference pose from the first driven one in torso lengths, and why it is NaN.

    The driven pose is the driving one after the alignment that a render makes, in the reference picture: the gap is
    one of posture, not of place or build.

    Args:
        reference: one frame.
        driving: [F] frames.
        reference_aspect: width / height of the image.
        driving_aspect: width / height of the video.
    """
    try:
        driven = driving_poses([driving], reference, driving_aspect, reference_aspect)
    except NoStartError as error:
        return np.nan, str(error)
    if not driven.aligned:
        return np.nan, "the reference shows too little of a person to align the driving pose to"
    unit = np.array([reference_aspect, 1.0])  # equal units on both axes; the gap is relative to the torso
    people = driven.people[0]
    torso, _ = torso_length(people.body * unit, people.body_visible)
    gap = start_gap_of(
        reference.body[0] * unit, reference.body_visible[0], people.body[0] * unit, people.body_visible[0], torso
    )
    return gap, None if np.isfinite(gap) else "no joint is visible in both poses, or the torso has no length"
