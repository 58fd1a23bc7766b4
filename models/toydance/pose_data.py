"""Training data of the pose networks: crops with 133 keypoints, and pictures with boxes, as `DWPose` makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ...datasets.skeleton import PoseSequence
from ...datasets.toydance.clip import toy_clip
from ..pose.dwpose import COCO_FACE, COCO_HANDS, COCO_JOINTS
from .clips import FPS, SIDE_PX, difficulty_of
from .pose_networks import CROP_HEIGHT, CROP_WIDTH, DETECTOR_SIDE, NUM_KEYPOINTS

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RTMPose's, in BGR order as the release passes them
PADDING = 1.25  # RTMPose's: a crop is larger than its box
ENLARGED_PX = 256  # the release enlarges a frame to 1024 pixels; beyond this nothing changes at these crops
SIDES_PX = (96, 96, 160)
AUTOENCODED_SHARE = 0.5
"""Share of the clips of a render's size that pass through the autoencoder first, because renders do."""


@dataclass(frozen=True)
class LabelledFrame:
    """A frame [S, S, 3], its 133 keypoints in [0, 1], their visibility, and the box of the dancer in [0, 1]."""

    picture: np.ndarray
    points: np.ndarray
    visible: np.ndarray
    box: np.ndarray


def labelled_frames(seed: int, autoencode: Callable[[np.ndarray], np.ndarray]) -> list[LabelledFrame]:
    """Draw clip `seed` and label four of its frames. `autoencode` maps frames uint8 [F, H, W, 3] to as many."""
    rng = np.random.default_rng([seed, 5])
    side = int(rng.choice(SIDES_PX))
    clip = toy_clip(seed, difficulty_of(seed), 33, side, FPS)
    chosen = np.sort(rng.choice(33, 4, replace=False))
    pictures = autoencode(clip.frames) if side == SIDE_PX and rng.random() < AUTOENCODED_SHARE else clip.frames
    frames = []
    for k in chosen:
        points, visible = whole_body(clip.pose[k : k + 1])
        rows, columns = np.nonzero(clip.masks[k])
        if len(rows) < 20:
            continue
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64) / side
        frames.append(LabelledFrame(pictures[k], points[0], visible[0], box))
    return frames


def whole_body(pose: PoseSequence) -> tuple[np.ndarray, np.ndarray]:
    """Order a pose as COCO-WholeBody: points [F, 133, 2] and visible [F, 133]. Feet are not part of a pose."""
    points = np.full((len(pose), NUM_KEYPOINTS, 2), -1.0)
    visible = np.zeros((len(pose), NUM_KEYPOINTS), bool)
    joints = [joint for joint in range(18) if joint != 1]  # COCO has no neck
    points[:, COCO_JOINTS] = pose.body[:, joints]
    visible[:, COCO_JOINTS] = pose.body_visible[:, joints]
    for hand, where in enumerate(COCO_HANDS):
        points[:, where] = pose.hands[:, hand]
    if pose.faces is not None:
        points[:, COCO_FACE] = pose.faces
    for where in (*COCO_HANDS, COCO_FACE):
        visible[:, where] = (points[:, where] >= 0).all(axis=-1)
    return points, visible


