"""Configuration of a latent cache."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

ENCODERS = ("vae", "text_encoder", "tokenizer", "image_encoder")
# What no number in a cache depends on: where networks lie (their digests do count), and how the work is cut.
_FREE = {"components", "captioner", "packet_size", "shard_bytes", "num_gpus"}


class CacheConfig(BaseModel):
    """One cache; a training run refuses a cache whose size, type, frames or encoders are not its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    components: str = Field(
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", description="folder or hub id of VAE, text and image encoder"
    )
    captioner: str | None = Field(
        None, description="folder of an image-and-text model that captions clips without a prompt; null: they have none"
    )
    max_area_px: int = Field(
        640 * 640, ge=32 * 32, description="area of the trained size; aspect is kept (paper: 640²)"
    )
    drawing_area_px: int = Field(
        1024 * 576, ge=32 * 32, description="skeletons are drawn at twice the size of this area (release: 1024·576)"
    )
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="of the cached tensors")
    encoder_dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="of the text and image encoders; the VAE is always float32"
    )
    shard_bytes: int = Field(
        1_000_000_000, ge=1, description="of a shard, about: 65 clips of 81 frames of 640²; less in a small cache"
    )
    packet_size: int = Field(256, ge=1, description="clips a shard at most; a shard is the unit of retry")
    num_gpus: float = Field(0.0, ge=0, description="GPUs one encoding worker takes; 0 encodes on the CPU")

    @property
    def settings(self) -> dict[str, Any]:
        """What of it the cached numbers depend on."""
        return self.model_dump(mode="json", exclude=_FREE)
