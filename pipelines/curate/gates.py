"""Gates: thresholds on the scores of a clip.

The paper filters on aesthetics, motion smoothness, subject prominence and action type, and gives no thresholds, models
or funnel. Every threshold here is our starting value; the scores are stored, so trying another one takes seconds.
Descriptions give in brackets what was measured on 41 labelled clips and on variants of them (140 good: mirrored,
recompressed, at other sizes, rates, light and framing; 200 damaged on purpose; 20 zoomed photos): the worst value of a
good clip | the best value of a clip to reject. A threshold is between the two, closer to the bad value where other good
clips may move more than these. Of the pose thresholds, only `max_pose_jerk` depends on a single clip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Score:
    """Declare what a gate reads: one column, or several combined.

    Args:
        name: the name used in details and reports.
        columns: alternatives per value; a value is its first non-null column, the score is the smallest value.
    """

    name: str
    columns: tuple[tuple[str, ...], ...]

    def of(self, read: Callable[[str], Any]) -> Any:
        """Compute the score of one row or of many rows.

        Args:
            read: returns a column by its name, as a number or an array [n]; NaN for null.
        """
        return reduce(np.minimum, (reduce(_first_known, map(read, side)) for side in self.columns))


def _first_known(value: Any, other: Any) -> Any:
    return np.where(np.isnan(value), other, value)


SIDE_PX = Score("side_px", (("crop_height_px", "height"), ("crop_width_px", "width")))
NUM_PERSONS = Score("num_persons", (("num_persons", "num_detected_persons"),))


class Gates(BaseModel):
    """Thresholds for a clip's scores; None switches a gate off. A null score passes and is listed in `unmeasured`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_side_px: Annotated[int | None, SIDE_PX] = Field(
        160, description="shorter side of the picture inside its borders, pixels"
    )
    max_border_ratio: float | None = Field(
        0.7,
        description="share of the frame cropped away as border (a vertical video in a horizontal one: 0.68); 0.02 "
        "rejects such clips instead of cropping them",
    )
    max_leak_score: float | None = Field(0.65, description="similarity to a video in the excluded set, 0..1")
    max_cut_score: float | None = Field(
        0.2, description="largest change of colours between consecutive frames, 0..1 (0.06 | 0.28)"
    )
    max_transition_score: float | None = Field(
        0.3, description="highest transition probability inside the clip, 0..1; catches missed cuts (0.18 | 0.41)"
    )
    min_brightness: float | None = Field(0.12, description="mean luma, 0..1 (0.21 | 0.087)")
    min_contrast: float | None = Field(0.04, description="standard deviation of luma, 0..1 (0.059 | 0.026)")
    min_sharpness: float | None = Field(
        0.0003, description="variance of the Laplacian of luma / 255² (0.0005 | 0.0002)"
    )
    max_blur: float | None = Field(0.51, description="blur (Crété-Roffet), 0 sharp .. 1 (0.50 | 0.53)")
    min_motion_magnitude: float | None = Field(
        0.0006, description="mean change of luma between frames 1/16 s apart (0.0029 | 0.0003)"
    )
    max_motion_magnitude: float | None = Field(
        0.12, description="the same, upper limit; more is noise, flicker or camera shake"
    )
    max_frozen_ratio: float | None = Field(
        0.6, description="share of frames that repeat the previous one (0.23 | 0.85)"
    )
    min_own_motion_ratio: float | None = Field(
        0.006,
        description="share of the area that moves independently of the camera; near 0 in zoomed photos (0.039 | 0.003)",
    )
    max_noise: float | None = Field(
        0.008, description="noise in the smoothest tenth of the picture, 0..1 (0.006 | 0.011)"
    )
    max_flicker: float | None = Field(0.004, description="second difference of mean luma, 0..1 (0.0021 | 0.0044)")
    max_camera_shake: float | None = Field(
        0.006, description="second difference of the camera path, diagonals per frame² (0.0032 | 0.0081)"
    )
    max_blockiness: float | None = Field(
        0.3, description="strength of a square grid: codec blocks or enlarged pixels (0.15 | 0.40)"
    )
    max_static_edge_ratio: float | None = Field(
        None, description="share of the area whose edges stay fixed while the camera moves: logos. Off: not calibrated"
    )
    max_text_ratio: float | None = Field(
        0.02, description="share of the area with text that stays in place (0.012 | 0.021); a small sign passes"
    )
    max_text_length: float | None = Field(
        0.25, description="longest line of such text relative to the picture (0.20 | 0.30); catches captions"
    )
    max_persons: Annotated[int | None, NUM_PERSONS] = Field(
        1, description="people in the clip that are at least a third the size of the main person"
    )
    min_aesthetic_score: float | None = Field(5.0, description="LAION's aesthetic score; null without weights")
    max_extreme_action: float | None = Field(0.5, description="probability of acrobatics by CLIP; null without weights")
    max_missing_pose_ratio: float | None = Field(0.1, description="share of frames without a usable body")
    max_pose_gap: int | None = Field(4, description="longest run of frames without a usable body")
    min_pose_confidence: float | None = Field(
        0.5, description="mean confidence of the body's joints, 0..1 (0.74 | 0.46)"
    )
    min_visible_joint_ratio: float | None = Field(
        0.52,
        description="mean share of the 18 body joints that are visible (0.67 | 0.48); head and shoulders: 0.44",
    )
    min_head_ratio: float | None = Field(
        0.8,
        description="share of frames with a visible eye or ear, from behind too (1 | 0.32); catches headless bodies",
    )
    min_subject_height: float | None = Field(0.3, description="height of the visible body relative to the picture")
    min_subject_area: float | None = Field(
        0.03, description="area of the visible body's box relative to the picture (0.10 | 0.02)"
    )
    max_subject_offset: float | None = Field(
        0.4, description="horizontal distance of the body from the centre, share of the width (0.29 | 0.41)"
    )
    min_in_frame_ratio: float | None = Field(0.9, description="share of visible body joints inside the picture")
    min_track_continuity: float | None = Field(
        0.95, description="share of consecutive frames whose body boxes have an IoU of at least 0.3 (1 | 0.86)"
    )
    max_appearance_change: float | None = Field(
        0.3, description="largest change of the torso's mean colour between consecutive frames, 0..1 (0.15 | 0.53)"
    )
    max_subject_clipped_ratio: float | None = Field(
        0.25, description="share of points on the limbs that are overexposed (0.05 | 0.36)"
    )
    min_head_above_hips_ratio: float | None = Field(
        0.9, description="share of frames with the neck above the hips; rejects handstands"
    )
    max_torso_tilt_deg: float | None = Field(
        80.0, description="p95 of the torso's angle to the vertical, degrees (25 | 92)"
    )
    max_rotation_rate: float | None = Field(4.0, description="p95 of the torso's rotation, rad/s (2.1 | 9.6)")
    max_airborne_height: float | None = Field(
        1.0, description="p95 of the lower foot's height above the ground, torso lengths (0.33 | 1.8)"
    )
    min_pose_motion: float | None = Field(0.1, description="mean joint speed, torso lengths per second (0.23 | none)")
    min_motion_smoothness: float | None = Field(
        None, description="similarity of frames to AMT-S's interpolation of their neighbours, 0..1. Off: not calibrated"
    )
    max_pose_jerk: float | None = Field(
        0.32, description="p95 of the joints' second difference, torso lengths per frame² (0.27 | 0.33)"
    )

    def bounds(self) -> list[tuple[str, str, str, float]]:
        """Return (gate, score, "min" or "max", threshold) of the active gates, in the order of application."""
        out = []
        for gate in type(self).model_fields:
            bound = getattr(self, gate)
            if bound is not None:
                out.append((gate, score_of(gate).name, gate.split("_", 1)[0], float(bound)))
        return out


