"""Encode pixels and text as inputs of the transformer, and decode latents to pixels.

Pixels are uint8 RGB [F, H, W, 3] outside and float32 in [−1, 1] inside. Latents are the autoencoder's posterior mean
(never a sample), normalised per channel with the means and standard deviations of its configuration.
"""

import html
from collections.abc import Iterator
from typing import Any

import ftfy
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from ..datasets.arrays import Frames
from .diffusers_internals import decode_chunk, encode_at_once
from .image_encoder import OpenCLIPImageEncoder
from .inference.autoencoder_tiles import Caches, decode_tiles
from .inference.offload import execution_device

MAX_TOKENS = 512
MAX_LATENTS_AT_ONCE = 4096  # of each channel: 113 frames of 192 × 192 pixels
TILED_FRAMES = 21  # latent frames that are decoded at once in tiles: 81 frames, a window
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def resize_image(image: Frames, height: int, width: int) -> Frames:
    """Resize [H, W, 3] to [height, width, 3], ignoring the aspect: bicubic without antialiasing, as in the release."""
    return to_frames(_to_pixels(image[None], height, width))[0]


@torch.no_grad()
def encode_video(vae: AutoencoderKLWan, frames: Frames, height: int | None = None, width: int | None = None) -> Tensor:
    """Encode a clip: the normalised posterior mean.

    Args:
        vae: Wan's autoencoder, in float32.
        frames: uint8 [F, H, W, 3], F = 4(T−1) + 1.
        height: resize to this height first (as `resize_image`, but without rounding to bytes); None keeps the size.
        width: the same for the width.

    Returns:
        float32 [16, T, h, w] on the autoencoder's device; h and w are an eighth of the pixels. Latent frame 0 depends
        on pixel frame 0 only, latent frame k on pixel frames 0 to 4k.

    Raises:
        ValueError: F is not 4k + 1.
    """
    return _encode_pixels(vae, _to_pixels(frames, height, width))


@torch.no_grad()
def encode_image_condition(
    vae: AutoencoderKLWan, image: Frames, num_frames: int, height: int | None = None, width: int | None = None
) -> Tensor:
    """Encode `image` [H, W, 3] followed by num_frames − 1 mid-grey frames (zeros in [−1, 1]): latents [16, T, h, w]."""
    first = _to_pixels(image[None], height, width)
    grey = first.new_zeros(3, num_frames - 1, *first.shape[2:])
    return _encode_pixels(vae, torch.cat([first, grey], dim=1))


def decode_latents(vae: AutoencoderKLWan, latents: Tensor) -> Frames:
    """Decode normalised latents [16, T, h, w] to uint8 frames [F, H, W, 3]."""
    return to_frames(decode_pixels(vae, latents))