def crop_example(frame: LabelledFrame, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut a crop as RTMPose does, around a box that is not quite right: crop [128, 96, 3], points in pixels, visible.

    The picture is coded, blurred or brightened first, as renders and compressed clips are.
    """
    picture = _worsened(frame.picture, rng)
    side = ENLARGED_PX
    large = cv2.resize(picture, (side, side), interpolation=cv2.INTER_LANCZOS4)
    x1, y1, x2, y2 = frame.box * side
    centre = np.array([x1 + x2, y1 + y2]) / 2 + rng.normal(0, 0.04, 2) * side * (frame.box[2:] - frame.box[:2])
    width, height = np.array([x2 - x1, y2 - y1]) * PADDING * np.exp(rng.normal(0, 0.12, 2))
    ratio = CROP_WIDTH / CROP_HEIGHT
    width, height = max(width, height * ratio), max(height, width / ratio)
    scale = CROP_WIDTH / width
    angle = rng.normal(0, 6) * (rng.random() < 0.4)
    matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), float(angle), float(scale))
    matrix[:, 2] += np.array([CROP_WIDTH, CROP_HEIGHT]) / 2 - centre
    crop = cv2.warpAffine(large, matrix, (CROP_WIDTH, CROP_HEIGHT), flags=cv2.INTER_LINEAR)
    points = frame.points * side @ matrix[:, :2].T + matrix[:, 2]
    inside = ((points >= 0) & (points < (CROP_WIDTH, CROP_HEIGHT))).all(axis=-1)
    return crop, points, frame.visible & inside


def detection_example(
    frame: LabelledFrame, others: list[LabelledFrame], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture [64, 64, 3] as YOLOX's input, and its boxes [P, 4] in pixels.

    Three of ten pictures are two frames side by side, each squeezed or cut to its half; one of ten shows no dancer.
    """
    chance = rng.random()
    if chance < 0.3:
        other = others[int(rng.integers(len(others)))]
        halves = [_half(one, rng) for one in (frame, other)]
        boxes = np.stack([halves[0][1], halves[1][1] + (DETECTOR_SIDE / 2, 0, DETECTOR_SIDE / 2, 0)])
        return np.concatenate([halves[0][0], halves[1][0]], axis=1), boxes
    picture = _worsened(frame.picture, rng)
    if chance < 0.4:
        return _without_dancer(picture, frame.box), np.zeros((0, 4))
    small = cv2.resize(picture, (DETECTOR_SIDE, DETECTOR_SIDE), interpolation=cv2.INTER_LINEAR)
    # Also smaller, as a clip that is not square is padded below or to the right.
    height, width = (int(rng.integers(36, 65)) if rng.random() < 0.3 else 64 for _ in range(2))
    padded = np.full_like(small, 114)
    padded[:height, :width] = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return padded, (frame.box * (width, height, width, height))[None]


def _half(frame: LabelledFrame, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut the half of a picture around the dancer [64, 32, 3], with the box in pixels."""
    size = DETECTOR_SIDE
    picture = cv2.resize(_worsened(frame.picture, rng), (size, size), interpolation=cv2.INTER_LINEAR)
    x1, y1, x2, y2 = frame.box * size
    left = int(np.clip((x1 + x2) / 2 - size / 4 + rng.normal(0, 2), 0, size / 2))
    box = np.clip([x1 - left, y1, x2 - left, y2], 0, (size / 2, size, size / 2, size))
    return picture[:, left : left + size // 2], box


def _without_dancer(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Resize the wider strip beside the dancer to the whole picture."""
    width = picture.shape[1]
    left, right = int(box[0] * width), int(np.ceil(box[2] * width))
    strip = picture[:, :left] if left > width - right else picture[:, right:]
    strip = strip if strip.shape[1] >= 4 else picture[: max(int(box[1] * len(picture)), 1)]
    return cv2.resize(strip, (DETECTOR_SIDE, DETECTOR_SIDE), interpolation=cv2.INTER_LINEAR)


def _worsened(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply another brightness, blur, noise or compression to a picture; half of the pictures stay as they are."""
    if rng.random() < 0.5:
        return picture
    if rng.random() < 0.4:
        picture = np.clip(picture * rng.uniform(0.6, 1.25) + rng.uniform(-15, 15), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.9) * picture.shape[0] / 64)
    if rng.random() < 0.5:
        quality = int(rng.integers(30, 90))
        coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        picture = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    if rng.random() < 0.3:
        picture = np.clip(picture + rng.normal(0, rng.uniform(2, 8), picture.shape), 0, 255).astype(np.uint8)
    return picture
