"""Key maps between the released checkpoints and our transformer, both ways, key by key.

diffusers' own converter renames by substring and would also rename inside the pose modules
(`condition_embedding_align.norm2`, `...cross_attn`); here every module has one row. The backbone's rows also serve
official Wan 2.1 checkpoints, which have no pose modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

_BLOCK_MODULES = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "norm3": "norm2",  # the only block norm with parameters: the one before cross-attention
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
_OUTSIDE_MODULES = {
    "patch_embedding": "patch_embedding",
    "patch_embedding_fuse": "patch_embedding_fuse",
    "patch_embedding_ref_c": "patch_embedding_ref_c",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "condition_embedding_spatial.conv": "pose_modulation.spatial.conv",
    "condition_embedding_spatial.conv_q": "pose_modulation.spatial.conv_q",
    "condition_embedding_spatial.conv_p": "pose_modulation.spatial.conv_p",
    "condition_embedding_spatial.bn1": "pose_modulation.spatial.norm_1",
    "condition_embedding_spatial.bn2": "pose_modulation.spatial.norm_2",
    "condition_embedding_spatial.fc.0": "pose_modulation.spatial.squeeze",
    "condition_embedding_spatial.fc.1.fc.0": "pose_modulation.spatial.gate",
    "condition_embedding_spatial.fc_phi": "pose_modulation.spatial.to_kernel",
    "condition_embedding_spatial.fc_scale": "pose_modulation.spatial.to_scale",
    "condition_embedding_temporal.0.spatial": "pose_modulation.temporal.0.spatial",
    "condition_embedding_temporal.0.temporal": "pose_modulation.temporal.0.temporal",
    "condition_embedding_temporal.2.spatial": "pose_modulation.temporal.1.spatial",
    "condition_embedding_temporal.2.temporal": "pose_modulation.temporal.1.temporal",
    "condition_embedding_temporal.4.spatial": "pose_modulation.temporal.2.spatial",
    "condition_embedding_temporal.4.temporal": "pose_modulation.temporal.2.temporal",
    "condition_embedding_align.proj_p": "pose_modulation.alignment.proj_pose",
    "condition_embedding_align.proj_r": "pose_modulation.alignment.proj_query",
    "condition_embedding_align.proj_p_back": "pose_modulation.alignment.proj_out",
    "condition_embedding_align.cross_attn.out_proj": "pose_modulation.alignment.to_out",
    "condition_embedding_align.ffn_pose.0": "pose_modulation.alignment.ffn.0",
    "condition_embedding_align.ffn_pose.2": "pose_modulation.alignment.ffn.2",
    "condition_embedding_align.norm1": "pose_modulation.alignment.norm_1",
    "condition_embedding_align.norm2": "pose_modulation.alignment.norm_2",
}


def _parameters(modules: Mapping[str, str]) -> dict[str, str]:
    return {f"{theirs}.{leaf}": f"{ours}.{leaf}" for theirs, ours in modules.items() for leaf in ("weight", "bias")}


_BLOCK = {"modulation": "scale_shift_table", **_parameters(_BLOCK_MODULES)}
_OUTSIDE_BLOCKS = {
    "head.modulation": "scale_shift_table",
    "condition_embedding_align.cross_attn.in_proj_weight": "pose_modulation.alignment.to_qkv.weight",
    "condition_embedding_align.cross_attn.in_proj_bias": "pose_modulation.alignment.to_qkv.bias",
    **_parameters(_OUTSIDE_MODULES),
}
_BLOCK_BACK = {ours: theirs for theirs, ours in _BLOCK.items()}
_OUTSIDE_BLOCKS_BACK = {ours: theirs for theirs, ours in _OUTSIDE_BLOCKS.items()}


def from_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released names and shapes -> ours. Tensors share memory. Raises ValueError naming every unknown key."""
    names = _renamed(state_dict, _BLOCK, _OUTSIDE_BLOCKS)
    return {names[key]: tensor.reshape(_plain_shape(key, tensor)) for key, tensor in state_dict.items()}


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names and shapes -> the released ones. Tensors share memory. Raises ValueError naming every unknown key."""
    names = _renamed(state_dict, _BLOCK_BACK, _OUTSIDE_BLOCKS_BACK)
    return {names[key]: tensor.reshape(_official_shape(names[key], tensor)) for key, tensor in state_dict.items()}


def config_from_official(state_dict: Mapping[str, Tensor], num_attention_heads: int | None = None) -> dict[str, Any]:
    """Constructor arguments of `SteadyDancerTransformer3DModel`, read off the shapes of a released checkpoint.

    The number of heads leaves no trace in the shapes: None means width / 128, as in every released Wan.
    `alignment_axis` leaves none either; the released weights are temporal.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
    width, in_channels, *patch_size = shapes["patch_embedding.weight"]
    heads = num_attention_heads or width // 128
    patch_t, patch_h, patch_w = patch_size
    return {
        "patch_size": (patch_t, patch_h, patch_w),
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": in_channels,
        "out_channels": shapes["head.head.weight"][0] // (patch_t * patch_h * patch_w),
        "text_dim": shapes["text_embedding.0.weight"][1],
        "freq_dim": shapes["time_embedding.0.weight"][1],
        "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
        "num_layers": 1 + max(int(key.split(".")[1]) for key in shapes if key.startswith("blocks.")),
        "cross_attn_norm": "blocks.0.norm3.weight" in shapes,
        "image_dim": shapes["img_emb.proj.0.weight"][0],
        "added_kv_proj_dim": shapes["blocks.0.cross_attn.k_img.weight"][1],
        "pose_channels": shapes["patch_embedding_ref_c.weight"][1],
        "alignment_axis": "temporal",
    }


def _renamed(keys: Iterable[str], block: Mapping[str, str], outside: Mapping[str, str]) -> dict[str, str]:
    names, unknown = {}, []
    for key in keys:
        prefix, name = _BLOCK_PREFIX.fullmatch(key).groups(default="")  # type: ignore[union-attr]
        table = block if prefix else outside
        if name in table:
            names[key] = prefix + table[name]
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(f"{len(unknown)} keys belong to no known layer: {', '.join(sorted(unknown))}")
    return names


_BLOCK_PREFIX = re.compile(r"(blocks\.\d+\.)?(.*)")
# The released alignment unit applies its linear maps as 1x1 convolutions and keeps its norms as [1,C,1,1].
_POINTWISE = re.compile(r"condition_embedding_align\.(proj_p|proj_r|proj_p_back|ffn_pose\.[02])\.weight")
_PIXEL_NORM = re.compile(r"condition_embedding_align\.norm[12]\.(weight|bias)")


def _plain_shape(official: str, tensor: Tensor) -> tuple[int, ...]:
    if _POINTWISE.fullmatch(official):
        return tuple(tensor.shape[:2])
    return (tensor.numel(),) if _PIXEL_NORM.fullmatch(official) else tuple(tensor.shape)


def _official_shape(official: str, tensor: Tensor) -> tuple[int, ...]:
    if _POINTWISE.fullmatch(official):
        return (*tensor.shape, 1, 1)
    return (1, tensor.numel(), 1, 1) if _PIXEL_NORM.fullmatch(official) else tuple(tensor.shape)
