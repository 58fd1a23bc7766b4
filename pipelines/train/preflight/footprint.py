"""What a stage holds: memory of a GPU and of the host, and room on the disk, from the network's shapes alone.

Activations are counted on the network itself, built on the meta device: no weight is made or read.
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
from ..config import TrainConfig
from ..flops import CONTEXT_TOKENS, Network, empty_network, num_branches, num_tokens

# DeepSpeed's defaults, elements: gradients are reduced, and parameters gathered, in pieces of this size at most.
_BUCKET, _LIVE_PARAMETERS = 5 * 10**8, 10**9


def gpu_memory(config: TrainConfig, network: Network, bucket: Bucket) -> dict[str, int]:
    """Bytes of one GPU at the peak of a step, by what they hold, for the largest clips.

    ZeRO-2 shares gradients and optimizer state among the workers, ZeRO-3 the weights too; `offload_optimizer` takes
    float32 weights, moments and gradients to the host, `offload_activations` what gradient checkpointing keeps,
    `shard_teacher` shares the frozen teacher out. Training needs 16 bytes a weight in bfloat16.

    Returns:
        `total` is the sum, or where that is more, `loading`: before it is cut up a network is whole on the GPU.
    """
    ranks, item = max(config.num_workers, 1), _bytes(config)
    weights = whole = item * (network.parameters + network.adapters)
    # float32 copy and AdamW's two moments; gradients in the compute dtype.
    state = 0 if config.offload_optimizer else (12 + item) * network.trained // ranks
    buckets = 2 * item * min(_BUCKET, network.trained)
    if config.zero_stage == 3:
        gathered = item * min(_LIVE_PARAMETERS, network.parameters)
        weights, buckets = weights // ranks, buckets + gathered * (ranks > 1)
    kept, block = activations(config, network, bucket)
    kept *= num_branches(config) * config.micro_batch_size
    if config.offload_activations:  # one on its way out or back, and the one at work
        kept = 2 * kept // (num_branches(config) * network.num_layers)
    parts = {
        "weights": weights,
        # Its layers are brought together before the student's graph is there, where there is room enough.
        "teacher": item * network.teacher // (ranks if config.shard_teacher else 1),
        "gradients_and_optimizer": state,
        "buffers": buckets,
        "kept_activations": kept,
        "one_block": config.micro_batch_size * block,
        # While the next batch is read, so beside the step.
        "pose_encoder": encoding_bytes(*bucket) if config.stage == 3 and config.pose_simulation_unit == "frame" else 0,
    }
    loading = max(whole, weights + state + item * network.teacher)
    return {**parts, "loading": loading, "total": max(sum(parts.values()), loading)}


def host_memory(config: TrainConfig, network: Network, bucket: Bucket) -> dict[str, int]:
    """Bytes of host memory over all workers, by what they hold.

    Offloaded optimizer state (12 bytes a trained weight: float32 copy and two moments; 4 for its gradient) and
    activations, the copy that an engine state is written from, and what the first worker gathers for the checkpoint:
    trained weights in float32, the rest as they are, and with LoRA the merged ones. Weights are loaded without a copy.
    """
    ranks, item = max(config.num_workers, 1), _bytes(config)
    kept = activations(config, network, bucket)[0] * num_branches(config) * config.micro_batch_size
    gathered = 4 * network.trained + item * (network.parameters + network.adapters - network.trained)
    parts = {
        "offloaded_optimizer": 16 * network.trained if config.offload_optimizer else 0,
        "offloaded_activations": ranks * kept if config.offload_activations else 0,
        "checkpoint_copy": training_state_bytes(config, network) if config.asynchronous_checkpoints else 0,
        "export": gathered + (item * network.parameters if config.trains_lora else 0),
    }
    return {**parts, "total": sum(parts.values())}


def training_state_bytes(config: TrainConfig, network: Network) -> int:
    """What one engine state takes on disk: float32 weights and two moments of trained weights.

    With ZeRO-2 their compute copy as well; ZeRO-3 has it cut up, and writes none.
    """
    return network.trained * (12 + (_bytes(config) if config.zero_stage == 2 else 0))


def checkpoint_bytes(config: TrainConfig, network: Network) -> int:
    """What `checkpoint/` takes on disk: the merged transformer, and the adapter in float32."""
    return network.parameters * _bytes(config) + network.adapters * 4


def gallery_bytes(config: TrainConfig, network: Network) -> int:
    """What the trained weights that galleries are made of take on disk, all steps' together."""
    if not config.gallery.num_clips:
        return 0
    num = (config.steps - 1) // config.gallery.every_steps  # the last step has the checkpoint
    return num * network.trained * (4 if config.trains_lora else _bytes(config))


