"""Memory of GPU and host, and disk space, that a stage needs, computed from the network's shapes alone.

Activations are counted on the network itself, built on the meta device: no weight is allocated or read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ....datasets.shards import Bucket
from ....models.inference.encoder_memory import encoding_bytes
from ....models.inference.live_bytes import LiveBytes
from ..config import TrainConfig
from ..flops import CONTEXT_TOKENS, Network, empty_network, num_branches, num_tokens

# DeepSpeed's defaults, in elements: maximum size of a gradient bucket and of gathered parameters.
_BUCKET, _LIVE_PARAMETERS = 5 * 10**8, 10**9
SUB_GROUP = 10**9  # elements that ZeRO-3 updates at a time; ZeRO-2 updates all at once


def gpu_memory(config: TrainConfig, network: Network, bucket: Bucket) -> dict[str, int]:
    """Compute the peak bytes of one GPU in a step, by content, for the largest clips.

    ZeRO-2 shards gradients and optimizer state over the workers, ZeRO-3 also the weights; `offload_optimizer` moves
    float32 weights, moments and gradients to the host, `offload_activations` the saved activations, `shard_teacher`
    shards the frozen teacher. Training needs 16 bytes per weight in bfloat16.

    Returns:
        Bytes by content. `total` is their sum, or `update` or `loading` if larger: in the optimizer update there are no
        activations, but float32 gradients and AdamW's temporaries; before sharding, the GPU has the full network.
    """
    ranks, item = max(config.num_workers, 1), _bytes(config)
    weights = whole = item * (network.parameters + network.adapters)
    # Gradients in the compute dtype. Whole matrices that Muon gathers are freed before the next forward pass.
    state = 0 if config.offload_optimizer else (_optimizer_bytes(config, network) + item * network.trained) // ranks
    buckets = 2 * item * min(_BUCKET, network.trained)
    if config.zero_stage == 3:
        gathered = item * min(_LIVE_PARAMETERS, network.parameters)
        weights, buckets = weights // ranks, buckets + gathered * (ranks > 1)
    saved, block = activations(config, network, bucket)
    encodes = config.stage == 3 and config.pose_simulation_unit == "frame"
    saved *= num_branches(config) * config.micro_batch_size
    if config.offload_activations:  # one in transfer, and the one in use
        saved = 2 * saved // (num_branches(config) * network.num_layers)
    parts = {
        "weights": weights,
        # Its layers are gathered before the student's graph exists, when there is room.
        "teacher": item * network.teacher // (ranks if config.shard_teacher else 1),
        "gradients_and_optimizer": state,
        "buffers": buckets,
        "kept_activations": saved,
        "one_block": config.micro_batch_size * block,
        # Runs while the next batch is read, at the same time as the step.
        "pose_encoder": encoding_bytes(*bucket, network.vae_config) if encodes else 0,
    }
    loading = max(whole, weights + state + item * network.teacher)
    step = sum(parts.values())
    update = step - parts["kept_activations"] - parts["one_block"] + _update_bytes(config, network)
    return {**parts, "update": update, "loading": loading, "total": max(step, update, loading)}


def _update_bytes(config: TrainConfig, network: Network) -> int:
    """Compute the bytes that an update adds: gradients cast to float32, and AdamW's temporaries of the same size.

    The gradients in the compute dtype are freed as they are cast, in ZeRO-3 one sub-group after the other.
    """
    if config.offload_optimizer:
        return 0
    own = network.trained // max(config.num_workers, 1)
    together = min(SUB_GROUP, own) if config.zero_stage == 3 else own
    return (8 - _bytes(config)) * together


def host_memory(config: TrainConfig, network: Network, bucket: Bucket) -> dict[str, int]:
    """Compute the bytes of host memory over all workers, by content.

    Offloaded optimizer state (with AdamW 12 bytes per trained weight; 4 for its gradient) and activations, the copy
    that a training state is written from, and the weights that rank 0 gathers for the checkpoint: trained ones in
    float32, others in their dtype, and with LoRA the merged ones. Weights are loaded without a copy.
    """
    ranks, item = max(config.num_workers, 1), _bytes(config)
    saved = activations(config, network, bucket)[0] * num_branches(config) * config.micro_batch_size
    gathered = 4 * network.trained + item * (network.parameters + network.adapters - network.trained)
    parts = {
        "offloaded_optimizer": (_optimizer_bytes(config, network) + 4 * network.trained) * config.offload_optimizer,
        "offloaded_activations": ranks * saved if config.offload_activations else 0,
        "checkpoint_copy": training_state_bytes(config, network) if config.asynchronous_checkpoints else 0,
        "export": gathered + (item * network.parameters if config.trains_lora else 0),
    }
    return {**parts, "total": sum(parts.values())}


def training_state_bytes(config: TrainConfig, network: Network) -> int:
    """Compute the bytes of one training state on disk: the optimizer, and the trained weights in float32.

    With ZeRO-2 also their copy in the compute dtype, which ZeRO-3 does not write.
    """
    return _optimizer_bytes(config, network) + network.trained * (_bytes(config) if config.zero_stage == 2 else 0)


def _optimizer_bytes(config: TrainConfig, network: Network) -> int:
    """Compute the bytes of float32 weights, AdamW's two moments or Muon's one, and the average of the weights."""
    average = 4 * network.trained if config.ema_decay else 0
    return 12 * network.trained - 4 * network.matrices * (config.optimizer == "muon") + average


def checkpoint_bytes(config: TrainConfig, network: Network) -> int:
    """Compute the bytes of `checkpoint/` on disk: the merged transformer, and the adapter in float32."""
    return network.parameters * _bytes(config) + network.adapters * 4


def gallery_bytes(config: TrainConfig, network: Network) -> int:
    """Compute the bytes on disk of the trained weights saved for galleries, over all steps."""
    if not config.gallery.num_clips:
        return 0
    num = (config.steps - 1) // config.gallery.every_steps  # the last step has the checkpoint
    return num * network.trained * (4 if config.trains_lora else _bytes(config))


def _bytes(config: TrainConfig) -> int:
    return 2 if config.dtype == "bfloat16" else 4


def activations(config: TrainConfig, network: Network, bucket: Bucket) -> tuple[int, int]:
    """Compute the bytes of one clip's activations: (saved by all blocks for the backward pass, live in one block).

    With `gradient_checkpointing` a block saves only its input (with `keep_attention_outputs` also the output of
    self-attention), and one block at a time is recomputed; without it every block saves all activations. In the
    backward pass of that one block, gradients of its activations are live as well.
    """
    tokens, item = num_tokens(network, bucket), _bytes(config)
    block, peak = _block_activations(config, network, tokens)
    if not config.gradient_checkpointing:
        return network.num_layers * block, peak - block
    saved = tokens * network.width * item
    if config.keep_attention_outputs:  # the output, and one float32 per head
        saved += tokens * (network.width * item + 4 * network.arguments["num_attention_heads"])
    return network.num_layers * saved, peak


class _FlashAttention(torch.autograd.Function):
    """Attention that saves the same tensors as flash attention, which does not run on the meta device."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out, log_sum_exp = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, log_sum_exp)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@contextmanager
