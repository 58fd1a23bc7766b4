"""Configuration of a curation: how clips are cut, scored and chosen."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .gates import RANKING_GATES, Gates

Shape = Literal["vertical", "horizontal", "square"]
SHAPES: tuple[Shape, ...] = ("vertical", "horizontal", "square")
SQUARE_RATIO = 1.05  # sides that differ by less are those of a square


class Duplicates(BaseModel):
    """Which copies are told apart: clips of the same bytes always are, these by what they show."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scope: Literal["source", "clip", "off"] = Field(
        "source", description="compare whole files (a part of a video is no copy of it), or each clip with each"
    )
    min_common_ratio: float = Field(0.8, gt=0, le=1, description="share of the longer one that copies have in common")


class Quotas(BaseModel):
    """At most so many accepted clips of a kind; those with the largest margin stay (see `targets.margins`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_accepted_per_source: int | None = Field(None, ge=1, description="accepted clips of one source")
    max_accepted_by_shape: dict[Shape, int] = Field({}, description="accepted clips of one shape of picture")
    along: tuple[str, ...] = Field(
        RANKING_GATES, description="gates whose scores make the margin, and that a target moves"
    )

    @model_validator(mode="after")
    def _check(self) -> "Quotas":
        unknown = sorted(set(self.along) - set(Gates.model_fields))
        if unknown or not self.along:
            raise ValueError(f"along names gates; {', '.join(unknown) or 'nothing'} is none")
        return self

    @property
    def need_margins(self) -> bool:
        """Whether clips must be ranked."""
        return self.max_accepted_per_source is not None or bool(self.max_accepted_by_shape)

    def limits(self) -> list[int]:
        """Accepted clips of each of `SHAPES`; where there is no limit, more than there can be."""
        return [self.max_accepted_by_shape.get(shape, 2**62) for shape in SHAPES]


class Target(BaseModel):
    """So many accepted clips, found by moving the gates of `Quotas.along` together, for each part of the mix alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_clips: int = Field(ge=1, description="accepted clips (paper: 7,338)")
    mix: dict[Shape, float] = Field(
        {}, description="shares of shapes of the picture inside its borders; shapes that are not named share the rest"
    )

    @model_validator(mode="after")
    def _check(self) -> "Target":
        total = sum(self.mix.values())
        if any(share < 0 for share in self.mix.values()) or total > 1 + 1e-9:
            raise ValueError(f"shares of the mix lie in 0..1 and sum to 1 at most, got {self.mix}")
        if len(self.mix) == len(SHAPES) and total < 1 - 1e-9:
            raise ValueError(f"the mix names all shapes, so its shares must sum to 1, got {self.mix}")
        return self


class CurateConfig(BaseModel):
    """One curation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_frames: int = Field(81, ge=5, description="frames of a clip, 4k + 1 (paper: 81 = five seconds)")
    fps: float = Field(16.0, gt=0, description="rate at which clips are sampled, by time (81 frames in five seconds)")
    max_clips_per_source: int | None = Field(
        None, ge=1, description="at most this many clips of one source, the first ones"
    )
    shot_detector: Literal["auto", "transnetv2", "threshold"] = Field(
        "auto", description="`threshold` compares colours of neighbouring frames; `auto`: TransNetV2 if installed"
    )
    cut_threshold: float = Field(0.3, gt=0, lt=1, description="change of colours that ends a shot, 0..1 (`threshold`)")
    transition_threshold: float = Field(
        0.5, gt=0, lt=1, description="probability from which a frame belongs to a transition (`transnetv2`)"
    )
    num_score_frames: int = Field(8, ge=2, description="frames of a clip that the scores look at")
    num_network_frames: int = Field(4, ge=1, description="of these, the frames that networks look at")
    text_detector: Literal["auto", "ppocr", "off"] = Field(
        "auto", description="PP-OCRv4 out of `rapidocr-onnxruntime`; `auto`: if installed"
    )
    person_counter: Literal["auto", "blazepose", "off"] = Field(
        "auto", description="counts people where no keypoints are supplied; `auto`: if its weights are here"
    )
    aesthetic_model: Literal["auto", "laion", "off"] = Field(
        "auto", description="CLIP ViT-L/14 and LAION's head; `auto`: if both weights are here"
    )
    smoothness_model: Literal["auto", "amt", "off"] = Field(
        "auto", description="AMT-S, which guesses every other frame; `auto`: if its weights are here"
    )
    exclude: str | None = Field(
        None, description="a folder of videos, or an .npz of their fingerprints, that no clip may come from; may be s3"
    )
    trust: bool = Field(
        False, description="sources that were chosen before: no scores and none of their networks; they stay null"
    )
    duplicates: Duplicates = Duplicates()
    pose_model: str = Field(
        "auto", description="`blazepose`, `dwpose`, `supplied`, or `auto`: supplied, else what is there"
    )
    min_joint_confidence: float = Field(
        0.3, ge=0, le=1, description="below it a joint counts as not seen (DWPose's cut)"
    )
    gates: Gates = Gates()
    gates_by_shape: dict[Shape, dict[str, float | None]] = Field(
        {}, description="bounds that are other for pictures of one shape: shape → gate → bound"
    )
    quotas: Quotas = Quotas()
    target: Target | None = Field(None, description="find bounds that accept so many clips")
    num_gpus: float = Field(
        0.0, ge=0, le=1, description="share of a GPU that each worker of the networks holds; 0: they run on the CPU"
    )
    packet_size: int = Field(8, ge=1, description="sources a packet: the unit of retry")

    @model_validator(mode="after")
    def _check(self) -> "CurateConfig":
        if self.num_frames % 4 != 1:
            raise ValueError(f"num_frames must be 4k + 1 (the VAE takes 4 frames at a time), got {self.num_frames}")
        for shape in self.gates_by_shape:
            self.gates_for(shape)
        return self

    def gates_for(self, shape: Shape) -> Gates:
        """The gates of pictures of one shape."""
        changed: dict[str, Any] = {**self.gates.model_dump(), **self.gates_by_shape.get(shape, {})}
        return Gates(**changed)


# What a selection may change without looking at a video again; all else decides what is measured, and how.
SELECTION_FIELDS = ("gates", "gates_by_shape", "duplicates", "quotas", "target")
