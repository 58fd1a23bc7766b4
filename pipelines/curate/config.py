"""Configuration of a curation: how clips are cut, scored and selected."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .gates import RANKING_GATES, Gates

Shape = Literal["vertical", "horizontal", "square"]
SHAPES: tuple[Shape, ...] = ("vertical", "horizontal", "square")
SQUARE_RATIO = 1.05  # aspect ratios up to this count as square


class Duplicates(BaseModel):
    """Near-duplicate detection. Clips with the same bytes are always detected; these settings compare the pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    scope: Literal["source", "clip", "off"] = Field(
        "source",
        description="`source`: compare whole files (an excerpt is not a copy); `clip`: compare every pair of clips",
    )
    min_common_ratio: float = Field(
        0.8, gt=0, le=1, description="share of the longer video that two copies must have in common"
    )


class Quotas(BaseModel):
    """Upper limits on accepted clips; those with the largest margin are kept (see `targets.margins`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_accepted_per_source: int | None = Field(None, ge=1, description="maximum accepted clips per source")
    max_accepted_by_shape: dict[Shape, int] = Field({}, description="maximum accepted clips per picture shape")
    along: tuple[str, ...] = Field(
        RANKING_GATES, description="gates whose scores define the margin, and whose thresholds a target moves"
    )

    @model_validator(mode="after")
    def _check(self) -> "Quotas":
        unknown = sorted(set(self.along) - set(Gates.model_fields))
        if unknown or not self.along:
            raise ValueError(f"along must contain gate names, at least one; got {', '.join(unknown) or 'none'}")
        return self

    @property
    def need_margins(self) -> bool:
        """Return whether clips must be ranked."""
        return self.max_accepted_per_source is not None or bool(self.max_accepted_by_shape)

    def limits(self) -> list[int]:
        """Return the quota of each of `SHAPES`; without a quota, a number that no selection reaches."""
        return [self.max_accepted_by_shape.get(shape, 2**62) for shape in SHAPES]


class Target(BaseModel):
    """A number of accepted clips, reached by moving the gates of `Quotas.along` together, per part of the mix."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_clips: int = Field(ge=1, description="accepted clips (paper: 7,338)")
    mix: dict[Shape, float] = Field(
        {}, description="share of each picture shape (inside its borders); shapes not named share the rest"
    )

    @model_validator(mode="after")
    def _check(self) -> "Target":
        total = sum(self.mix.values())
        if any(share < 0 for share in self.mix.values()) or total > 1 + 1e-9:
            raise ValueError(f"shares of the mix must be in 0..1 and sum to 1 at most, got {self.mix}")
        if len(self.mix) == len(SHAPES) and total < 1 - 1e-9:
            raise ValueError(f"shares of a mix that names all shapes must sum to 1, got {self.mix}")
        return self


class CurateConfig(BaseModel):
    """Configuration of one curation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_frames: int = Field(81, ge=5, description="frames per clip, 4k + 1 (paper: 81, five seconds)")
    fps: float = Field(16.0, gt=0, description="sampling rate of clips, frames per second (81 frames: five seconds)")
    max_clips_per_source: int | None = Field(
        None, ge=1, description="maximum clips per source; later clips are dropped"
    )
    shot_detector: Literal["auto", "transnetv2", "threshold"] = Field(
        "auto", description="`threshold` compares the colours of consecutive frames; `auto`: TransNetV2 if installed"
    )
    cut_threshold: float = Field(0.3, gt=0, lt=1, description="change of colours that ends a shot, 0..1 (`threshold`)")
    transition_threshold: float = Field(
        0.5, gt=0, lt=1, description="a frame with at least this probability is part of a transition (`transnetv2`)"
    )
    num_score_frames: int = Field(8, ge=2, description="frames per clip that are scored")
    num_network_frames: int = Field(4, ge=1, description="number of these frames that the networks see")
    text_detector: Literal["auto", "ppocr", "off"] = Field(
        "auto", description="PP-OCRv4 from `rapidocr-onnxruntime`; `auto`: if installed"
    )
    person_counter: Literal["auto", "blazepose", "off"] = Field(
        "auto", description="counts people if no keypoints are supplied; `auto`: if its weights are present"
    )
    aesthetic_model: Literal["auto", "laion", "off"] = Field(
        "auto", description="CLIP ViT-L/14 and LAION's head; `auto`: if both weights are present"
    )
    smoothness_model: Literal["auto", "amt", "off"] = Field(
        "auto", description="AMT-S, which interpolates every other frame; `auto`: if its weights are present"
    )
    exclude: str | None = Field(
        None, description="reject clips similar to these videos: a folder, or an .npz of fingerprints; local or s3://"
    )
    trust: bool = Field(
        False, description="sources are already vetted: skip the scores (they stay null) and their networks"
    )
    duplicates: Duplicates = Duplicates()
    pose_model: str = Field(
        "auto", description="`blazepose`, `dwpose`, `supplied`, or `auto`: supplied keypoints, else an available model"
    )
    frame_models: tuple[str, ...] = Field(
        (), description="registered models that see the frames of each clip with a pose, such as captions, embeddings"
    )
    min_joint_confidence: float = Field(
        0.3, ge=0, le=1, description="a joint below this confidence counts as invisible (DWPose's threshold)"
    )
    gates: Gates = Gates()
    gates_by_shape: dict[Shape, dict[str, float | None]] = Field(
        {}, description="thresholds that differ for a picture shape: shape → gate → threshold"
    )
    quotas: Quotas = Quotas()
    target: Target | None = Field(None, description="find the thresholds that accept this number of clips")
    num_gpus: float = Field(
        0.0, ge=0, le=1, description="share of a GPU per worker that runs networks; 0: run them on the CPU"
    )
    decoder: Literal["cpu", "gpu"] = Field(
        "cpu", description="where clips are decoded for pose and smoothness; `gpu`: by NVDEC, needs `num_gpus` > 0"
    )
    packet_size: int = Field(8, ge=1, description="sources per packet, the unit of retry")

    @model_validator(mode="after")
    def _check(self) -> "CurateConfig":
        if self.num_frames % 4 != 1:
            raise ValueError(f"num_frames must be 4k + 1 (the VAE takes 4 frames at a time), got {self.num_frames}")
        if self.decoder == "gpu" and not self.num_gpus:
            raise ValueError("decoder is gpu, but num_gpus is 0: give the workers a share of a GPU, or choose cpu")
        if len(set(self.frame_models)) < len(self.frame_models):
            raise ValueError(f"frame_models must be different, got {', '.join(self.frame_models)}")
        for shape in self.gates_by_shape:
            self.gates_for(shape)
        return self

    def gates_for(self, shape: Shape) -> Gates:
        """Return the gates for pictures of one shape."""
        changed: dict[str, Any] = {**self.gates.model_dump(), **self.gates_by_shape.get(shape, {})}
        return Gates(**changed)


# Fields that `refilter` can change without reading a video; all others decide what is measured, and how.
SELECTION_FIELDS = ("gates", "gates_by_shape", "duplicates", "quotas", "target")
