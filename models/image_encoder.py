"""The image tower of open_clip as a diffusers component: it returns the tokens for cross-attention.

Saved pipelines name this module in `model_index.json`: it cannot be moved or renamed.
"""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import CLIPVisionModel

_LAYER_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_TOWER_NAMES = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "pre_layrnorm.weight": "ln_pre.weight",
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}


class OpenCLIPImageEncoder(ModelMixin, ConfigMixin):
    """open_clip's `VisionTransformer` (exact GELU), read before its last block. The defaults are those of ViT-H/14.

    Args:
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels.
        width: width D of the tokens.
        num_layers: number of blocks; the last one is stored, to match the checkpoint, but not evaluated.
        num_heads: number of attention heads.
        mlp_ratio: width of the feed-forward layer / D.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 14,
        width: int = 1280,
        num_layers: int = 32,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        self.visual = _Tower(image_size, patch_size, width, num_layers, num_heads, mlp_ratio)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the output of block n−1 of n, without the final norm.

        Args:
            pixel_values: [B, 3, image_size, image_size], normalised with CLIP's mean and standard deviation.

        Returns:
            [B, 1 + (image_size / patch_size)², D]: the class token, then the patches row by row.
        """
        return self.visual(pixel_values)

    @classmethod
    def from_clip_vision_model(cls, model: CLIPVisionModel) -> "OpenCLIPImageEncoder":
        """Convert transformers' `CLIPVisionModel` to this class; `forward` then returns its `hidden_states[-2]`.

        Raises:
            ValueError: the model's activation or epsilon differs from open_clip's.
        """
        config = model.config
        if config.hidden_act != "gelu" or config.layer_norm_eps != 1e-5:
            raise ValueError(
                f"The image encoder has activation {config.hidden_act} and epsilon {config.layer_norm_eps}, but "
                "Wan's has gelu and 1e-5: pass Wan's image encoder."
            )
        encoder = cls(
            image_size=config.image_size,
            patch_size=config.patch_size,
            width=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            mlp_ratio=config.intermediate_size / config.hidden_size,
        )
        encoder.visual.load_state_dict(_open_clip_state(model))
        return encoder.to(next(model.parameters()).dtype).eval()


class _Tower(VisionTransformer):
    # Offload and layerwise casting load weights when a module is called, so each module with weights must be called.
    def __init__(self, *sizes: Any) -> None:
        super().__init__(*sizes)
        self.proj = None  # only tokens are needed, not the joint embedding with text
        for block in self.transformer.resblocks:
            block.attn = _SelfAttention(block.attn)

    def forward(self, pixel_values: Tensor) -> Tensor:
        outputs = self.forward_intermediates(
            pixel_values,
            indices=[len(self.transformer.resblocks) - 2],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        return torch.cat([outputs["image_intermediates_prefix"][0], outputs["image_intermediates"][0]], dim=1)


class _SelfAttention(nn.Module):
    # As `nn.MultiheadAttention`, with the same weight names; that class reads the weights of `out_proj` uncalled.
    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, query: Tensor, *_: Tensor, **options: Any) -> tuple[Tensor]:
        # [B, L, 3 x heads x d] -> three of [B, heads, L, d]
        packed = F.linear(query, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        return (self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)),)


def _open_clip_state(model: CLIPVisionModel) -> dict[str, Tensor]:
    """Return the weights under open_clip's keys, with query, key and value of a layer packed into one projection."""
    source = {key.removeprefix("vision_model."): value for key, value in model.state_dict().items()}
    source.pop("embeddings.position_ids", None)
    state = {new: source.pop(old) for old, new in _TOWER_NAMES.items()}
    for kind in ("weight", "bias"):
        for index in range(model.config.num_hidden_layers):
            old, new = f"encoder.layers.{index}", f"transformer.resblocks.{index}"
            packed = [source.pop(f"{old}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            state[f"{new}.attn.in_proj_{kind}"] = torch.cat(packed)
            for theirs, ours in _LAYER_NAMES.items():
                state[f"{new}.{ours}.{kind}"] = source.pop(f"{old}.{theirs}.{kind}")
    if source:
        raise ValueError(
            f"The image encoder has tensors that Wan's does not have, such as {sorted(source)[:3]}: pass Wan's "
            "image encoder."
        )
    return state
