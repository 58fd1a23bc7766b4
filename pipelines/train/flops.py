"""What a step costs in floating point operations, from the network's shapes alone.

Parameters are counted on the network itself, built on the meta device: no weight is made or read. What a step holds in
memory is in `footprint`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...datasets.shards import Bucket
from ...models.lora.adapters import add_lora
from ...models.transformer import SteadyDancerTransformer3DModel
from .config import NETWORK_FIELDS, TrainConfig

CONTEXT_TOKENS = 512 + 257  # text, image
_PIXELS_A_LATENT = 8  # the VAE's, each way
_ATTENTION_BACKWARD = 2.5  # flash attention's backward pass: two matrix products of the forward become five


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


def empty_network(arguments: dict[str, Any], config: TrainConfig) -> SteadyDancerTransformer3DModel:
    """The stage's network, of these constructor arguments, on the device that is in force."""
    network = SteadyDancerTransformer3DModel(**arguments)
    if config.trains_lora:
        add_lora(network, config.lora_rank, config.lora_alpha, config.lora_targets)
    return network


def count(config: TrainConfig, transformer_config: dict[str, Any]) -> Network:
    """The stage's network, from the configuration of the transformer it starts from; nothing given means Wan 14B.

    Which variant it is, the stage's configuration says: stage 1 starts from a plain Wan, and later ones keep it.
    """
    given = {name: value for name, value in transformer_config.items() if not name.startswith("_")}
    given |= config.model_dump(include=set(NETWORK_FIELDS))
    with torch.device("meta"):
        plain = SteadyDancerTransformer3DModel(**given)
        network = empty_network(given, config)
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


def num_branches(config: TrainConfig) -> int:
    """Forward passes of the trained network in one step: Eq. 6 takes it with the pose and without."""
    return 2 if config.stage == 2 and config.distillation == "condition_decoupled" else 1


@dataclass(frozen=True)
class Flops:
    """Floating point operations of one clip's step: `model` needs them, `hardware` does them (recomputing counted)."""

    model: float
    hardware: float


def _forward(network: Network, tokens: int) -> tuple[float, float]:
    """(linear layers, attention) of one forward pass over a clip; a multiplication and an addition are two."""
    width, context = network.width, CONTEXT_TOKENS
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
        cross = attention * CONTEXT_TOKENS / (num_tokens(network, bucket) + CONTEXT_TOKENS)
        recomputed = linear + (cross if config.keep_attention_outputs else attention)
    branches, teacher = num_branches(config), 0.0
    if config.stage == 2:
        teacher = sum(_forward(network, num_tokens(network, bucket, reference_frames=False)))
    model = linear + attention + backward_linear + 2 * attention
    hardware = linear + attention + recomputed + backward_linear + _ATTENTION_BACKWARD * attention
    return Flops(branches * model + teacher, branches * hardware + teacher)
