"""What a step costs: floating point operations, and memory of one GPU, from the network's shapes alone.

Parameters and activations are counted on the network itself, built on the meta device: no weight is made or read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...datasets.shards import Bucket
from ...models.lora import add_lora
from ...models.transformer import SteadyDancerTransformer3DModel
from .config import TrainConfig

_TEXT_TOKENS, _IMAGE_TOKENS = 512, 257
_PIXELS_A_LATENT = 8  # the VAE's, each way
_ATTENTION_BACKWARD = 2.5  # flash attention's backward pass: two matrix products of the forward become five

# DeepSpeed's defaults, elements: gradients are reduced, and parameters gathered, in pieces of this size at most.
_BUCKET, _LIVE_PARAMETERS = 5 * 10**8, 10**9


@dataclass(frozen=True)
class Network:
    """A stage's transformer, counted.

    Attributes:
        arguments: of its constructor.
        parameters: all, without adapters.
        trained: what the stage trains: adapters and pose modules, or everything.
        adapters: the adapters' share of it.
        teacher: parameters of the frozen network beside it (stage 2).
    """

    arguments: dict[str, Any]
    parameters: int
    trained: int
    adapters: int
    teacher: int

    @property
    def width(self) -> int:
        """Channels of a token."""
        return int(self.arguments["num_attention_heads"] * self.arguments["attention_head_dim"])

    @property
    def num_layers(self) -> int:
        """Transformer blocks."""
        return int(self.arguments["num_layers"])


def _empty(arguments: dict[str, Any], config: TrainConfig) -> SteadyDancerTransformer3DModel:
    network = SteadyDancerTransformer3DModel(**arguments)
    if config.trains_lora:
        add_lora(network, config.lora_rank, config.lora_alpha, config.lora_targets)
    return network


def count(config: TrainConfig, transformer_config: dict[str, Any]) -> Network:
    """The stage's network, from the configuration of the transformer it starts from; nothing given means Wan 14B."""
    given = {name: value for name, value in transformer_config.items() if not name.startswith("_")}
    with torch.device("meta"):
        plain = SteadyDancerTransformer3DModel(**given)
        network = _empty(given, config)
    own = [weight.numel() for name in plain.pose_module_names for weight in plain.get_submodule(name).parameters()]
    trained = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    total = sum(weight.numel() for weight in plain.parameters())
    return Network(
        arguments={name: value for name, value in plain.config.items() if not name.startswith("_")},
        parameters=total,
        trained=trained,
        adapters=trained - sum(own) if config.trains_lora else 0,
        teacher=total - sum(own) if config.stage == 2 else 0,
    )


