"""Parts of diffusers, accelerate and PEFT that this package uses beyond their documented interfaces.

No other module imports these (`tests/test_house.py`). `tests/models/test_diffusers_internals.py` lists those that an
installed release lacks or has changed. Attributes that diffusers lets a subclass override stay with the subclass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.context_parallel import apply_context_parallel
from diffusers.hooks.faster_cache import FasterCacheBlockHook, FasterCacheDenoiserHook
from diffusers.hooks.group_offloading import GroupOffloadingHook, _get_group_onload_device
from diffusers.hooks.hooks import CacheContext, StateManager
from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastHook
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from diffusers.models._modeling_parallel import ContextParallelConfig, ContextParallelInput, ParallelConfig
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from diffusers.models.modeling_utils import no_init_weights
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, WanTransformerBlock
from peft.utils.other import get_pattern_key
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh

__all__ = [
    "LORA_ADAPTER_METADATA_KEY",
    "LORA_WEIGHT_NAME_SAFE",
    "SINGLE_STATE_HOOKS",
    "CacheContext",
    "ContextParallelInput",
    "StateManager",
    "WanAttention",
    "WanAttnProcessor",
    "WanTransformerBlock",
    "accelerate_hooks",
    "cache_hooks",
    "convert_wan_vae_to_diffusers",
    "decode_at_once",
    "decode_chunk",
    "decode_piece",
    "dispatch_attention_fn",
    "encode_at_once",
    "float32_modules",
    "get_pattern_key",
    "group_offload_device",
    "group_offload_unit",
    "has_step_cache",
    "no_init_weights",
    "register_block",
    "reset_step_caches",
    "split_tokens",
]

# Imported names and the modules that use them:
#
# CacheContext, StateManager        one state of a step cache per guidance branch (`inference/step_caches`)
# ContextParallelInput              splits the pose adapter's output for context parallelism (`transformer`)
# LORA_ADAPTER_METADATA_KEY         header key of an exported adapter's configuration (`lora/adapters`)
# LORA_WEIGHT_NAME_SAFE             file name that diffusers' LoRA loader looks for (`lora/adapters`, `lora/loading`)
# WanAttention, WanAttnProcessor    cross-attention that keeps keys and values between steps (`inference/step_memory`)
# WanTransformerBlock               block that takes a list of guidance branches (`inference/branch_attention`)
# convert_wan_vae_to_diffusers      key map of Wan's official autoencoder (`checkpoints/official_encoder_key_maps`)
# dispatch_attention_fn             attention with the backend that the user selected (`inference/step_memory`)
# get_pattern_key                   matches a layer's name with PEFT's alpha and rank patterns (`lora/scale`)
# no_init_weights                   builds a 14B network without initialising it (`checkpoints/transformer_files`)

SINGLE_STATE_HOOKS = (PyramidAttentionBroadcastHook, FasterCacheBlockHook, FasterCacheDenoiserHook)
"""Hooks that keep one state in `.state` for all contexts; the hooks of the other step caches keep a `StateManager`."""


def accelerate_hooks(module: nn.Module) -> Iterator[Any]:
    """Yield the hooks with which accelerate moves a module or its layers, outermost first.

    accelerate has no function that returns them. A hook that offloads has `execution_device`, `offload` and
    `weights_map`. For a layer without hooks, None is yielded.
    """
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        yield from getattr(hook, "hooks", [hook])  # a layer may have a chain of hooks


def cache_hooks(module: nn.Module) -> Iterator[Any]:
    """Yield the hooks that diffusers attached to a module and its layers, among them those of step caches."""
    for part in module.modules():
        registry = getattr(part, "_diffusers_hook", None)
        yield from registry.hooks.values() if registry else ()


def has_step_cache(module: nn.Module) -> bool:
    """Return whether one of diffusers' step caches is enabled, by `enable_cache` or by its own function."""
    return any(hook._is_stateful for hook in cache_hooks(module))


def reset_step_caches(transformer: Any) -> None:
    """Clear what diffusers' step caches keep from earlier sampling loops; `disable_cache` would turn them off."""
    transformer._reset_stateful_cache()


def group_offload_device(module: nn.Module) -> torch.device | None:
    """Return the device on which a module under diffusers' group offload computes; None without group offload."""
    try:
        return _get_group_onload_device(module)
    except ValueError:  # raised without group offload
        return None


def group_offload_unit(transformer: Any) -> Literal["block", "layer"] | None:
    """Return what diffusers' group offload moves for a transformer: whole blocks, or layers inside; None without it."""
    if group_offload_device(transformer) is None:
        return None
    block = transformer.blocks[0]
    registry = getattr(block, "_diffusers_hook", None)
    hooks = registry.hooks.values() if registry else ()
    moved = [hook.group.modules for hook in hooks if isinstance(hook, GroupOffloadingHook)]
    return "block" if any(block in modules for modules in moved) else "layer"


def register_block(block: type[nn.Module]) -> None:
    """Tell diffusers' step caches that a block returns its tokens, as Wan's own does, which they know by its class."""
    TransformerBlockRegistry.register(
        model_class=block, metadata=TransformerBlockMetadata(return_hidden_states_index=0)
    )


