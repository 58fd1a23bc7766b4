"""Configuration of an export."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ExportConfig(BaseModel):
    """Configuration of an export."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layout: Literal["mp4+jsonl", "diffsynth", "musubi"] = Field(
        "mp4+jsonl", description="manifests in addition to `clips.jsonl`: none, DiffSynth-Studio's, or musubi-tuner's"
    )
    max_area_px: int | None = Field(
        640 * 640,
        ge=32 * 32,
        description="area of the training size; the aspect ratio is kept. null: the source's own size",
    )
    lossless: bool = Field(False, description="encode frames without loss (H.264 RGB, 8 to 28 times the bytes)")
    packet_size: int = Field(16, ge=1, description="clips per packet, the unit of retry")
