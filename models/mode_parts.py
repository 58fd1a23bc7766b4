"""Parts that modes of rendering are made of: few-step LoRA, float8 storage, step cache, offload, tiles, compilation."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import FirstBlockCacheConfig
from diffusers.hooks import apply_group_offloading
from torch import nn

from .lora.loading import load_lora
from .quantised_linear import has_quantised_layers

ENCODERS: tuple[Literal["text_encoder", "image_encoder"], ...] = ("text_encoder", "image_encoder")


def add_distilled_lora(transformer: Any, file: str | Path) -> str:
    """Add a few-step LoRA; merge it into unquantised weights, where it then costs nothing.

    Returns:
        "merged", or "beside the weights" if they are quantised.

    Raises:
        CheckpointError: the file is not a LoRA for this transformer.
    """
    load_lora(transformer, file, adapter_name="distilled")
    if has_quantised_layers(transformer):
        return "beside the weights"
    transformer.fuse_lora(adapter_names=["distilled"])
    transformer.unload_lora()
    return "merged"


def store_in(transformer: Any, storage_dtype: str) -> str:
    """Store the linear layers of the blocks in a dtype, from which each is cast when it is used.

    Returns:
        the dtype; or "as quantised" if the weights already have one byte each.
    """
    if has_quantised_layers(transformer):
        return "as quantised"
    compute_dtype = transformer.blocks[0].attn1.to_q.weight.dtype
    transformer.enable_layerwise_casting(storage_dtype=getattr(torch, storage_dtype), compute_dtype=compute_dtype)
    return storage_dtype


def cache_first_block(transformer: Any, threshold: float) -> None:
    """Skip all blocks but the first in steps in which its residual changes by less than `threshold`, relatively."""
    transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))


def offload(pipeline: Any, device: str | torch.device, num_resident_blocks: int) -> dict[str, Any] | None:
    """Keep weights in host memory and load them to a GPU when they are used, the next ones during computing.

    The transformer is loaded block by block, and computes the context's keys and values in every step: they take twice
    the memory of the blocks that are there. The encoders are loaded layer by layer. The autoencoder, half a gigabyte,
    is moved to the GPU.

    Args:
        pipeline: with its components on the CPU; components that it lacks are skipped.
        device: where it computes. On "cpu" nothing is offloaded: the weights are in host memory already.
        num_resident_blocks: first blocks of the transformer that stay on the GPU.

    Returns:
        what was done; None on a CPU.
    """
    if torch.device(device).type == "cpu":
        return None
    swap_blocks(pipeline.transformer, torch.device(device), num_resident_blocks, use_stream=True)
    pipeline.transformer.keeps_keys_and_values = False
    for name in ENCODERS:
        offload_layers(getattr(pipeline, name, None), device)
    if isinstance(pipeline.vae, nn.Module):
        pipeline.vae.to(device)
    return {"blocks": "with a stream", "num_resident_blocks": num_resident_blocks}


def offload_layers(encoder: Any, device: str | torch.device) -> None:
    """Move layers of an encoder to host memory between uses, to the same bits; not on a CPU, or what is no network."""
    if torch.device(device).type != "cpu" and isinstance(encoder, nn.Module):
        apply_group_offloading(encoder, torch.device(device), offload_type="leaf_level", use_stream=True)


def swap_blocks(transformer: Any, device: torch.device, num_resident_blocks: int, use_stream: bool) -> None:
    """Move all blocks but the first `num_resident_blocks` to host memory between uses, by diffusers' group offload.

    Args:
        transformer: on the CPU; modified in place.
        device: where it computes.
        num_resident_blocks: blocks that are moved there and stay.
        use_stream: load the next block while one computes; for GPUs.
    """
    blocks = transformer.blocks
    transformer.blocks = nn.ModuleList(blocks[num_resident_blocks:])  # diffusers offloads what it finds here
    transformer.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=1, use_stream=use_stream)
    transformer.blocks = blocks
    for block in blocks[:num_resident_blocks]:
        block.to(device)


def tile(vae: Any) -> bool:
    """Encode and decode in overlapping tiles of 256 pixels, which diffusers blends; return whether it is possible.

    The result is not the same: attention sees one tile, and convolutions meet a border at its sides.
    """
    can_tile = hasattr(vae, "enable_tiling")
    if can_tile:
        vae.enable_tiling()
    return can_tile


def compile_blocks(transformer: Any, device: str | torch.device) -> bool:
    """Return whether the blocks, which share one graph, were compiled: where a GPU computes and there is a compiler."""
    if torch.device(device).type == "cpu" or not torch.cuda.is_available() or not has_compiler():
        return False
    transformer.compile_repeated_blocks()
    return True


def has_compiler() -> bool:
    """Return whether torch can compile for a GPU: Triton is installed, and a C compiler for its launchers."""
    compilers = (os.environ.get("CC"), "gcc", "clang", "cc")
    return importlib.util.find_spec("triton") is not None and any(name and shutil.which(name) for name in compilers)
