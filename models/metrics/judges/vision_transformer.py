"""The vision transformer of DINO, whose layout DreamSim also gives to CLIP's, with the published parameter names.

timm's blocks are the same; its interpolation of the position embedding is not, so the tokens are made here.
"""

from functools import partial
from typing import Any

import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WIDTH = 768
DEPTH = 12
PATCH = 16
_SIDE = 14  # of the grid of patches in training: 224 pixels


def vit_base(clip: bool = False, quick_gelu: bool = False) -> nn.Module:
    """Build ViT-B/16 without a head, with PyTorch's random initial weights.

    Args:
        clip: CLIP's variant: a layer norm before the blocks (`pos_drop`, as DreamSim's files call it), ε = 1e-5.
        quick_gelu: x · sigmoid(1.702 x) instead of GELU, as OpenAI's CLIP.
    """
    norm = partial(nn.LayerNorm, eps=1e-5 if clip else 1e-6)
    activation = "quick_gelu" if quick_gelu else nn.GELU
    # timm's own initial values take seconds; without them it leaves these two as they were in memory.
    network: Any = VisionTransformer(
        depth=DEPTH, num_classes=0, weight_init="skip", norm_layer=norm, act_layer=activation
    )
    nn.init.normal_(network.pos_embed, std=0.02)
    nn.init.normal_(network.cls_token, std=0.02)
    if clip:
        network.pos_drop = norm(WIDTH)
    built: nn.Module = network
    return built


def class_tokens(network: Any, pictures: Tensor, final_norm: bool = True) -> Tensor:
    """Compute the class token after the last block [B, 768] of normalised pictures [B, 3, H, W] of any size.

    Pixels to the right of and below the last whole patch of 16 × 16 are not seen.

    Args:
        network: of `vit_base`.
        pictures: normalised.
        final_norm: apply the last layer norm. DreamSim takes DINO's token before it.
    """
    patches = network.patch_embed.proj(pictures).flatten(2).transpose(1, 2)
    tokens = torch.cat([network.cls_token.expand(len(patches), -1, -1), patches], dim=1)
    tokens = network.pos_drop(tokens + position_embedding(network.pos_embed, *pictures.shape[2:]))
    for block in network.blocks:
        tokens = block(tokens)
    token: Tensor = (network.norm(tokens) if final_norm else tokens)[:, 0]
    return token


def position_embedding(trained: Tensor, height: int, width: int) -> Tensor:
    """Interpolate the position embedding [1, 1 + 14 · 14, D] of 224 × 224 pixels to [1, 1 + rows · columns, D].

    As DINO does: bicubic by the factors (rows + 0.1) / 14 and (columns + 0.1) / 14, also to 14 × 14 patches if the
    picture is not square (such as 224 × 230). The 0.1, which was meant to save floor() from rounding errors, changes
    the sampled positions, and with them the published features.
    """
    rows, columns = height // PATCH, width // PATCH
    if height == width and rows == _SIDE:
        return trained
    grid = trained[:, 1:].unflatten(1, (_SIDE, _SIDE)).permute(0, 3, 1, 2)
    factors = ((rows + 0.1) / _SIDE, (columns + 0.1) / _SIDE)
    grid = F.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([trained[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
