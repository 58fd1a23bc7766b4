"""Decode long videos in the tiles of diffusers' `enable_tiling`, chunk by chunk.

diffusers decodes a whole video tile by tile and keeps all of its frames on the device until the tiles are blended. Here
the tiles of one chunk of frames are decoded and blended, with the same bits, before those of the next chunk. What the
causal convolutions remember of each tile waits in host memory: together it is more than a whole frame's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..diffusers_internals import decode_piece

Caches = dict[tuple[int, int], list[Any]]


def decode_tiles(vae: Any, latents: Tensor, caches: Caches, keeps_caches: bool = True) -> Tensor:
    """Decode one chunk of a video with `AutoencoderKLWan` in tiles, continuing from the chunk before it.

    Args:
        vae: the autoencoder, with `enable_tiling`; not one that joins pixels to patches.
        latents: [B, 16, T, h, w], as `decode` takes them.
        caches: of each tile, from the chunk before; empty for the first chunk. Replaced.
        keeps_caches: False for the last chunk.

    Returns:
        The sample [B, 3, F, H, W], in [−1, 1].
    """
    ratio = vae.spatial_compression_ratio
    height, width = latents.shape[3:]
    sides = vae.tile_sample_min_height, vae.tile_sample_min_width
    strides = vae.tile_sample_stride_height, vae.tile_sample_stride_width
    rows: list[Tensor] = []
    above: list[Tensor] = []
    for y in range(0, height, strides[0] // ratio):
        row: list[Tensor] = []
        for x in range(0, width, strides[1] // ratio):
            part = latents[..., y : y + sides[0] // ratio, x : x + sides[1] // ratio]
            tile = _decode_tile(vae, part, (y, x), caches, keeps_caches)
            if above:
                tile = vae.blend_v(above[len(row)], tile, sides[0] - strides[0])
            if row:
                tile = vae.blend_h(row[-1], tile, sides[1] - strides[1])
            row.append(tile)
        rows.append(torch.cat([tile[..., : strides[0], : strides[1]] for tile in row], dim=-1))
        above = row
    whole = torch.cat(rows, dim=3)[..., : height * ratio, : width * ratio]
    return whole.clamp(-1, 1)


def _decode_tile(vae: Any, latents: Tensor, place: tuple[int, int], caches: Caches, keeps_cache: bool) -> Tensor:
    known = _on_device(caches.pop(place, None), latents.device)
    sample, cache = decode_piece(vae, latents, known)
    if keeps_cache:
        caches[place] = _on_device(cache, torch.device("cpu"))
    return sample


def _on_device(cache: Any, device: torch.device) -> Any:
    return cache and [entry.to(device) if isinstance(entry, Tensor) else entry for entry in cache]
