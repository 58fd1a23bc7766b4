"""Configuration of an evaluation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Protocol = Literal["first-81", "all"]


class EvaluateConfig(BaseModel):
    """Frames to score and VAE for the autoencoder's ceiling. Results of two protocols are not comparable."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    protocol: Protocol = Field("all", description="`all` frames that both videos have, or the `first-81`")
    components: str | None = Field(None, description="folder or hub id of the VAE; null: the renders' VAE")
    packet_size: int = Field(8, ge=1, description="videos per packet, the unit of retry")
