"""Estimated size and cost of a cache, compared with encoding in every training step, from shapes alone.

Wan 2.1's encoder needs 167 TFLOP for 81 frames of 640² (counted from its layers, without memory traffic); for another
autoencoder, operations are counted on the meta device. The text and image encoders are not counted: they run once per
clip, on a few hundred tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...datasets.video import size_for_area
from ..common.components import FeatureSizes
from .config import CacheConfig

ENCODE_TFLOP = 167.0
_ENCODE_PIXELS = 81 * 640 * 640
ENCODES_PER_CLIP = 3  # the video, the image condition, the pose
# An assumption, not a measurement: float32 convolutions on one data-centre GPU.
ASSUMED_TFLOP_PER_S = 100.0
# An assumption: 2.5 dollars per GPU-hour, 0.025 dollars per GB and month of storage.
GB_MONTHS_PER_GPU_HOUR = 100.0
ASSUMED_MONTHS = 1.0

CAPTION_TOKENS = 150
MAX_TOKENS = 512
# Body 18, hands 2 × 21, face 68 points in float32, and 18 flags.
POSE_BYTES_PER_FRAME = 18 * 8 + 18 + 42 * 8 + 68 * 8
# Headers of tar and safetensors, padding, and the JSON.
CONTAINER_BYTES = 6_000

FIELDS = ("latents", "image_latents", "pose_latents", "image_embeds", "pose_image_embeds", "prompt_embeds", "pose",
          "container")  # fmt: skip


def sample_bytes(
    num_frames: int, height: int, width: int, num_tokens: int, bytes_each: int, widths: FeatureSizes
) -> tuple[int, ...]:
    """Compute the bytes of one sample, in the order of `FIELDS`.

    Args:
        num_frames: pixel frames, 4(T − 1) + 1.
        height: trained height in pixels.
        width: trained width in pixels.
        num_tokens: tokens of the prompt.
        bytes_each: bytes per cached number.
        widths: sizes of the features.
    """
    clip = widths.latent_channels * ((num_frames - 1) // 4 + 1) * (height // 8) * (width // 8) * bytes_each
    image = widths.image_tokens * widths.image_dim * bytes_each
    text = num_tokens * widths.text_dim * bytes_each
    return clip, clip, clip, image, image, text, num_frames * POSE_BYTES_PER_FRAME, CONTAINER_BYTES


def num_tokens(prompt_bytes: int | None, has_captioner: bool) -> int:
    """Estimate the tokens of a prompt from its UTF-8 bytes: four bytes per token, plus the end token."""
    if not prompt_bytes:
        return CAPTION_TOKENS if has_captioner else 1
    return min(MAX_TOKENS, 1 + -(-prompt_bytes // 4))


_size_for_area = lru_cache(maxsize=4096)(size_for_area)


@dataclass(frozen=True)
class SizeEstimate:
    """Estimated bytes of each clip and of each field, and 10¹² operations of encoding each clip's video once."""

    each: list[int]
    fields: dict[str, int]
    encode_tflop: float


def estimate_bytes(
    config: CacheConfig, widths: FeatureSizes, shapes: Iterable[tuple[int, int, int, int | None]]
) -> SizeEstimate:
    """Estimate the bytes of each clip.

    Args:
        config: configuration of the cache.
        widths: sizes of the features.
        shapes: (frames, height and width of the picture in the source, bytes of the prompt) of each clip.
    """
    each: list[int] = []
    fields = dict.fromkeys(FIELDS, 0)
    encode_tflop = 0.0
    bytes_each = 2 if config.dtype == "bfloat16" else 4
    one = lru_cache(maxsize=65536)(sample_bytes)
    for num_frames, source_height, source_width, prompt_bytes in shapes:
        height, width = _size_for_area(source_height, source_width, config.max_area_px)
        tokens = num_tokens(prompt_bytes, config.captioner is not None)
        by_field = one(num_frames, height, width, tokens, bytes_each, widths)
        each.append(sum(by_field))
        for name, num_bytes in zip(FIELDS, by_field, strict=True):
            fields[name] += num_bytes
        encode_tflop += _encode_tflop(widths, num_frames, height, width)
    return SizeEstimate(each, fields, encode_tflop)


def _encode_tflop(widths: FeatureSizes, num_frames: int, height: int, width: int) -> float:
    """Return 10¹² operations of encoding a video of this size once."""
    if not widths.vae_config:
        return ENCODE_TFLOP * num_frames * height * width / _ENCODE_PIXELS
    from ...models.inference.encoder_memory import encoding_flops

    return encoding_flops(num_frames, height, width, widths.vae_config) / 1e12


def estimate_cost(
    sizes: SizeEstimate,
    widths: FeatureSizes,
    samples_drawn: int | None = None,
    tflop_per_s: float = ASSUMED_TFLOP_PER_S,
    months: float = ASSUMED_MONTHS,
) -> dict[str, Any]:
    """Estimate the cost of a cache, and of training without one.

    Args:
        sizes: estimated sizes of its clips.
        widths: sizes of the features.
        samples_drawn: samples that training will draw, over all its stages; None if unknown.
        tflop_per_s: speed of the autoencoder on one GPU.
        months: how long the cache is kept.

    Returns:
        `bytes` (by field, total, per clip), `gpu_hours` (caching, encoding online), `passes`, `cheaper` ("cache" or
        "online") and `assumed`. Unknown values are None.
    """
    num_clips, total = len(sizes.each), sum(sizes.each)
    passes = samples_drawn / num_clips if samples_drawn is not None else None
    caching = ENCODES_PER_CLIP * sizes.encode_tflop / tflop_per_s / 3600
    online = caching * passes if passes is not None else None
    keeping = total / 1e9 * months / GB_MONTHS_PER_GPU_HOUR
    cheaper = None
    if online is not None:
        cheaper = "cache" if caching + keeping < online else "online"
    return {
        "bytes": {**sizes.fields, "total": total, "per_clip": total // num_clips},
        "gpu_hours": {"cache": caching, "online": online, "keeping_the_cache_is_worth": keeping},
        "passes": passes,
        "cheaper": cheaper,
        "assumed": {
            "tflop_per_s": tflop_per_s,
            "tflop_per_encode_81x640x640": _encode_tflop(widths, 81, 640, 640),
            "encodes_per_clip": ENCODES_PER_CLIP,
            "months_kept": months,
            "gb_months_per_gpu_hour": GB_MONTHS_PER_GPU_HOUR,
            "rule": "cache if gpu_hours.cache + gpu_hours.keeping_the_cache_is_worth < gpu_hours.online",
            "not_counted": "text and image encoders, the captioner, reading",
        },
    }


def format_cost(cost: dict[str, Any]) -> str:
    """Format the cost as one line."""
    hours, num_bytes = cost["gpu_hours"], cost["bytes"]
    words = f"cache: about {num_bytes['total'] / 1e9:.3g} GB ({num_bytes['per_clip'] / 1e6:.3g} MB per clip)"
    speed = f"at {cost['assumed']['tflop_per_s']:g} TFLOP/s"
    words += f", {hours['cache']:.3g} GPU-hours of encoding {speed}"
    if hours["online"] is None:
        return f"{words}; encoding online costs the same for every pass"
    return f"{words}; online {hours['online']:.3g} in {cost['passes']:.3g} passes: {cost['cheaper']} is cheaper"