def decode_pixels(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode normalised latents [16, T, h, w] to float32 pixels [3, F, H, W] in [−1, 1], not rounded to bytes."""
    return torch.cat(list(decode_chunks(vae, latents)), dim=1)


@torch.no_grad()
def decode_chunks(vae: AutoencoderKLWan, latents: Tensor, chunk_frames: int | None = None) -> Iterator[Tensor]:
    """Decode as `decode_pixels`, in chunks [3, n, H, W] of `chunk_frames` latent frames each, to the same bits.

    The decoder is causal: the feature cache of its convolutions is passed from chunk to chunk, so there are no seams
    and memory use does not grow with the length. None: 4 frames; of a tiled decoder, whose bits are diffusers' own, 21;
    or all at once if they are few and small, on a CPU; that differs by rounding.
    """
    if vae.use_tiling and latents.shape[1] > (chunk_frames or TILED_FRAMES) and _can_tile_chunks(vae):
        yield from _decode_tiled_chunks(vae, latents, chunk_frames or TILED_FRAMES)
        return
    at_once = chunk_frames is None and _fits_at_once(vae, latents.shape[1], latents.shape[2] * latents.shape[3])
    mean, std = _latent_statistics(vae)
    feature_cache = None
    for chunk in latents.split(latents.shape[1] if vae.use_tiling or at_once else chunk_frames or 4, dim=1):
        raw = chunk.to(execution_device(vae), torch.float32) * std + mean
        pixels, feature_cache = decode_chunk(vae, raw[None].to(vae.dtype), feature_cache, at_once)
        yield pixels[0].float().clamp(-1, 1)


def _decode_tiled_chunks(vae: AutoencoderKLWan, latents: Tensor, chunk_frames: int) -> Iterator[Tensor]:
    mean, std = _latent_statistics(vae)
    caches: Caches = {}
    chunks = latents.split(chunk_frames, dim=1)
    for index, chunk in enumerate(chunks):
        raw = chunk.to(execution_device(vae), torch.float32) * std + mean
        pixels = decode_tiles(vae, raw[None].to(vae.dtype), caches, keeps_caches=index < len(chunks) - 1)
        yield pixels[0].float()


def _can_tile_chunks(vae: AutoencoderKLWan) -> bool:
    """Return whether tiles can be decoded chunk by chunk: weights stay on the device, and pixels are not patches."""
    is_wan = isinstance(vae, AutoencoderKLWan)
    return is_wan and vae.config.patch_size is None and execution_device(vae) == vae.device


def _fits_at_once(vae: AutoencoderKLWan, num_latent_frames: int, latent_area: int) -> bool:
    """Return whether a clip is small enough to pass the autoencoder in one piece, which is faster on a CPU."""
    is_here = execution_device(vae).type == vae.device.type == "cpu"
    return is_here and not vae.use_tiling and num_latent_frames * latent_area <= MAX_LATENTS_AT_ONCE


@torch.no_grad()
def encode_image(image_encoder: OpenCLIPImageEncoder, image: Frames) -> Tensor:
    """Encode `image` [H, W, 3] with CLIP, resized to its square without crop: tokens float32 [257, D]."""
    side = image_encoder.config.image_size
    unit = _to_pixels(image[None], side, side).transpose(0, 1) * 0.5 + 0.5
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    tokens = image_encoder(((unit - mean) / std).to(execution_device(image_encoder), image_encoder.dtype))
    return tokens[0].float()


@torch.no_grad()
def encode_prompt(
    text_encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]
) -> list[Tensor]:
    """Encode prompts to embeddings [L, Dt] in the encoder's dtype, each cut to its own L ≤ 512 tokens."""
    cleaned = [clean_text(prompt) for prompt in prompts]
    tokens = tokenizer(cleaned, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    ids, mask = (tokens[key].to(execution_device(text_encoder)) for key in ("input_ids", "attention_mask"))
    embeds = text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return [row[:length] for row, length in zip(embeds, mask.sum(dim=1).tolist(), strict=True)]


def clean_text(text: str) -> str:
    """Repair broken encodings, undo HTML escapes (also doubled ones), replace each run of white space by one space."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def _encode_pixels(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    num_frames = pixels.shape[1]
    if num_frames % 4 != 1:
        near = max(1, num_frames // 4 * 4 + 1)
        raise ValueError(f"A clip has {num_frames} frames, the autoencoder takes 4k + 1: use {near} or {near + 4}.")
    clip = pixels[None].to(execution_device(vae), vae.dtype)
    if _fits_at_once(vae, num_frames // 4 + 1, pixels.shape[2] // 8 * (pixels.shape[3] // 8)):
        raw = encode_at_once(vae, clip).chunk(2, dim=1)[0][0].float()
    else:
        raw = vae.encode(clip).latent_dist.mode()[0].float()
    mean, std = _latent_statistics(vae)
    return (raw - mean) / std


def _latent_statistics(vae: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [16, 1, 1, 1] of each latent channel."""
    device = execution_device(vae)
    config: Any = vae.config
    mean, std = (torch.tensor(values, device=device) for values in (config.latents_mean, config.latents_std))
    return mean[:, None, None, None], std[:, None, None, None]


def _to_pixels(frames: Frames, height: int | None = None, width: int | None = None) -> Tensor:
    """Convert uint8 [F, H, W, 3] to float32 [3, F, height, width] in [−1, 1] (bicubic overshoots slightly)."""
    pixels = torch.tensor(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    size = (height or pixels.shape[2], width or pixels.shape[3])
    if pixels.shape[2:] != size:
        pixels = nn.functional.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=False)
    return pixels.transpose(0, 1)


def to_frames(pixels: Tensor) -> Frames:
    """Convert pixels [3, F, H, W] in [−1, 1] to uint8 [F, H, W, 3]."""
    levels = (pixels.clamp(-1, 1) + 1) * 127.5
    return levels.round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
