"""Configuration of a latent cache."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ENCODERS = ("vae", "text_encoder", "tokenizer", "image_encoder")


class CacheConfig(BaseModel):
    """One cache; a training run refuses a cache whose size, frames or encoders are not its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    components: str = Field(
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", description="folder or hub id of VAE, text and image encoder"
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
    packet_size: int = Field(64, ge=1, description="clips a shard: about 1 GB at 81 frames of 640²")
    num_gpus: float = Field(0.0, ge=0, description="GPUs one encoding worker takes; 0 encodes on the CPU")
