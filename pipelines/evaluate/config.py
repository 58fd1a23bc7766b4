"""Configuration of an evaluation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Protocol = Literal["first-81", "all"]


class EvaluateConfig(BaseModel):
    """Which frames are scored and how the autoencoder's ceiling is had. Results of two protocols are not comparable."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    protocol: Protocol = Field("all", description="`all` frames both videos have, or the `first-81`")
    components: str | None = Field(None, description="folder or hub id of the VAE; None takes the renders' own")
    packet_size: int = Field(8, ge=1, description="videos a packet: the unit of retry")
