"""Bytes of the encoders and the autoencoder of a pipeline, and of their work, counted on the meta device."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKLWan

from ..encoders import TILED_FRAMES, decode_chunks
from ..image_encoder import OpenCLIPImageEncoder
from ..inference.encoder_memory import encoding_bytes
from ..inference.live_bytes import FusedAttention, LiveBytes
from .networks import empty_network, weight_bytes
from .sizes import Clip, Sizes

_COUNTED_FRAMES = 9  # the autoencoder takes 1, then 4 at a time: its peak is reached in the second group
_DECODED_AT_ONCE = 4  # latent frames, as in `decode_chunks`
_TILE_PX, _TILE_STRIDE_PX = 256, 192  # sides of the tiles of diffusers' `enable_tiling`


@lru_cache(maxsize=64)
def encoder_bytes(sizes: Sizes, dtype: torch.dtype) -> tuple[int, int, int]:
    """Count the weights of text encoder, image encoder and autoencoder."""
    encoders = _text_encoder(sizes, dtype), _image_encoder(sizes, dtype), _vae(sizes)
    text, image, vae = map(weight_bytes, encoders)
    return text, image, vae


@lru_cache(maxsize=64)
def layer_bytes(sizes: Sizes, dtype: torch.dtype) -> tuple[int, int]:
    """Count the two largest layers of text and image encoder: the one that computes, and the one in transfer."""
    found = []
    for encoder in (_text_encoder(sizes, dtype), _image_encoder(sizes, dtype)):
        layers = [tuple(module.parameters(recurse=False)) for module in encoder.modules()]
        once = {tuple(map(id, weights)): sum(each.nbytes for each in weights) for weights in layers}  # tied ones
        found.append(sum(sorted(once.values())[-2:]))
    return found[0], found[1]


def _text_encoder(sizes: Sizes, dtype: torch.dtype) -> Any:
    # transformers keeps some weights in float32 beside float16 ones only.
    return empty_network(sizes.make_text_encoder, dtype, "meta", keep_float32=dtype is torch.float16)


def _image_encoder(sizes: Sizes, dtype: torch.dtype) -> Any:
    return empty_network(lambda: OpenCLIPImageEncoder(**sizes.image_encoder), dtype, "meta")


def _vae(sizes: Sizes) -> Any:
    return empty_network(lambda: AutoencoderKLWan(**sizes.vae), torch.float32, "meta")


@lru_cache(maxsize=64)
def text_working_bytes(sizes: Sizes, dtype: torch.dtype, num_prompts: int = 2) -> int:
    """Count the peak of encoding prompts of the maximum length, beside the weights."""
    one_layer = Sizes(text_encoder={**sizes.text_encoder, "num_layers": 1})
    model = _text_encoder(one_layer, dtype)
    ids = torch.zeros(num_prompts, sizes.text_tokens, dtype=torch.int64, device="meta")
    with torch.device("meta"), torch.no_grad(), FusedAttention(), LiveBytes() as live:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return live.peak


@lru_cache(maxsize=64)
def image_working_bytes(sizes: Sizes, dtype: torch.dtype) -> int:
    """Count the peak of encoding an image, beside the weights."""
    model = _image_encoder(sizes, dtype)
    side = model.config.image_size
    with torch.device("meta"), torch.no_grad(), FusedAttention(), LiveBytes() as live:
        model(torch.empty(1, 3, side, side, dtype=dtype))
    return live.peak


@lru_cache(maxsize=64)
def encoding_working_bytes(sizes: Sizes, clip: Clip, tiled: bool) -> int:
    """Count the peak of encoding a clip, whole or in tiles, beside the weights."""
    counted = min(clip.num_frames, _COUNTED_FRAMES)
    pixels = clip.num_frames * _frame_bytes(clip.height, clip.width)
    tile = _tile(clip, counted) if tiled else replace(clip, num_frames=counted)
    least = encoding_bytes(counted, tile.height, tile.width, sizes.vae) - encoder_bytes(sizes, torch.float32)[2]
    return least + pixels - counted * _frame_bytes(tile.height, tile.width)


@lru_cache(maxsize=64)
def decoding_working_bytes(sizes: Sizes, clip: Clip, tiled: bool) -> int:
    """Count the peak of decoding a clip in chunks, whole or in tiles, beside the weights."""
    if tiled and _tile(clip, clip.num_frames) != clip:
        num_frames = min(clip.num_frames, 4 * TILED_FRAMES - 3)
        tile = _tile(clip, min(num_frames, 4 * _DECODED_AT_ONCE + 1))
        tiles = _in_tiles(clip.height) * _in_tiles(clip.width) * num_frames * 3 * 4
        # All tiles, and the joined rows; the joined frames replace one tile's working memory.
        whole = num_frames * _frame_bytes(clip.height, clip.width)
        return max(tiles + decoding_working_bytes(sizes, tile, False), tiles + 2 * whole)
    frames, height, width = clip.latent_grid
    vae, latents = _vae(sizes), torch.empty(16, min(frames, 2 * _DECODED_AT_ONCE), height, width, device="meta")
    with torch.device("meta"), torch.no_grad(), FusedAttention(), LiveBytes() as live:
        for _ in decode_chunks(vae, latents):
            pass
    return live.peak


def _frame_bytes(height: int, width: int) -> int:
    return 3 * height * width * 4


def _tile(clip: Clip, num_frames: int) -> Clip:
    """Return the largest tile of a clip."""
    return Clip(num_frames, min(clip.height, _TILE_PX), min(clip.width, _TILE_PX))


def _in_tiles(side: int) -> int:
    """Return the pixels of a side in all of its tiles, which overlap."""
    return sum(min(_TILE_PX, side - start) for start in range(0, side, _TILE_STRIDE_PX))
