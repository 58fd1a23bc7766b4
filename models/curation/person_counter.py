"""Count the people in an image with BlazePose's detector on overlapping crops and its landmark network.

The detector is made for one person who fills the image, so it runs on the whole image and on overlapping squares. It
finds a body several times, and parts of it as separate bodies. The landmark network estimates the body of each
detection; a detection that overlaps with a larger body is not counted.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...datasets.arrays import Floats32, Frames, Integers
from ..pose.blazepose import (
    DETECTOR_SIDE,
    LANDMARK_SIDE,
    MIN_CONFIDENCE,
    Region,
    TFLiteModel,
    anchors,
    decode_landmarks,
    letterbox,
)

TILE_SHARES = (1.0, 0.6)  # sides of the squares relative to the shorter side of the image
MIN_DETECTION, MIN_SEEN = 0.6, 0.6  # for a second person: detector score; mean visibility of the landmarks
MIN_SIZE_RATIO = 1 / 3  # of a second person's torso to the largest; smaller people are far in the background
MAX_SHARED = 0.3  # share of visible joints on a larger person's body: measured 0.9..1 for one person, 0..0.2 for two
LIMB_RADIUS = 0.35  # in torso lengths
_SHOULDERS, _HIPS = [11, 12], [23, 24]
_LIMBS = np.array(
    [(11, 12), (11, 23), (12, 24), (23, 24), (11, 13), (13, 15), (12, 14), (14, 16), (23, 25), (25, 27), (24, 26),
     (26, 28), (0, 11), (0, 12)]
)  # fmt: skip
_NUM_JOINTS = 33


@dataclass(frozen=True)
class Person:
    """One detected body in an image.

    Attributes:
        points: [33, 2] BlazePose's landmarks in pixels.
        seen: [33] confidence that each is visible, 0..1; 0 outside the image.
        score: score of the detection, 0..1.
        torso: distance between the midpoints of shoulders and hips in pixels.
    """

    points: Floats32
    seen: Floats32
    score: float
    torso: float


class PersonCounter:
    """Counts the people in images and clips.

    Args:
        weights_dir: folder with `pose_detection.tflite` and `pose_landmark_full.tflite`.
    """

    name = "blazepose"

    def __init__(self, weights_dir: Path) -> None:
        self._detector = TFLiteModel(weights_dir / "pose_detection.tflite")
        self._landmarker = TFLiteModel(weights_dir / "pose_landmark_full.tflite")

    def people(self, frame: Frames) -> list[Person]:
        """Find the people in an image uint8 [H, W, 3] RGB, largest first."""
        found = [person for person in (self._person(frame, *one) for one in self._regions(frame)) if person]
        return drop_duplicates(found)

    def count(self, frames: Frames) -> tuple[int, float]:
        """Count people in frames [F, H, W, 3]; return the median, and the ratio of the second size to the first (or 0).

        For an even number of frames the upper median is used, so that people who are hidden half of the time count.
        """
        people = [self.people(frame) for frame in frames]
        number = int(np.quantile([len(found) for found in people], 0.5, method="higher"))
        others = [found[1].torso / found[0].torso for found in people if len(found) > 1]
        return number, float(min(1.0, np.median(others))) if number > 1 else 0.0

    def _regions(self, frame: Frames) -> list[tuple[Region, float]]:
        """Find candidate regions with the detector's score, highest first, without duplicates."""
        boxes, points = [], []
        for top, left, height, width in tiles(*frame.shape[:2]):
            picture, scale, margin = letterbox(frame[top : top + height, left : left + width], DETECTOR_SIDE)
            outputs = self._detector((picture / 127.5 - 1).astype(np.float32))
            scores = 1 / (1 + np.exp(-np.clip(outputs[2254, 1][:, 0], -80, 80)))
            likely = np.flatnonzero(scores > MIN_CONFIDENCE)
            cut = np.array([left, top], np.float32)
            values, centres = outputs[2254, 12][likely], anchors()[likely]
            centre, size = (values[:, :2] + centres - margin) / scale + cut, values[:, 2:4] / scale
            boxes.append(np.concatenate([centre - size / 2, centre + size / 2, scores[likely, None]], axis=1))
            points.append((values[:, 4:8].reshape(-1, 2, 2) + centres[:, None] - margin) / scale + cut)
        kept = non_maximum_suppression(np.concatenate(boxes))
        regions, scores = np.concatenate(points)[kept], np.concatenate(boxes)[kept, 4]
        return [(Region.around(*region), float(score)) for region, score in zip(regions, scores, strict=True)]

    def _person(self, frame: Frames, region: Region, score: float) -> Person | None:
        outputs = self._landmarker((region.crop(frame, LANDMARK_SIDE) / 255).astype(np.float32))
        if outputs[1,].item() < MIN_CONFIDENCE:
            return None
        points, confidence = decode_landmarks(outputs[195,], region)
        points, confidence = points[:_NUM_JOINTS], confidence[:_NUM_JOINTS]
        inside = ((points >= 0) & (points < frame.shape[1::-1])).all(axis=1)
        torso = np.linalg.norm(points[_SHOULDERS].mean(axis=0) - points[_HIPS].mean(axis=0))
        return Person(points, confidence * inside, score, max(float(torso), 1.0))


