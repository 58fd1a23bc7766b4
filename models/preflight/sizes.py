"""Sizes of the networks of a pipeline and of a video, from which memory is computed. The defaults are Wan 2.1 14B's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import UMT5Config, UMT5EncoderModel

from ..condition_reconciliation import TEXT_LENGTH

_TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 40, "attention_head_dim": 128, "ffn_dim": 13824, "num_layers": 40, "text_dim": 4096,
    "image_dim": 1280,
}  # fmt: skip
_TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": 256_384, "d_model": 4096, "d_kv": 64, "d_ff": 10_240, "num_layers": 24, "num_heads": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """Constructor arguments of the networks of a pipeline; those that are not given are Wan 2.1 14B's.

    Attributes:
        transformer: those of `SteadyDancerTransformer3DModel`.
        text_encoder: those of `UMT5Config`.
        image_encoder: those of `OpenCLIPImageEncoder`; empty: ViT-H/14.
        vae: those of `AutoencoderKLWan`; empty: Wan 2.1's.
        image_tokens: tokens that the image encoder returns.
        text_tokens: rows of a text feature, at most.
    """

    transformer: Mapping[str, Any] = field(default_factory=dict)
    text_encoder: Mapping[str, Any] = field(default_factory=dict)
    image_encoder: Mapping[str, Any] = field(default_factory=dict)
    vae: Mapping[str, Any] = field(default_factory=dict)
    image_tokens: int = 257
    text_tokens: int = TEXT_LENGTH

    def __post_init__(self) -> None:
        object.__setattr__(self, "transformer", {**_TRANSFORMER, **self.transformer})
        object.__setattr__(self, "text_encoder", {**_TEXT_ENCODER, **self.text_encoder})

    def __hash__(self) -> int:
        return hash(json.dumps(asdict(self), sort_keys=True))

    def make_text_encoder(self) -> UMT5EncoderModel:
        """Build the text encoder on torch's current default device."""
        model = UMT5EncoderModel(UMT5Config(**self.text_encoder))
        model.tie_weights()
        return model

    @property
    def transformer_json(self) -> str:
        """The transformer's arguments as JSON: the key under which counts are kept."""
        return json.dumps(dict(self.transformer), sort_keys=True)


@dataclass(frozen=True)
class Clip:
    """Size of a video in pixels: `num_frames` is 4k + 1, the sides are multiples of 16."""

    num_frames: int = 81
    height: int = 1024
    width: int = 576

    @property
    def latent_grid(self) -> tuple[int, int, int]:
        """Latent frames, height and width."""
        return (self.num_frames - 1) // 4 + 1, self.height // 8, self.width // 8
