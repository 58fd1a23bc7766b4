"""Configuration of a curation: how clips are cut, and the gates they must pass.

The paper filters on aesthetics, motion smoothness, subject prominence and action type, and gives no thresholds, models
or funnel. Every bound here is our starting value; the scores are stored, so another bound costs seconds.
"""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Gates(BaseModel):
    """Bounds that a clip's scores must keep; None switches a gate off. A score that is null passes and is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_side_px: int | None = Field(160, description="shorter side of the source, pixels")
    max_cut_score: float | None = Field(0.35, description="largest change between neighbouring frames, 0..1")
    min_brightness: float | None = Field(0.12, description="mean luma, 0..1")
    min_contrast: float | None = Field(0.05, description="standard deviation of luma, 0..1")
    min_sharpness: float | None = Field(0.0006, description="variance of the Laplacian of luma / 255²")
    min_motion_magnitude: float | None = Field(0.002, description="mean change of luma between frames 1/16 s apart")
    max_motion_magnitude: float | None = Field(0.12, description="above it is noise, flicker or a shaken camera")
    max_persons: int | None = Field(1, description="people in the clip")
    max_missing_pose_ratio: float | None = Field(0.1, description="share of frames without a usable body")
    min_pose_confidence: float | None = Field(0.6, description="mean confidence of the body's joints, 0..1")
    min_visible_joint_ratio: float | None = Field(0.65, description="visible body joints of 18: half a body and a head")
    min_subject_height: float | None = Field(0.3, description="height of the visible body over the image height")
    min_in_frame_ratio: float | None = Field(0.9, description="visible body joints that lie inside the image")
    min_head_above_hips_ratio: float | None = Field(0.9, description="upright frames; inversions count as extreme")
    min_pose_motion: float | None = Field(0.1, description="mean joint speed, torsos a second")
    max_pose_jerk: float | None = Field(0.25, description="p95 of joints' second difference, torsos a frame²")

    def bounds(self) -> list[tuple[str, str, str, float]]:
        """(gate, column, "min" or "max", bound) of the gates that are on, in the order in which they are applied."""
        out = []
        for gate in type(self).model_fields:
            bound = getattr(self, gate)
            if bound is not None:
                side, column = gate.split("_", 1)
                out.append((gate, "num_persons" if column == "persons" else column, side, float(bound)))
        return out


# Gates whose scores are measured before the pose: a clip that fails one is not worth the dear full decode.
CHEAP_GATES = frozenset(
    {
        "min_side_px",
        "max_cut_score",
        "min_brightness",
        "min_contrast",
        "min_sharpness",
        "min_motion_magnitude",
        "max_motion_magnitude",
    }
)


class CurateConfig(BaseModel):
    """One curation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int = Field(81, ge=5, description="frames of a clip, 4k + 1 (paper: 81 = five seconds)")
    fps: float = Field(16.0, gt=0, description="rate at which clips are sampled, by time (81 frames in five seconds)")
    max_clips_per_source: int | None = Field(
        None, ge=1, description="at most this many clips of one source, the first ones"
    )
    cut_threshold: float = Field(0.3, gt=0, lt=1, description="frame change that ends a shot, 0..1")
    num_score_frames: int = Field(8, ge=2, description="frames of a clip that the scores look at")
    pose_model: str = Field(
        "auto", description="`blazepose`, `dwpose`, `supplied`, or `auto`: supplied, else what is there"
    )
    min_joint_confidence: float = Field(
        0.3, ge=0, le=1, description="below it a joint counts as not seen (DWPose's cut)"
    )
    gates: Gates = Gates()
    packet_size: int = Field(8, ge=1, description="sources a packet: the unit of retry")

    @model_validator(mode="after")
    def _check(self) -> "CurateConfig":
        if self.num_frames % 4 != 1:
            raise ValueError(f"num_frames must be 4k + 1 (the VAE takes 4 frames at a time), got {self.num_frames}")
        return self
