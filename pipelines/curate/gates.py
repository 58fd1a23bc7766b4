"""The gates that a clip must pass, each a bound on one of its scores.

The paper filters on aesthetics, motion smoothness, subject prominence and action type, and gives no thresholds, models
or funnel. Every bound here is our starting value; the scores are stored, so another bound costs seconds. Beside a
bound stands what was measured on 41 labelled clips and on variants of them (140 of good ones: mirrored, recompressed,
at other sizes, rates, light and framing; 200 that were spoilt; 20 zoomed photos): the worst value of a good one | the
best of those it is to refuse. A bound lies between them, nearer to the bad ones where good ones may well be livelier
than these; of the bounds on a pose only that on `pose_jerk` is held in its place by one clip alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class Score:
    """Declare what a gate reads of a row: one column, or several combined.

    Args:
        name: in details and reports.
        columns: the score is the smallest of these values, each the first of its columns that is not null.
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
    """Bounds that a clip's scores must keep; None switches a gate off. A score that is null passes and is named."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_side_px: Annotated[int | None, SIDE_PX] = Field(
        160, description="shorter side of the picture inside its borders, pixels"
    )
    max_border_ratio: float | None = Field(
        0.7,
        description="share of the frame that is border and cropped away (an upright video in a wide one: 0.68); 0.02 "
        "refuses instead of cropping",
    )
    max_leak_score: float | None = Field(0.65, description="likeness to a video of the excluded sets, 0..1")
    max_cut_score: float | None = Field(
        0.2, description="largest change of colours between neighbouring frames, 0..1 (0.06 | 0.28)"
    )
    max_transition_score: float | None = Field(
        0.3, description="likeliest transition inside the clip by the shot detector, 0..1: missed cuts (0.18 | 0.41)"
    )
    min_brightness: float | None = Field(0.12, description="mean luma, 0..1 (0.21 | 0.087)")
    min_contrast: float | None = Field(0.04, description="standard deviation of luma, 0..1 (0.059 | 0.026)")
    min_sharpness: float | None = Field(
        0.0003, description="variance of the Laplacian of luma / 255² (0.0005 | 0.0002)"
    )
    max_blur: float | None = Field(0.51, description="how little another blur changes, 0..1 (0.50 | 0.53)")
    min_motion_magnitude: float | None = Field(
        0.0006, description="mean change of luma between frames 1/16 s apart (0.0029 | 0.0003)"
    )
    max_motion_magnitude: float | None = Field(0.12, description="above it is noise, flicker or a shaken camera")
    max_frozen_ratio: float | None = Field(0.6, description="frames that repeat the one before (0.23 | 0.85)")
    min_own_motion_ratio: float | None = Field(
        0.006, description="area that moves by itself; a photo that is zoomed has next to none (0.039 | 0.003)"
    )
    max_noise: float | None = Field(
        0.008, description="noise in the calmest tenth of the picture, 0..1 (0.006 | 0.011)"
    )
    max_flicker: float | None = Field(0.004, description="second difference of mean luma, 0..1 (0.0021 | 0.0044)")
    max_camera_shake: float | None = Field(
        0.006, description="second difference of the camera's path, diagonals a frame² (0.0032 | 0.0081)"
    )
    max_blockiness: float | None = Field(
        0.3, description="how much a square grid stands out: codec's blocks, stretched pixels (0.15 | 0.40)"
    )
    max_static_edge_ratio: float | None = Field(
        None, description="area whose edges stay while the camera moves: logos. Off: not calibrated"
    )
    max_text_ratio: float | None = Field(
        0.02, description="area that holds text which stays in its place (0.012 | 0.021): a small sign passes"
    )
    max_text_length: float | None = Field(
        0.25, description="longest line of such text over the picture's width or height (0.20 | 0.30): captions"
    )
    max_persons: Annotated[int | None, NUM_PERSONS] = Field(
        1, description="people in the clip, from a third of the main one's size"
    )
    min_aesthetic_score: float | None = Field(5.0, description="LAION's aesthetic score; null without its weights")
    max_extreme_action: float | None = Field(0.5, description="CLIP's probability of acrobatics; null without weights")
    max_missing_pose_ratio: float | None = Field(0.1, description="share of frames without a usable body")
    max_pose_gap: int | None = Field(4, description="longest run of frames without a usable body")
    min_pose_confidence: float | None = Field(
        0.5, description="mean confidence of the body's joints, 0..1 (0.74 | 0.46)"
    )
    min_visible_joint_ratio: float | None = Field(
        0.52,
        description="visible body joints of 18, mean (0.67 | 0.48): head and shoulders are 8 (0.44), with elbows 10",
    )
    min_head_ratio: float | None = Field(
        0.8, description="frames in which an eye or an ear is seen, of a back too (1 | 0.32): no headless bodies"
    )
    min_subject_height: float | None = Field(0.3, description="height of the visible body over the picture's height")
    min_subject_area: float | None = Field(0.03, description="box of the visible body over the picture (0.10 | 0.02)")
    max_subject_offset: float | None = Field(
        0.4, description="body's middle from the picture's middle, share of the width (0.29 | 0.41)"
    )
    min_in_frame_ratio: float | None = Field(0.9, description="visible body joints that lie inside the picture")
    min_track_continuity: float | None = Field(
        0.95, description="neighbouring frames whose bodies overlap by 0.3 or more (1 | 0.86)"
    )
    max_appearance_change: float | None = Field(
        0.3, description="largest change of the torso's mean colour between neighbouring frames, 0..1 (0.15 | 0.53)"
    )
    max_subject_clipped_ratio: float | None = Field(
        0.25, description="points along the limbs that are as bright as can be: overexposed (0.05 | 0.36)"
    )
    min_head_above_hips_ratio: float | None = Field(0.9, description="upright frames; inversions count as extreme")
    max_torso_tilt_deg: float | None = Field(80.0, description="p95 of the torso's angle to upright (25 | 92)")
    max_rotation_rate: float | None = Field(4.0, description="p95 of the torso's turning, rad/s (2.1 | 9.6)")
    max_airborne_height: float | None = Field(
        1.0, description="p95 of the lower foot's height over where it stands, torsos (0.33 | 1.8)"
    )
    min_pose_motion: float | None = Field(0.1, description="mean joint speed, torsos a second (0.23 | none)")
    min_motion_smoothness: float | None = Field(
        None, description="likeness of frames to what AMT-S guesses from their neighbours, 0..1. Off: not calibrated"
    )
    max_pose_jerk: float | None = Field(
        0.32, description="p95 of joints' second difference, torsos a frame² (0.27 | 0.33)"
    )

    def bounds(self) -> list[tuple[str, str, str, float]]:
        """(gate, score, "min" or "max", bound) of the gates that are on, in the order in which they are applied."""
        out = []
        for gate in type(self).model_fields:
            bound = getattr(self, gate)
            if bound is not None:
                out.append((gate, score_of(gate).name, gate.split("_", 1)[0], float(bound)))
        return out


def score_of(gate: str) -> Score:
    """Return what a gate reads: the `Score` of its field, else the column that its name gives (`max_blur`: `blur`)."""
    column = gate.split("_", 1)[1]
    declared = (one for one in Gates.model_fields[gate].metadata if isinstance(one, Score))
    return next(declared, Score(column, ((column,),)))


SCORES = {score.name: score for score in map(score_of, Gates.model_fields)}


def is_beyond(values: Any, side: str, bound: Any) -> Any:
    """Compare a score with the bound of a gate: true below a "min", above a "max"; NaN (not measured) is neither."""
    return values < bound if side == "min" else values > bound


def bound_text(side: str, bound: float) -> str:
    """Return a gate's bound in words."""
    return f"{'at least' if side == 'min' else 'at most'} {bound:.4g}"


def failure_detail(score: str, value: float, words: str) -> str:
    """Return the detail of a row that a gate refuses, from its score and the gate's `bound_text`."""
    return f"{score} {value:.4g}, {words} is asked"


# Gates whose scores are measured before the pose, in the order of what they cost: a clip that fails one is not worth
# what comes after it. (First those of one small picture, then a network on a few, then two.)
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

# What the paper filters on: how a clip pleases, how smoothly it moves, how well its subject is seen, what it does.
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