def _bytes(config: TrainConfig) -> int:
    return 2 if config.dtype == "bfloat16" else 4


def activations(config: TrainConfig, network: Network, bucket: Bucket) -> tuple[int, int]:
    """Bytes that one clip's forward pass keeps for the backward pass: (over all blocks, in the block at work).

    With `gradient_checkpointing` a block keeps its input alone (and with `keep_attention_outputs` what self-attention
    gave), and one block at a time is recomputed; without it every block keeps everything.
    """
    tokens, item = num_tokens(network, bucket), _bytes(config)
    block = _kept_by_a_block(config, network, tokens)
    if not config.gradient_checkpointing:
        return network.num_layers * block, 0
    kept = tokens * network.width * item
    if config.keep_attention_outputs:  # an output, and a float32 a head
        kept += tokens * (network.width * item + 4 * network.arguments["num_attention_heads"])
    return network.num_layers * kept, block


class _FlashAttention(torch.autograd.Function):
    """Keeps what flash attention keeps, which on the meta device nobody computes."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out, log_sum_exp = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, log_sum_exp)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError


@contextmanager
def _own_linear() -> Iterator[None]:
    """With torch's own linear layer: DeepSpeed's ZeRO-3 leaves one in its place, which keeps other tensors."""
    there, nn.functional.linear = nn.functional.linear, torch._C._nn.linear
    try:
        yield
    finally:
        nn.functional.linear = there


class _CountedAttention(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is nn.functional.scaled_dot_product_attention:
            given = [*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs)]
            return _FlashAttention.apply(*given[:3])
        return function(*args, **kwargs)


def _kept_by_a_block(config: TrainConfig, network: Network, tokens: int) -> int:
    """Bytes that one block's forward pass saves for its backward pass, counted on the meta device."""
    lora = config.model_dump(include={"lora_rank", "lora_alpha", "lora_targets"})
    same = TrainConfig(stage=config.stage, dtype=config.dtype, **lora)
    return _counted(same, json.dumps(network.arguments), network.width, tokens)


@lru_cache(maxsize=64)
def _counted(config: TrainConfig, arguments_json: str, width: int, tokens: int) -> int:
    arguments = json.loads(arguments_json)
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    kept: dict[int, torch.UntypedStorage] = {}  # held, or another would come to lie at the same address

    def count_storage(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
        return tensor

    with _own_linear(), torch.device("meta"):
        model = empty_network({**arguments, "num_layers": 1}, config)
        block = model.blocks[0].to(dtype)
        head = arguments["attention_head_dim"]
        tokens_in = torch.empty(1, tokens, width, dtype=dtype, requires_grad=True)
        context = torch.empty(1, CONTEXT_TOKENS, width, dtype=dtype)
        time = torch.empty(1, 6, width, dtype=dtype)
        rotary = tuple(torch.empty(1, tokens, 1, head) for _ in range(2))
        with _CountedAttention(), torch.autograd.graph.saved_tensors_hooks(count_storage, lambda tensor: tensor):
            out = block(tokens_in, context, time, rotary)
        assert out.shape == tokens_in.shape
    return sum(storage.nbytes() for storage in kept.values())
