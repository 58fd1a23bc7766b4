"""Memory and operations of encoding a clip, counted on the meta device without allocating or computing anything."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from .live_bytes import LiveBytes


def encoding_bytes(num_frames: int, height: int, width: int, vae_config: Mapping[str, Any] | None = None) -> int:
    """Return the bytes of the autoencoder in float32 and of all live tensors at the peak of encoding one clip.

    On a CPU the result is exact. Temporary memory of a device's kernels is not included.

    Args:
        num_frames: pixel frames, 4k + 1.
        height: of the frames, pixels.
        width: of the frames, pixels.
        vae_config: configuration of the autoencoder; None or empty: Wan 2.1's.
    """
    return _encoding_bytes(num_frames, height, width, json.dumps(dict(vae_config or {}), sort_keys=True))


def encoding_flops(num_frames: int, height: int, width: int, vae_config: Mapping[str, Any] | None = None) -> int:
    """Return the floating point operations of encoding one clip; a multiply-add counts as two.

    Arguments are those of `encoding_bytes`. Operations of convolutions and attention are counted, as torch's
    `FlopCounterMode` does.
    """
    as_json = json.dumps(dict(vae_config or {}), sort_keys=True)
    # The encoder takes the first frame, then four frames at a time: every group costs the same.
    first, two_groups = (_encoding_flops(frames, height, width, as_json) for frames in (1, 5))
    return first + (num_frames - 1) // 4 * (two_groups - first)


@lru_cache(maxsize=64)
def _encoding_bytes(num_frames: int, height: int, width: int, vae_config: str) -> int:
    with torch.device("meta"), torch.no_grad(), LiveBytes() as live_bytes:
        _vae(vae_config).encode(torch.empty(1, 3, num_frames, height, width))
    return live_bytes.peak


@lru_cache(maxsize=4096)
def _encoding_flops(num_frames: int, height: int, width: int, vae_config: str) -> int:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counted:
        _vae(vae_config).encode(torch.empty(1, 3, num_frames, height, width))
    return int(counted.get_total_flops())


def _vae(config: str) -> Any:
    return AutoencoderKLWan.from_config(json.loads(config))
