"""Collect what this package uses of diffusers, accelerate and PEFT beyond their documented interfaces.

No other module names these (`tests/test_house.py`). `tests/models/test_diffusers_internals.py` says which of them an
installed release lacks or has changed. Attributes that diffusers lets a subclass override stay with the subclass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.hooks.faster_cache import FasterCacheBlockHook, FasterCacheDenoiserHook
from diffusers.hooks.group_offloading import _get_group_onload_device
from diffusers.hooks.hooks import CacheContext, StateManager
from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastHook
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from diffusers.models._modeling_parallel import ContextParallelInput
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.modeling_utils import no_init_weights
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

__all__ = [
    "LORA_ADAPTER_METADATA_KEY",
    "LORA_WEIGHT_NAME_SAFE",
    "SINGLE_STATE_HOOKS",
    "CacheContext",
    "ContextParallelInput",
    "StateManager",
    "WanAttention",
    "WanAttnProcessor",
    "accelerate_hooks",
    "cache_hooks",
    "convert_wan_vae_to_diffusers",
    "decode_chunk",
    "dispatch_attention_fn",
    "float32_modules",
    "get_pattern_key",
    "group_offload_device",
    "no_init_weights",
    "reset_step_caches",
]

# What is imported from elsewhere, and why:
#
# CacheContext, StateManager        one state of a step cache for each guidance branch (`step_caches`)
# ContextParallelInput              how context parallelism splits the pose adapter's output (`transformer`)
# LORA_ADAPTER_METADATA_KEY         header key under which an exported adapter stores its configuration (`lora`)
# LORA_WEIGHT_NAME_SAFE             file name that diffusers' LoRA loader looks for (`lora`, `lora_formats`)
# WanAttention, WanAttnProcessor    cross-attention whose keys and values are kept between steps (`step_memory`)
# convert_wan_vae_to_diffusers      key map of Wan's official autoencoder (`official_encoder_names`)
# dispatch_attention_fn             attention by the backend that the user selected (`step_memory`)
# get_pattern_key                   PEFT's match of a layer's name with patterns of alpha and rank (`lora_scale`)
# no_init_weights                   builds a 14B network without initialising it (`transformer_checkpoints`)

SINGLE_STATE_HOOKS = (PyramidAttentionBroadcastHook, FasterCacheBlockHook, FasterCacheDenoiserHook)
"""Hooks that keep one state in `.state` for all contexts; the hooks of the other step caches keep a `StateManager`."""


def accelerate_hooks(module: nn.Module) -> Iterator[Any]:
    """Yield the hooks by which accelerate moves a module or its layers, outermost first.

    accelerate has no function that returns them. A hook has `execution_device`, `offload` and `weights_map` where it
    offloads; for a layer without hooks, None is yielded.
    """
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        yield from getattr(hook, "hooks", [hook])  # one layer's hooks may be chained


def cache_hooks(module: nn.Module) -> Iterator[Any]:
    """Yield the hooks that diffusers attached to a module and its layers, among them those of step caches."""
    for part in module.modules():
        registry = getattr(part, "_diffusers_hook", None)
        yield from registry.hooks.values() if registry else ()


def reset_step_caches(transformer: Any) -> None:
    """Clear what diffusers' step caches keep of earlier sampling loops; `disable_cache` would turn them off."""
    transformer._reset_stateful_cache()


def group_offload_device(module: nn.Module) -> torch.device | None:
    """Return where a module under diffusers' group offload computes, None without group offload."""
    try:
        return _get_group_onload_device(module)
    except ValueError:  # how that function says no
        return None


def float32_modules(model: Any) -> tuple[str, ...]:
    """Return the parts of parameter names that `from_pretrained` keeps in float32, whatever dtype is asked for."""
    return tuple(model._keep_in_fp32_modules or ())


def decode_chunk(vae: Any, latents: Tensor, memory: list[Any] | None) -> tuple[Tensor, list[Any]]:
    """Decode a piece of a longer video with `AutoencoderKLWan` as if the pieces before it had just been decoded.

    `decode` clears what the causal convolutions remember (`_feat_map`) before it begins and after it ends, so that it
    can only decode whole videos.

    Args:
        vae: the autoencoder.
        latents: [B, 16, T, h, w], as `decode` takes them.
        memory: what the call for the piece before returned, None for the first piece.

    Returns:
        The sample [B, 3, F, H, W], and the memory for the next piece. A tiled decoder remembers by tile: its memory
        is of no use.
    """
    vae.clear_cache()
    if memory is not None:
        vae._feat_map = memory
    if not vae.use_tiling:
        vae.clear_cache = lambda: None
    try:
        sample = vae.decode(latents).sample
        memory = vae._feat_map
    finally:
        vars(vae).pop("clear_cache", None)
        vae.clear_cache()
    return sample, memory or []
