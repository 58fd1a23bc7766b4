"""Memory optimizations that trade time or host memory for GPU memory. All give the same bits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from .config import TrainConfig

_ATTENTIONS = {
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}


def shard_frozen(network: nn.Module) -> nn.Module:
    """Split the weights of a frozen network over all workers with ZeRO-3; each layer is gathered when it runs.

    Weights keep their dtypes, and sharding is lossless, so outputs are the same to the bit. From then on all workers
    must run the network together. A worker holds 1 / (number of workers) of the weights, plus the gathered layers while
    the network runs.

    Args:
        network: on this worker's device; changed in place. Rank 0's weights are used on all workers.

    Returns:
        The network.
    """
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,
        # The memory-efficient linear layer would replace torch's in the whole process.
        "zero_optimization": {"stage": 3, "memory_efficient_linear": False},
        "steps_per_print": 10**9,
    }
    # Without an optimizer and a dtype, DeepSpeed leaves float32 norms next to bfloat16 layers as they are.
    deepspeed.initialize(model=network, model_parameters=[], config=config, dist_init_required=False)
    return network


def checkpoint_blocks(config: TrainConfig) -> Callable[..., Any]:
    """Build the function that runs a block with activation checkpointing: (block, *arguments) -> output.

    A block saves only its input; with `keep_attention_outputs` also the output of self-attention; with
    `offload_activations` in host memory.
    """
    contexts: Callable[[], Any] = _save_attention_contexts if config.keep_attention_outputs else noop_context_fn

    def run(block: nn.Module, *arguments: Any) -> Any:
        with InHostMemory(arguments[0].numel()) if config.offload_activations else nullcontext():
            return checkpoint(
                block, *arguments, use_reentrant=False, context_fn=contexts, respect_saved_tensors_hooks=True
            )

    return run


class InHostMemory(saved_tensors_hooks):
    """Context in which autograd saves tensors in pinned host memory until the backward pass needs them.

    Args:
        least: tensors with fewer elements stay on the device: text, time and rotary tables are shared by all blocks.
    """

    def __init__(self, least: int) -> None:
        def pack(tensor: Tensor) -> tuple[torch.device, Tensor]:
            if tensor.numel() < least:
                return tensor.device, tensor
            host = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)  # keeps the strides
            # Both copies are queued on the GPU, so neither blocks the host.
            return tensor.device, host.copy_(tensor.detach(), non_blocking=True)

        def unpack(packed: tuple[torch.device, Tensor]) -> Tensor:
            device, tensor = packed
            return tensor.to(device, non_blocking=True)

        super().__init__(pack, unpack)


def _save_attention_contexts() -> Any:
    return create_selective_checkpoint_contexts(_save_self_attention)


def _save_self_attention(context: Any, operation: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    # As many queries as keys: self-attention, nearly half of a step at 36,800 tokens. Cross-attention is cheap.
    if operation in _ATTENTIONS and arguments[0].shape == arguments[1].shape:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
