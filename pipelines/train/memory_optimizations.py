"""Ways to need less memory on a GPU for time or host memory. None of them changes a bit of what is computed."""

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
    """Cut a frozen network's weights up among all workers; each layer is brought together when it is its turn.

    The weights keep their types, and what is brought together is what was cut up, so the network's answers are the same
    to the bit. From here on all workers have to run it together. A worker holds 1 / (number of workers) of the weights,
    and while the network runs the layers next to the one at work.

    Args:
        network: on this worker's device; changed in place. The first worker's weights are everybody's.

    Returns:
        The network.
    """
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,
        # DeepSpeed's own linear layer would be put into the place of torch's, for everybody.
        "zero_optimization": {"stage": 3, "memory_efficient_linear": False},
        "steps_per_print": 10**9,
    }
    # Without an optimizer, and without a type: DeepSpeed leaves float32 norms beside bfloat16 layers as they are.
    deepspeed.initialize(model=network, model_parameters=[], config=config, dist_init_required=False)
    return network


def checkpoint_blocks(config: TrainConfig) -> Callable[..., Any]:
    """How blocks are run when their activations are to be computed again in backward: (block, *arguments) -> output.

    A block keeps its input alone; with `keep_attention_outputs` what its self-attention gave, too; with
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
    """In the block, what autograd keeps lies in pinned host memory until backward asks for it.

    Args:
        least: tensors of fewer elements stay where they are: text, time and rotary tables are shared by all blocks.
    """

    def __init__(self, least: int) -> None:
        def pack(tensor: Tensor) -> tuple[torch.device, Tensor]:
            if tensor.numel() < least:
                return tensor.device, tensor
            there = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)  # with its strides
            # Behind what is queued on the GPU, as is the way back: nobody waits for either.
            return tensor.device, there.copy_(tensor.detach(), non_blocking=True)

        def unpack(packed: tuple[torch.device, Tensor]) -> Tensor:
            device, tensor = packed
            return tensor.to(device, non_blocking=True)

        super().__init__(pack, unpack)


def _save_attention_contexts() -> Any:
    return create_selective_checkpoint_contexts(_save_self_attention)


def _save_self_attention(context: Any, operation: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    # As many queries as keys: self-attention, nearly half of a step at 36,800 tokens. Text and image cost nothing.
    if operation in _ATTENTIONS and arguments[0].shape == arguments[1].shape:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
