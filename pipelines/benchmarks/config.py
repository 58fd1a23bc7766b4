"""Configuration of `xdance build`: how pairs are measured, and which are selected."""

from pydantic import BaseModel, ConfigDict, Field


class XDanceConfig(BaseModel):
    """A benchmark of misaligned pairs: drivers, thresholds of the kinds of misalignment, number of pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    high_drivers: int = Field(8, ge=0, description="driving videos with much motion (paper)")
    low_drivers: int = Field(4, ge=0, description="driving videos with little motion (paper)")
    num_pairs: int = Field(48, ge=1, description="pairs to select: one per driver and kind of misalignment (ours)")
    num_frames: int = Field(81, ge=5, description="frames of a driving video that are measured, from its first (paper)")
    min_high_motion: float = Field(
        0.5, gt=0, description="mean speed of the joints, in torso lengths per second, from which motion is much (ours)"
    )
    min_style_gap: float = Field(
        0.3,
        gt=0,
        description="difference of the share of flat colour from which the style differs, if none is given (ours)",
    )
    min_framing_gap: float = Field(
        0.7,
        gt=0,
        description="1 − overlap of both people's boxes from which the framing differs; hidden legs also count (ours)",
    )
    min_skeleton_gap: float = Field(
        0.2,
        gt=0,
        description="mean |ln| of the limbs' ratios from which the skeleton differs (ours; adults: mostly below "
        "0.15, cartoon figures: 0.3 to 0.5)",
    )
    min_start_gap: float = Field(
        0.2,
        gt=0,
        description="distance of the reference pose from the first driven one, in torso lengths, from which there is a "
        "start gap (ours; two arms raised are about 0.3)",
    )
    pose_model: str = Field(
        "auto", description="`blazepose`, `dwpose`, `animal`, `supplied`, or `auto`: supplied, else the best available"
    )
    num_gpus: float = Field(0.0, ge=0, description="GPUs per worker; 0 estimates poses on the CPU")
    packet_size: int = Field(4, ge=1, description="files per packet, the unit of retry")
