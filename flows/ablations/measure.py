"""Measure the renders of a packet against exact truths: pictures, joints, the start, and the columns of Table 3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.arrays import Floats64
from ...datasets.images import read_image
from ...datasets.supplied_poses import load_supplied_pose
from ...models.encoders import resize_image
from ...models.metrics import (
    LIMBS,
    MAX_PSNR_DB,
    box_pck,
    first_frame_psnr,
    masked_psnr,
    pixel_jump,
    pose_metrics,
    psnr,
    temporal_flickering,
)
from ...models.metrics.pose_following import RESOLVED_EXCESS
from ...models.pose.estimator import PoseEstimator
from ..demo.dancers import PairSet
from ..demo.measure import find_joints, read_frames, silhouettes, true_joints
from . import backbone
from .causes import cause_of

Values = dict[str, float | None]
POSE_METRICS = ("pck_10", "velocity_correlation", "motion_ratio", "jump_excess")
RESOLVED_BY_JOINTS, RESOLVED_BY_PIXELS = "resolved[joints]", "resolved[pixels]"
FVD = f"fvd[{backbone.NAME},{backbone.NUM_DIMENSIONS}d]"
_MARGIN = 0.15  # around the joints of the reference, as a share of their box


@dataclass(frozen=True)
class Measured:
    """What is measured of a packet's renders.

    Attributes:
        videos: pair -> metric -> value; None where it is not measured.
        clips: pair -> features of the render [8], and of its truth [8].
    """

    videos: dict[str, Values]
    clips: dict[str, tuple[Floats64, Floats64]]

    def distance(self, ids: Sequence[str]) -> float | None:
        """Return the Fréchet distance between the renders of these pairs and their truths."""
        both = [self.clips[name] for name in ids if name in self.clips]
        if len(both) < 2:
            return None
        renders, truths = (np.stack(side) for side in zip(*both, strict=True))
        return _plain(backbone.video_distance(renders, truths))


def measure_renders(
    pairs: PairSet,
    videos: Mapping[str, Path],
    gaps: Mapping[str, float],
    encoder: Any,
    estimator: PoseEstimator | None,
) -> Measured:
    """Measure all renders.

    Args:
        pairs: the pairs.
        videos: render of each pair; one without is left out.
        gaps: start gap of each pair, in torso lengths.
        encoder: ToyDance's image encoder, the backbone.
        estimator: finds joints in the renders; None: metrics of joints are not measured.
    """
    measured = Measured({}, {})
    for name in pairs.ids():
        if name in videos:
            values, clip, true_clip = _measure(pairs, name, videos[name], gaps[name], encoder, estimator)
            measured.videos[name] = {metric: _plain(value) for metric, value in values.items()}
            measured.clips[name] = (clip, true_clip)
    return measured


def _measure(
    pairs: PairSet, name: str, video: Path, gap: float, encoder: Any, estimator: PoseEstimator | None
) -> tuple[dict[str, float], Floats64, Floats64]:
    render = read_frames(video)
    count, height, width = render.shape[:3]
    size = (height, width)
    right_place, wrong_place = pairs.video("truth", name), pairs.video("wrong", name)
    truth, wrong = (read_frames(place, count, size) for place in (right_place, wrong_place))
    _, union = silhouettes(right_place, wrong_place, count, size)
    image = resize_image(read_image(pairs.image(name)).pixels, height, width)
    covered = union.any(0) | _box(pairs.image(name), size)
    columns, seen = backbone.subject_and_background(encoder, render, image, covered)
    right_db, wrong_db = masked_psnr(render, truth, union), masked_psnr(render, wrong, union)
    jump = pixel_jump(render) / pixel_jump(truth)
    values = {
        **columns,
        "temporal_flickering": temporal_flickering(render),
        "person_psnr_db": right_db,
        "right_minus_wrong_db": right_db - wrong_db,
        "psnr_db": psnr(render, truth),
        "first_frame_psnr_db": min(first_frame_psnr(render, image), MAX_PSNR_DB),
        "start_gap_jump_excess": jump,
        "start_gap": gap,
        RESOLVED_BY_PIXELS: _resolved(name, jump),
        **_joints(name, render, right_place, estimator),
    }
    true_seen = backbone.features(encoder, truth)
    return values, backbone.clip_features(seen), backbone.clip_features(true_seen)


def _resolved(name: str, excess: float) -> float:
    """Return whether the jump of a pair with a start gap is resolved, 1 or 0; NaN for other pairs."""
    if cause_of(name) != "start_gap" or math.isnan(excess):
        return math.nan
    return float(excess <= RESOLVED_EXCESS)


def _joints(name: str, render: Any, truth: Path, estimator: PoseEstimator | None) -> dict[str, float]:
    """Measure the joints that an estimator finds against the exact ones."""
    if estimator is None:
        return dict.fromkeys(("pck_0_1_limbs", *POSE_METRICS, RESOLVED_BY_JOINTS), math.nan)
    count, height, width = render.shape[:3]
    driven, found = true_joints(truth, count, (height, width)), find_joints(estimator, render)
    followed = pose_metrics(*driven, *found, width, height)
    return {
        "pck_0_1_limbs": box_pck(*driven, *found, LIMBS),
        **{metric: float(followed[metric]) for metric in POSE_METRICS},
        RESOLVED_BY_JOINTS: _resolved(name, followed["jump_excess"]),
    }


def _box(image: Path, size: tuple[int, int]) -> np.ndarray:
    """Return bool [H, W]: the box around the joints of a picture, with a margin."""
    supplied = load_supplied_pose(image)
    covered = np.zeros(size, bool)
    if supplied is None or not supplied[0]:
        return covered
    pose = supplied[0][0]
    points = pose.body[0][pose.body_visible[0]] * np.array(size[::-1])
    low, high = points.min(0), points.max(0)
    margin = _MARGIN * (high - low).max()
    (x1, y1), (x2, y2) = (np.clip(corner, 0, size[::-1]).astype(int) for corner in (low - margin, high + margin))
    covered[y1:y2, x1:x2] = True
    return covered


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