def tiles(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """List the whole image and squares that overlap by half or more: (top, left, height, width) in pixels."""
    out = [(0, 0, height, width)]
    for share in TILE_SHARES:
        side = round(min(height, width) * share)
        starts = [
            np.linspace(0, length - side, 1 + int(np.ceil((length - side) / (side / 2)))) for length in (height, width)
        ]
        out += [(int(top), int(left), side, side) for top in starts[0] for left in starts[1]]
    return list(dict.fromkeys(out))


def non_maximum_suppression(boxes: Floats32, max_overlap: float = 0.3) -> Integers:
    """Return the indices of boxes [N, 5] (corners, score) that overlap with no kept box of a higher score."""
    order, kept = np.argsort(-boxes[:, 4], kind="stable"), []
    areas = np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        upper = np.maximum(boxes[best, :2], boxes[rest, :2])
        lower = np.minimum(boxes[best, 2:4], boxes[rest, 2:4])
        common = np.clip(lower - upper, 0, None).prod(axis=1)
        order = rest[common / np.maximum(areas[best] + areas[rest] - common, 1e-6) <= max_overlap]
    return np.array(kept, np.int64)


def drop_duplicates(found: list[Person]) -> list[Person]:
    """Keep the largest person, and others that are confident, not much smaller, and not part of a kept body."""
    people: list[Person] = []
    for person in sorted(found, key=lambda one: -one.torso * float(one.seen[:25].mean())):
        if people:
            is_confident = person.score >= MIN_DETECTION and person.seen[:25].mean() >= MIN_SEEN
            is_large = person.torso >= MIN_SIZE_RATIO * people[0].torso
            if not is_confident or not is_large or any(joint_overlap(person, other) > MAX_SHARED for other in people):
                continue
        people.append(person)
    return people


def joint_overlap(person: Person, other: Person) -> float:
    """Compute the share of a person's visible joints on another's limbs or torso; 1 if no joint is visible."""
    points = person.points[person.seen > 0.5]
    if not len(points):
        return 1.0
    start, end = other.points[_LIMBS[:, 0]], other.points[_LIMBS[:, 1]]
    along = end - start
    share = ((points[:, None] - start) * along).sum(axis=-1) / np.maximum((along**2).sum(axis=-1), 1e-6)
    nearest = start + np.clip(share, 0, 1)[..., None] * along
    distance = np.linalg.norm(points[:, None] - nearest, axis=-1).min(axis=1)
    return float((distance < LIMB_RADIUS * other.torso).mean())