def split_tokens(transformer: Any, num_processes: int, device: torch.device) -> None:
    """Split the tokens of a transformer among the processes of the default group, by Ulysses attention.

    It does what `enable_parallelism` does, on the given device; diffusers takes the machine's accelerators for granted
    and divides by their number.
    """
    mesh = init_device_mesh(device.type, (1, num_processes), mesh_dim_names=("ring", "ulysses"))
    of_context = ContextParallelConfig(ulysses_degree=num_processes)
    config = ParallelConfig(context_parallel_config=of_context)
    config.setup(distributed.get_rank(), num_processes, device, mesh=mesh)
    transformer._parallel_config = config
    for module in transformer.modules():
        if isinstance(module, WanAttention):
            module.processor._parallel_config = config
    # The entry "" splits a timestep for each token, as Wan 2.2 has; that of a clip would only make it warn.
    plan = {name: split for name, split in transformer._cp_plan.items() if name}
    apply_context_parallel(transformer, of_context, plan)


def float32_modules(model: Any) -> tuple[str, ...]:
    """Return the parts of parameter names that `from_pretrained` keeps in float32, whichever dtype is requested."""
    return tuple(getattr(model, "_keep_in_fp32_modules", None) or ())


def encode_at_once(vae: Any, pixels: Tensor) -> Tensor:
    """Encode clips [B, 3, F, H, W] with `AutoencoderKLWan`: the first frame, then all others in one piece.

    `encode` takes four frames at a time, each with a pass over all weights, which takes most of the time of small
    pictures. Memory grows with the number of frames. The difference is that of rounding.

    Returns:
        The posterior's parameters [B, 32, T, h, w].
    """
    vae.clear_cache()
    x = pixels if vae.config.patch_size is None else patchify(pixels, vae.config.patch_size)
    pieces = [x[:, :, :1], x[:, :, 1:]] if x.shape[2] > 1 else [x]
    out = torch.cat([vae.encoder(piece, feat_cache=vae._enc_feat_map, feat_idx=[0]) for piece in pieces], dim=2)
    vae.clear_cache()
    return vae.quant_conv(out)


def decode_at_once(vae: Any, latents: Tensor) -> Tensor:
    """Decode [B, 16, T, h, w] to pixels [B, 3, F, H, W] as `encode_at_once` encodes; unlike `decode`, without clamping.

    It continues from the feature cache `_feat_map`, if that is not empty, and leaves it for the next call.
    """
    x = vae.post_quant_conv(latents)
    begins = all(cache is None for cache in vae._feat_map)
    pieces = [x[:, :, :1], x[:, :, 1:]] if begins and x.shape[2] > 1 else [x]
    out = torch.cat(
        [
            vae.decoder(piece, feat_cache=vae._feat_map, feat_idx=[0], first_chunk=begins and k == 0)
            for k, piece in enumerate(pieces)
        ],
        dim=2,
    )
    return out if vae.config.patch_size is None else unpatchify(out, vae.config.patch_size)


def decode_chunk(
    vae: Any, latents: Tensor, feature_cache: list[Any] | None, at_once: bool = False
) -> tuple[Tensor, list[Any]]:
    """Decode one chunk of a video with `AutoencoderKLWan`, continuing from the chunk before it.

    `decode` clears the feature cache of the causal convolutions (`_feat_map`) before and after each call, so on its own
    it can decode whole videos only.

    Args:
        vae: the autoencoder.
        latents: [B, 16, T, h, w], as `decode` takes them.
        feature_cache: returned by the call for the chunk before, None for the first chunk.
        at_once: use `decode_at_once`; the chunk is not tiled then.

    Returns:
        The sample [B, 3, F, H, W], and the feature cache for the next chunk. A tiled decoder caches per tile: its cache
        cannot be used for another chunk.
    """
    vae.clear_cache()
    if feature_cache is not None:
        vae._feat_map = feature_cache
    if at_once:
        sample, feature_cache = decode_at_once(vae, latents).clamp(-1, 1), vae._feat_map
        vae.clear_cache()
        return sample, feature_cache
    shortcut = None
    if feature_cache is not None and vae.config.is_residual:
        # `decode` marks the first frame of each call; its shortcuts then drop pixel frames.
        shortcut = vae.decoder.register_forward_pre_hook(_not_first_chunk, with_kwargs=True)
    if not vae.use_tiling:
        vae.clear_cache = lambda: None
    try:
        sample = vae.decode(latents).sample
        feature_cache = vae._feat_map
    finally:
        if shortcut is not None:
            shortcut.remove()
        vars(vae).pop("clear_cache", None)
        vae.clear_cache()
    return sample, feature_cache or []


def decode_piece(vae: Any, latents: Tensor, feature_cache: list[Any] | None) -> tuple[Tensor, list[Any]]:
    """Decode a piece of a video frame by frame, as `decode` does, but without clamping.

    Arguments and results are those of `decode_chunk`. In tiles, pieces are blended before they are clamped.
    """
    vae.clear_cache()
    if feature_cache is not None:
        vae._feat_map = feature_cache
    sample = torch.cat([decode_at_once(vae, frame) for frame in latents.split(1, dim=2)], dim=2)
    feature_cache = vae._feat_map
    vae.clear_cache()
    return sample, feature_cache or []


def _not_first_chunk(decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {**kwargs, "first_chunk": False}
