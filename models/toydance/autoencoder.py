"""Fit the small autoencoder (`AutoencoderKLWan`, 4 × 8 × 8 pixels to 16 numbers) on dancers and skeletons."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from ..diffusers_internals import decode_at_once, encode_at_once
from ..encoders import encode_video
from .clips import SIDE_PX, TRAINING_SEED, UNSEEN_SEED, clip_pool
from .fitting import Loss, fit

SIZES: dict[str, Any] = {
    "base_dim": 16,
    "dim_mult": [1, 2, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "is_residual": False,
}
UNNORMALISED = {"latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}
KL_WEIGHT = 1e-4  # per latent number
SKELETON_SHARE = 0.25  # of the batches


def is_elementwise(name: str) -> bool:
    """Return whether AdamW updates this weight although it has several dimensions: the gains."""
    return name.endswith("gamma")


def new_autoencoder(seed: int = 0) -> AutoencoderKLWan:
    """Build the autoencoder with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderKLWan(**SIZES, **UNNORMALISED)


def quickened(vae: Any) -> Any:
    """Prepare an autoencoder for training on a CPU, which takes 0.7 of the time; return it.

    Kernels get the memory order in which a CPU convolves and normalises fastest, and norms are compiled, if there is a
    C++ compiler.
    """
    for weight in vae.parameters():
        if weight.ndim == 5:
            weight.data = weight.data.to(memory_format=torch.channels_last_3d)
    if shutil.which(os.environ.get("CXX", "g++")):
        torch._dynamo.config.recompile_limit = 64  # sizes of batches
        for layer in vae.modules():
            if type(layer).__name__ == "WanRMS_norm":
                layer.compile(dynamic=True)
    return vae


def reconstruct(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Encode with the posterior's noise and decode [B, 3, F, H, W], not clamped; also return KL per latent number."""
    mean, log_variance = encode_at_once(vae, pixels).chunk(2, dim=1)
    log_variance = log_variance.clamp(-30, 20)  # as diffusers
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return _decode(vae, mean + (0.5 * log_variance).exp() * torch.randn_like(mean)), kl


def _decode(vae: Any, latents: Tensor) -> Tensor:
    vae.clear_cache()
    return decode_at_once(vae, latents)


BATCHES = {32: {5: 20, 9: 12, 17: 7}, 64: {5: 5, 9: 3, 17: 2}, SIDE_PX: {9: 2, 33: 2}}
"""Side of the crops of a batch -> their frames -> their number. A single one would take PyTorch's slow convolution."""
PHASES = ((0.5, (0.8, 0.2, 0.0)), (0.8, (0.45, 0.45, 0.1)), (1.0, (0.15, 0.55, 0.3)))
"""Until this share of the steps, the shares of batches with each side."""
DETAILED_SHARE = 0.7
"""Of the crops, those that are chosen from a few for their detail: most of a picture is an empty wall."""
CHOICES = 4


def batch(dancers: np.ndarray, skeletons: np.ndarray | None, rng: np.random.Generator, progress: float) -> Tensor:
    """Draw a batch [B, 3, F, h, w] in [−1, 1]: small crops first, more and more whole clips later."""
    pool = skeletons if skeletons is not None and rng.random() < SKELETON_SHARE else dancers
    shares = next(shares for until, shares in PHASES if progress <= until)
    side = int(rng.choice(list(BATCHES), p=shares))
    sizes = BATCHES[side]
    frames = int(rng.choice(list(sizes), p={3: (0.5, 0.35, 0.15), 2: (0.7, 0.3)}[len(sizes)]))
    clips = []
    for index in rng.integers(len(pool), size=sizes[frames]):
        begin = int(rng.integers(pool.shape[1] - frames + 1))
        crops = [_crop(pool[index], begin, frames, side, rng) for _ in range(CHOICES)]
        clip = max(crops, key=_detail) if rng.random() < DETAILED_SHARE else crops[0]
        clips.append(clip[:, :, ::-1] if rng.random() < 0.5 else clip)
    pixels = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)
    return pixels.float().div_(127.5).sub_(1)


