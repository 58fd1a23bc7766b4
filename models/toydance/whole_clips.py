"""Run `AutoencoderKLWan` on whole clips at once: equal to its chunks of four frames, in a third of the time.

Each chunk costs a pass over all weights, forward and backward, which for small pictures takes longer than the pictures.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, patchify, unpatchify
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor


def allow_whole_clips(vae: Any) -> Any:
    """Let the resampling layers of an autoencoder take whole clips when they get no cache; return the autoencoder.

    Without a cache, diffusers' layers resample space alone.
    """
    for layer in vae.modules():
        if isinstance(layer, WanResample):
            layer.forward = _WholeClipResample(layer)
    return vae


class _WholeClipResample:
    """Resample a whole clip in space and time; the first frame is resampled in space alone."""

    def __init__(self, layer: WanResample) -> None:
        self._layer = layer

    def __call__(self, x: Tensor, feat_cache: Any = None, feat_idx: Any = (0,)) -> Tensor:
        layer = self._layer
        if feat_cache is not None:
            return WanResample.forward(layer, x, feat_cache, feat_idx)
        if layer.mode == "upsample3d" and x.shape[2] > 1:
            first, rest = x[:, :, :1], layer.time_conv(x[:, :, 1:])
            rest = rest.unflatten(1, (2, x.shape[1])).transpose(1, 2)  # [B, C, 2, F, H, W]
            x = torch.cat([first, rest.transpose(2, 3).flatten(2, 3)], dim=2)
        x = WanResample.forward(layer, x)
        if layer.mode == "downsample3d" and x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)
        return x


def posterior_of(vae: Any, pixels: Tensor) -> DiagonalGaussianDistribution:
    """Encode whole clips [B, 3, 1 + 4n, H, W]: the same as `vae.encode(pixels).latent_dist`."""
    if vae.config.patch_size is not None:
        pixels = patchify(pixels, vae.config.patch_size)
    return DiagonalGaussianDistribution(vae.quant_conv(vae.encoder(pixels)))


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Decode whole clips [B, 16, 1 + n, h, w], as `vae.decode` but not clamped: that would stop gradients."""
    pixels = vae.decoder(vae.post_quant_conv(latents))
    return pixels if vae.config.patch_size is None else unpatchify(pixels, vae.config.patch_size)
