"""Key maps of Wan's official encoders: UMT5 to transformers, the autoencoder to diffusers, CLIP to open_clip."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_TEXT_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",  # the half that passes the GELU
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}
_IMAGE_BLOCK = {
    "norm1": "ln_1",
    "attn.to_qkv": "attn.in_proj",
    "attn.proj": "attn.out_proj",
    "norm2": "ln_2",
    "mlp.0": "mlp.c_fc",
    "mlp.2": "mlp.c_proj",
}
_IMAGE_OUTSIDE = {
    "cls_embedding": "class_embedding",
    "pos_embedding": "positional_embedding",
    "patch_embedding.weight": "conv1.weight",
    "pre_norm.weight": "ln_pre.weight",
    "pre_norm.bias": "ln_pre.bias",
    "post_norm.weight": "ln_post.weight",
    "post_norm.bias": "ln_post.bias",
}


def text_encoder_from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of Wan's UMT5 encoder as in transformers; unknown names do not change."""
    return {_text_name(name): tensor for name, tensor in tensors.items()}


def vae_from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of Wan's autoencoder as in diffusers, with diffusers' own converter."""
    from ..diffusers_internals import convert_wan_vae_to_diffusers

    return dict(convert_wan_vae_to_diffusers(dict(tensors)))


def image_encoder_from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of Wan's CLIP image tower as in ours; drop its head and all tensors outside the tower."""
    state = {}
    for name, tensor in tensors.items():
        inside = name.removeprefix("visual.")
        if inside == name or inside == "head":
            continue
        ours = _image_name(inside)
        if ours in ("class_embedding", "positional_embedding"):
            tensor = tensor.reshape(tensor.shape[-1] if ours == "class_embedding" else tensor.shape[-2:])
        state[f"visual.{ours}"] = tensor
    return state


def _text_name(name: str) -> str:
    if name == "token_embedding.weight":
        return "shared.weight"
    if name == "norm.weight":
        return "encoder.final_layer_norm.weight"
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name)
    if block and block[2] in _TEXT_BLOCK:
        return f"encoder.block.{block[1]}.{_TEXT_BLOCK[block[2]]}.weight"
    return name


def _image_name(name: str) -> str:
    if name in _IMAGE_OUTSIDE:
        return _IMAGE_OUTSIDE[name]
    block = re.fullmatch(r"transformer\.(\d+)\.(.+)\.(weight|bias)", name)
    if block and block[2] in _IMAGE_BLOCK:
        joint = "_" if block[2] == "attn.to_qkv" else "."
        return f"transformer.resblocks.{block[1]}.{_IMAGE_BLOCK[block[2]]}{joint}{block[3]}"
    return name