def num_tokens(network: Network, bucket: Bucket, *, reference_frames: bool = True) -> int:
    """Tokens of a clip of (pixel frames, height, width), with the two reference frames of Eq. 4 where there are any."""
    num_frames, height, width = bucket
    patch_frames, patch_height, patch_width = network.arguments["patch_size"]
    extra = 2 * (reference_frames and network.arguments["condition_augmentation"])
    frames = ((num_frames - 1) // 4 + 1) // patch_frames + extra
    cell = _PIXELS_A_LATENT * patch_height, _PIXELS_A_LATENT * patch_width
    return int(frames * (height // cell[0]) * (width // cell[1]))


@dataclass(frozen=True)
class Flops:
    """Floating point operations of one clip's step: `model` needs them, `hardware` does them (recomputing counted)."""

    model: float
    hardware: float


def _forward(network: Network, tokens: int) -> tuple[float, float]:
    """(linear layers, attention) of one forward pass over a clip; a multiplication and an addition are two."""
    width, context = network.width, _TEXT_TOKENS + _IMAGE_TOKENS
    projections = 2 * tokens * width**2 * 6 + 2 * context * width**2 * 2
    feed_forward = 4 * tokens * width * network.arguments["ffn_dim"]
    attention = 4 * tokens * width * (tokens + context)
    return float(network.num_layers * (projections + feed_forward)), float(network.num_layers * attention)


def step_flops(config: TrainConfig, network: Network, bucket: Bucket) -> Flops:
    """Of one clip of an optimizer step: forward, what is recomputed, backward; in stage 2 of both branches.

    Stage 2's teacher adds its forward pass. A backward pass costs the linear layers twice their forward pass, once
    where their weights are frozen.
    """
    linear, attention = _forward(network, num_tokens(network, bucket))
    backward_linear = linear * (1 if config.trains_lora else 2)
    recomputed = 0.0
    if config.gradient_checkpointing:
        context = _TEXT_TOKENS + _IMAGE_TOKENS
        cross = attention * context / (num_tokens(network, bucket) + context)
        recomputed = linear + (cross if config.keep_attention_outputs else attention)
    branches = 1
    teacher = 0.0
    if config.stage == 2:
        branches = 2 if config.distillation == "condition_decoupled" else 1
        teacher = sum(_forward(network, num_tokens(network, bucket, reference_frames=False)))
    model = linear + attention + backward_linear + 2 * attention
    hardware = linear + attention + recomputed + backward_linear + _ATTENTION_BACKWARD * attention
    return Flops(branches * model + teacher, branches * hardware + teacher)


def gpu_memory(config: TrainConfig, network: Network, bucket: Bucket) -> dict[str, int]:
    """Bytes of one GPU at the peak of a step, by what they hold, for the largest clips.

    ZeRO-2 shares gradients and optimizer state among the workers, ZeRO-3 the weights too; `offload_optimizer` takes
    float32 weights, moments and gradients to the host. Training needs 16 bytes a weight in bfloat16.
    """
    ranks, item = max(config.num_workers, 1), _bytes(config)
    frozen = network.parameters + network.adapters - network.trained
    weights = item * (frozen + network.trained)
    # float32 copy and AdamW's two moments; gradients in the compute dtype.
    state = 0 if config.offload_optimizer else (12 + item) * network.trained // ranks
    buckets = 2 * item * min(_BUCKET, network.trained)
    if config.zero_stage == 3:
        gathered = item * min(_LIVE_PARAMETERS, network.parameters)
        weights, buckets = weights // ranks, buckets + gathered * (ranks > 1)
    kept, block = activations(config, network, bucket)
    branches = 2 if config.stage == 2 and config.distillation == "condition_decoupled" else 1
    parts = {
        "weights": weights,
        "teacher": item * network.teacher,
        "gradients_and_optimizer": state,
        "buffers": buckets,
        "kept_activations": branches * config.micro_batch_size * kept,
        "one_block": config.micro_batch_size * block,
    }
    return {**parts, "total": sum(parts.values())}


def host_memory(config: TrainConfig, network: Network) -> dict[str, int]:
    """Bytes of host memory over all workers: offloaded optimizer state, and the copy that a checkpoint is written from.

    Offloaded: 12 bytes a trained weight (float32 copy, two moments) and 4 for its gradient.
    """
    trained = network.trained
    offloaded = 16 * trained if config.offload_optimizer else 0
    copies = engine_state_bytes(config, network) if config.asynchronous_checkpoints else 0
    return {"offloaded_optimizer": offloaded, "checkpoint_copy": copies, "total": offloaded + copies}


def engine_state_bytes(config: TrainConfig, network: Network) -> int:
    """What one engine state takes on disk: float32 weights, two moments, and the compute copy, of trained weights."""
    return network.trained * (12 + _bytes(config))


def checkpoint_bytes(config: TrainConfig, network: Network) -> int:
    """What `checkpoint/` takes on disk: the merged transformer, and the adapter in float32."""
    return network.parameters * _bytes(config) + network.adapters * 4


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
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    kept: dict[int, torch.UntypedStorage] = {}  # held, or another would come to lie at the same address

    def count_storage(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage
        return tensor

    with torch.device("meta"):
        model = _empty({**network.arguments, "num_layers": 1}, config)
        block = model.blocks[0].to(dtype)
        width, head = network.width, network.arguments["attention_head_dim"]
        tokens_in = torch.empty(1, tokens, width, dtype=dtype, requires_grad=True)
        context = torch.empty(1, _TEXT_TOKENS + _IMAGE_TOKENS, width, dtype=dtype)
        time = torch.empty(1, 6, width, dtype=dtype)
        rotary = tuple(torch.empty(1, tokens, 1, head) for _ in range(2))
        with _CountedAttention(), torch.autograd.graph.saved_tensors_hooks(count_storage, lambda tensor: tensor):
            out = block(tokens_in, context, time, rotary)
        assert out.shape == tokens_in.shape
    return sum(storage.nbytes() for storage in kept.values())
