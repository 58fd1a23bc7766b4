"""Configuration of a latent cache."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ENCODERS = ("vae", "text_encoder", "tokenizer", "image_encoder")
# Fields that do not affect the cached tensors: paths of networks (their digests do) and how the work is divided.
_NOT_DIGESTED = {"components", "captioner", "packet_size", "shard_bytes", "num_gpus"}


class CacheConfig(BaseModel):
    """Configuration of a cache; training rejects a cache with another size, dtype, frame count or encoders."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    components: str = Field(
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        description="folder or hub id of the VAE, text encoder and image encoder",
    )
    captioner: str | None = Field(
        None, description="folder of an image-to-text model that captions clips without a prompt; null: no captions"
    )
    max_area_px: int = Field(
        640 * 640, ge=32 * 32, description="area of the training size; the aspect ratio is kept (paper: 640²)"
    )
    drawing_area_px: int = Field(
        1024 * 576, ge=32 * 32, description="skeletons are drawn at twice the size of this area (release: 1024·576)"
    )
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="dtype of the cached tensors")
    encoder_dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="dtype of the text and image encoders; the VAE is always float32"
    )
    shard_bytes: int = Field(
        1_000_000_000,
        ge=1,
        description="approximate bytes per shard (65 clips of 81 frames at 640²); smaller in a small cache",
    )
    packet_size: int = Field(256, ge=1, description="maximum clips per shard; a shard is the unit of retry")
    num_gpus: float = Field(0.0, ge=0, description="GPUs per encoding worker; 0 encodes on the CPU")

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that affect the cached tensors."""
        return self.model_dump(mode="json", exclude=_NOT_DIGESTED)