def score_of(gate: str) -> Score:
    """Return what a gate reads: the `Score` of its field, else the column in its name (`max_blur`: `blur`)."""
    column = gate.split("_", 1)[1]
    declared = (one for one in Gates.model_fields[gate].metadata if isinstance(one, Score))
    return next(declared, Score(column, ((column,),)))


SCORES = {score.name: score for score in map(score_of, Gates.model_fields)}


def is_beyond(values: Any, side: str, bound: Any) -> Any:
    """Check whether a score fails a gate: below a "min", above a "max"; NaN (not measured) passes."""
    return values < bound if side == "min" else values > bound


def bound_text(side: str, bound: float) -> str:
    """Return a threshold in words."""
    return f"{'at least' if side == 'min' else 'at most'} {bound:.4g}"


def failure_detail(score: str, value: float, words: str) -> str:
    """Return the detail of a row that fails a gate, from its score and the gate's `bound_text`."""
    return f"{score} is {value:.4g}, expected {words}"


# Gates whose scores are measured before the pose, from cheap to expensive; a clip that fails one is not measured
# further. First scores of small frames, then one network on a few frames, then a second.
PICTURE_GATES = frozenset(
    {
        "min_side_px",
        "max_border_ratio",
        "max_leak_score",
        "max_cut_score",
        "max_transition_score",
        "min_motion_magnitude",
        "max_motion_magnitude",
        "max_frozen_ratio",
        "min_own_motion_ratio",
        "max_noise",
        "max_flicker",
        "max_camera_shake",
        "min_brightness",
        "min_contrast",
        "min_sharpness",
        "max_blur",
        "max_blockiness",
        "max_static_edge_ratio",
    }
)
TEXT_GATES = PICTURE_GATES | {"max_text_ratio", "max_text_length"}
PERSON_GATES = TEXT_GATES | {"max_persons"}
CHEAP_GATES = PERSON_GATES | {"min_aesthetic_score", "max_extreme_action"}

# What the paper filters on: aesthetics, smoothness of motion, subject prominence, action type.
RANKING_GATES = (
    "min_aesthetic_score",
    "max_flicker",
    "max_pose_jerk",
    "min_pose_confidence",
    "min_visible_joint_ratio",
    "min_subject_height",
    "max_subject_offset",
    "min_in_frame_ratio",
    "max_extreme_action",
    "max_torso_tilt_deg",
    "max_rotation_rate",
    "max_airborne_height",
)
