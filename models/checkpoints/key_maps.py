"""Key maps between the released checkpoints and our transformer, in both directions.

diffusers' converter replaces substrings, which would also rename layers inside the pose modules
(`condition_embedding_align.norm2`, `...cross_attn`); these maps have one row per module. The rows of the backbone also
apply to official Wan 2.1 checkpoints, which have no pose modules.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

Shape = tuple[int, ...]

POSE_MODULE_NAMES = (
    "patch_embedding_fuse",
    "pose_patch_embedding",
    "pose_adapter",
    "patch_embedding_ref_c",
    "pose_modulation",
)
"""The transformer's children that Wan does not have."""


class Shaped(Protocol):
    """An object with a shape: a tensor, or a tensor's entry in a file header."""

    @property
    def shape(self) -> Any:
        """Sizes of the axes."""


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
    """Convert released names and shapes to ours. Tensors share memory. Raises ValueError with every unknown key."""
    names = renamed_from_official(state_dict)
    return {names[key]: tensor.reshape(plain_shape(key, tensor.shape)) for key, tensor in state_dict.items()}


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert our names and shapes to the released ones. Tensors share memory. Raises ValueError with unknown keys."""
    names = renamed_to_official(state_dict)
    return {names[key]: tensor.reshape(official_shape(names[key], tensor.shape)) for key, tensor in state_dict.items()}


def renamed_from_official(keys: Iterable[str]) -> dict[str, str]:
    """Map released names to ours. Raises ValueError with every unknown key."""
    return _renamed(keys, _BLOCK, _OUTSIDE_BLOCKS)


def renamed_to_official(keys: Iterable[str]) -> dict[str, str]:
    """Map our names to the released ones. Raises ValueError with every unknown key."""
    return _renamed(keys, _BLOCK_BACK, _OUTSIDE_BLOCKS_BACK)


def known_official(keys: Iterable[str]) -> list[str]:
    """Return the keys that are released names."""
    return [key for key in keys if _row(key, _BLOCK, _OUTSIDE_BLOCKS)]


def known_ours(keys: Iterable[str]) -> list[str]:
    """Return the keys that are our names (diffusers' names for the backbone)."""
    return [key for key in keys if _row(key, _BLOCK_BACK, _OUTSIDE_BLOCKS_BACK)]


def config_from_official(state_dict: Mapping[str, Shaped], num_attention_heads: int | None = None) -> dict[str, Any]:
    """Determine constructor arguments from the shapes of a checkpoint with released names.

    They are for `SteadyDancerTransformer3DModel` if the checkpoint has pose modules, otherwise for diffusers'
    `WanTransformer3DModel`. Each size is the most frequent one among the tensors that have it, so that a file with
    a few missing or wrong tensors is still identified; a size that no tensor has defaults to the released model's.

    Shapes do not determine the number of heads: None means width / 128, as in every released Wan model. They do not
    determine `alignment_axis` either; the released weights are temporal.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
    width = _vote(shapes, r"blocks\.\d+\.(self|cross)_attn\.[qkvo]\.bias|patch_embedding\.(weight|bias)", 0, 5120)
    heads = num_attention_heads or max(width // 128, 1)
    patch_t, patch_h, patch_w = (_vote(shapes, r"patch_embedding\.weight", 2 + i, (1, 2, 2)[i]) for i in range(3))
    is_dancer = any(key.startswith(("condition_embedding_", "patch_embedding_")) for key in shapes)
    takes_image = is_dancer or any(key.startswith("img_emb.") or ".k_img." in key for key in shapes)
    config: dict[str, Any] = {
        "patch_size": (patch_t, patch_h, patch_w),
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": _vote(shapes, r"patch_embedding\.weight", 1, 36 if takes_image else 16),
        "out_channels": _vote(shapes, r"head\.head\.(weight|bias)", 0, 16 * patch_t * patch_h * patch_w)
        // (patch_t * patch_h * patch_w),
        "text_dim": _vote(shapes, r"text_embedding\.0\.weight", 1, 4096),
        "freq_dim": _vote(shapes, r"time_embedding\.0\.weight", 1, 256),
        "ffn_dim": _vote(shapes, r"blocks\.\d+\.ffn\.0\.(weight|bias)", 0, 13824),
        "num_layers": 1 + max((int(key.split(".")[1]) for key in shapes if _BLOCK_KEY.match(key)), default=39),
        "cross_attn_norm": any(key.endswith(".norm3.weight") for key in shapes),
        "image_dim": _vote(shapes, r"img_emb\.proj\.(0|1)\.(weight|bias)", 0, 1280) if takes_image else None,
        "added_kv_proj_dim": _vote(shapes, r"blocks\.\d+\.cross_attn\.k_img\.weight", 1, width)
        if takes_image
        else None,
    }
    if is_dancer:
        config["pose_channels"] = _vote(shapes, r"patch_embedding_ref_c\.weight", 1, 16)
        config["alignment_axis"] = "temporal"
        config["temporal_kernel_size"] = _vote(shapes, r"condition_embedding_temporal\.\d+\.temporal\.weight", 2, 3)
    return config


def _vote(shapes: Mapping[str, Shape], pattern: str, axis: int, default: int) -> int:
    """Return the most frequent size of the matching tensors along an axis."""
    matches = re.compile(pattern).fullmatch
    sizes = Counter(shape[axis] for key, shape in shapes.items() if matches(key) and len(shape) > axis)
    return sizes.most_common(1)[0][0] if sizes else default


def _row(key: str, block: Mapping[str, str], outside: Mapping[str, str]) -> str | None:
    prefix, name = _BLOCK_PREFIX.fullmatch(key).groups(default="")  # type: ignore[union-attr]
    found = (block if prefix else outside).get(name)
    return None if found is None else prefix + found


def _renamed(keys: Iterable[str], block: Mapping[str, str], outside: Mapping[str, str]) -> dict[str, str]:
    rows = {key: _row(key, block, outside) for key in keys}
    unknown = [key for key, name in rows.items() if name is None]
    if unknown:
        raise ValueError(f"{len(unknown)} keys do not belong to a known layer: {', '.join(sorted(unknown))}")
    return {key: name for key, name in rows.items() if name is not None}


_BLOCK_KEY = re.compile(r"blocks\.\d+\.")
_BLOCK_PREFIX = re.compile(r"(blocks\.\d+\.)?(.*)", re.DOTALL)
# The released alignment unit applies its linear layers as 1x1 convolutions and stores its norms as [1,C,1,1].
_POINTWISE = re.compile(r"condition_embedding_align\.(proj_p|proj_r|proj_p_back|ffn_pose\.[02])\.weight")
_PIXEL_NORM = re.compile(r"condition_embedding_align\.norm[12]\.(weight|bias)")


def plain_shape(official: str, shape: Shape) -> Shape:
    """Convert the shape of a tensor with a released name to ours."""
    if _POINTWISE.fullmatch(official):
        return tuple(shape[:2])
    return (math.prod(shape),) if _PIXEL_NORM.fullmatch(official) else tuple(shape)


def official_shape(official: str, shape: Shape) -> Shape:
    """Convert our shape of a tensor to the shape that it has under its released name."""
    if _POINTWISE.fullmatch(official):
        return (*shape, 1, 1)
    return (1, math.prod(shape), 1, 1) if _PIXEL_NORM.fullmatch(official) else tuple(shape)