def torch_linear() -> Iterator[None]:
    """Use torch's linear layer in the block: ZeRO-3 replaces it globally by one that saves other tensors."""
    replaced, nn.functional.linear = nn.functional.linear, torch._C._nn.linear
    try:
        yield
    finally:
        nn.functional.linear = replaced


class _CountedAttention(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is nn.functional.scaled_dot_product_attention:
            given = [*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs)]
            return _FlashAttention.apply(*given[:3])
        return function(*args, **kwargs)


def _block_activations(config: TrainConfig, network: Network, tokens: int) -> tuple[int, int]:
    """Count the bytes that one block saves for its backward pass, and the peak of both passes, on the meta device."""
    lora = config.model_dump(include={"lora_rank", "lora_alpha", "lora_targets"})
    same = TrainConfig(stage=config.stage, dtype=config.dtype, **lora)
    return _counted(same, json.dumps(network.arguments), network.width, tokens)


@lru_cache(maxsize=64)
def _counted(config: TrainConfig, arguments_json: str, width: int, tokens: int) -> tuple[int, int]:
    arguments = json.loads(arguments_json)
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    saved: dict[int, torch.UntypedStorage] = {}  # keep a reference, so that addresses are not reused

    def count_storage(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:  # a linear layer saves a transposed view of its weight
            saved[storage._cdata] = storage
        return tensor

    with torch_linear(), torch.device("meta"), _CountedAttention():
        model = empty_network({**arguments, "num_layers": 1}, config)
        block = model.blocks[0].to(dtype)
        weights = {weight.untyped_storage()._cdata for weight in block.parameters()}
        head = arguments["attention_head_dim"]
        tokens_in = torch.empty(1, tokens, width, dtype=dtype, requires_grad=True)
        context = torch.empty(1, CONTEXT_TOKENS, width, dtype=dtype)
        time = torch.empty(1, 6, width, dtype=dtype)
        rotary = tuple(torch.empty(1, tokens, 1, head) for _ in range(2))
        with torch.autograd.graph.saved_tensors_hooks(count_storage, lambda tensor: tensor):
            out = block(tokens_in, context, time, rotary)
        assert out.shape == tokens_in.shape
        kept = sum(storage.nbytes() for storage in saved.values())
        del out
        saved.clear()
        for weight in block.parameters():
            if weight.requires_grad:  # gradients of weights are counted with the optimizer
                weight.register_post_accumulate_grad_hook(_drop_gradient)
        with LiveBytes() as live:
            out = block(tokens_in, context, time, rotary)
            out.backward(torch.empty_like(out))
    return kept, live.peak


def _drop_gradient(weight: Tensor) -> None:
    weight.grad = None