def _crop(clip: np.ndarray, begin: int, frames: int, side: int, rng: np.random.Generator) -> np.ndarray:
    y, x = (4 * int(k) for k in rng.integers((SIDE_PX - side) // 4 + 1, size=2))
    return clip[begin : begin + frames, y : y + side, x : x + side]


def _detail(crop: np.ndarray) -> float:
    """Return the mean difference of neighbours in the first, the middle and the last frame."""
    few = crop[:: max(1, (len(crop) - 1) // 2)].astype(np.int16)
    return float(np.abs(np.diff(few, axis=1)).mean() + np.abs(np.diff(few, axis=2)).mean())


def clip_psnr(frames: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over frames of the PSNR in dB."""
    errors = ((frames.astype(np.float64) - truth) ** 2).mean(axis=(1, 2, 3))
    return float((20 * np.log10(255) - 10 * np.log10(np.maximum(errors, 1e-9))).mean())


def evaluate(vae: Any, dancers: np.ndarray, skeletons: np.ndarray) -> dict[str, float]:
    """Return the PSNR in dB of unseen clips, of their first frames, and of skeletons."""
    decoded, drawn = ([round_trip(vae, clip) for clip in clips] for clips in (dancers, skeletons))
    return {
        "psnr_db": float(np.mean([clip_psnr(a, b) for a, b in zip(decoded, dancers, strict=True)])),
        "first_frame_psnr_db": float(np.mean([clip_psnr(a[:1], b[:1]) for a, b in zip(decoded, dancers, strict=True)])),
        "skeleton_psnr_db": float(np.mean([clip_psnr(a, b) for a, b in zip(drawn, skeletons, strict=True)])),
    }


def _mean(vae: Any, pixels: Tensor) -> Tensor:
    return encode_at_once(vae, pixels).chunk(2, dim=1)[0]


def round_trip(vae: Any, clip: np.ndarray) -> np.ndarray:
    """Encode and decode frames uint8 [F, H, W, 3]."""
    pair = np.stack([clip, clip[:, :, ::-1]])  # two at a time are faster than one
    pixels = torch.from_numpy(pair).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1)
    decoded = _decode(vae, _mean(vae, pixels))[0].permute(1, 2, 3, 0)
    return decoded.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).numpy()


class Pools(NamedTuple):
    """Clips to train on, and unseen ones: uint8 [N, 33, 96, 96, 3]."""

    dancers: np.ndarray
    skeletons: np.ndarray
    unseen: np.ndarray
    unseen_skeletons: np.ndarray


def open_pools(folder: Path, num_clips: int = 2100) -> Pools:
    """Open the pools in `folder`, drawing those that are missing."""
    return Pools(
        clip_pool(folder / f"dancers-{num_clips}.npy", TRAINING_SEED, num_clips),
        clip_pool(folder / f"skeletons-{num_clips // 4}.npy", TRAINING_SEED, num_clips // 4, skeletons=True),
        np.asarray(clip_pool(folder / "unseen-48.npy", UNSEEN_SEED, 48)[:12]),
        np.asarray(clip_pool(folder / "unseen-skeletons-48.npy", UNSEEN_SEED, 48, skeletons=True)[:6]),
    )


def fit_autoencoder(
    folder: Path, pools: Pools, *, steps: int, learning_rate: float, minutes: float
) -> AutoencoderKLWan | None:
    """Fit the autoencoder in `folder`; return it with measured latent statistics, or None if time ran out."""
    vae = quickened(new_autoencoder())

    def loss(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        torch.manual_seed(step)
        pixels = batch(pools.dancers, pools.skeletons, rng, step / steps)
        decoded, kl = reconstruct(vae, pixels)
        mse = torch.nn.functional.mse_loss(decoded, pixels)
        return {"loss": mse + KL_WEIGHT * kl, "mse": mse.detach(), "kl": kl.detach()}

    if not _fit(vae, loss, folder, pools, steps=steps, learning_rate=learning_rate, minutes=minutes):
        return None
    clips = _calibration(pools.dancers, pools.skeletons)
    latents = torch.cat([encode_video(vae, clip).flatten(1) for clip in clips], dim=1)
    vae.register_to_config(latents_mean=latents.mean(1).tolist(), latents_std=latents.std(1).tolist())
    return vae


def fit_decoder(
    vae: AutoencoderKLWan, folder: Path, pools: Pools, *, steps: int, learning_rate: float, minutes: float
) -> AutoencoderKLWan | None:
    """Train the decoder of a fitted autoencoder on in `folder`, on dancers alone; None if time ran out.

    Latents stay the same, so networks that were trained on them stay valid.
    """
    for name, weight in quickened(vae).named_parameters():
        weight.requires_grad_(name.startswith(("decoder", "post_quant_conv")))

    def loss(step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        pixels = batch(pools.dancers, None, rng, 0.5 + 0.5 * step / steps)
        with torch.no_grad():
            latents = _mean(vae, pixels)
        return {"loss": torch.nn.functional.mse_loss(_decode(vae, latents), pixels)}

    finished = _fit(vae, loss, folder, pools, steps=steps, learning_rate=learning_rate, minutes=minutes)
    return vae if finished else None


def _fit(vae: Any, loss: Loss, folder: Path, pools: Pools, **settings: Any) -> bool:
    return fit(
        vae,
        loss,
        folder,
        ema_decay=0.998,
        elementwise=[weight for name, weight in vae.named_parameters() if is_elementwise(name)],
        evaluate=lambda network: evaluate(network, pools.unseen, pools.unseen_skeletons),
        evaluate_every=500,
        **settings,
    )


def _calibration(dancers: np.ndarray, skeletons: np.ndarray) -> Iterator[np.ndarray]:
    """Yield clips whose latents give the statistics of the channels: three of dancers for one of a skeleton."""
    yield from dancers[:192]
    yield from skeletons[:64]
