"""Configuration of an evaluation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .protocols import Protocol, find_protocol, own_protocol


class EvaluateConfig(BaseModel):
    """Protocol, metrics, and networks of an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    protocol: str | Protocol = Field(
        "all", description="name of a built-in protocol (`all`, `first-81`, …), or the fields of one's own"
    )
    metrics: tuple[str, ...] | None = Field(
        None, description="metrics, groups or tables to measure; null: all whose weights are present"
    )
    components: str | None = Field(None, description="folder or hub id of the VAE; null: the renders' VAE")
    pose_model: str = Field(
        "auto", description="`blazepose`, `dwpose`, `supplied`, or `auto`: that of the renders, else the best available"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: a GPU where this machine has one")
    packet_size: int = Field(8, ge=1, description="videos per packet, the unit of retry")

    @field_validator("protocol", mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        """Keep the name of a built-in protocol; replace a file, or fields, by the protocol."""
        if isinstance(value, str):
            protocol = find_protocol(value)
            return value if protocol.name == value else protocol
        return own_protocol(value) if isinstance(value, dict) else value

    @property
    def rules(self) -> Protocol:
        """The protocol."""
        return find_protocol(self.protocol) if isinstance(self.protocol, str) else self.protocol
