"""Floating point operations of a training step, computed from the network's shapes alone.

Parameters are counted on the network itself, built on the meta device: no weight is allocated or read. For memory see
`preflight.footprint`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ...datasets.shards import Bucket
from ...models.lora.adapters import add_lora
from ...models.transformer import SteadyDancerTransformer3DModel
from .config import NETWORK_FIELDS, TrainConfig
from .optimizer import is_block_matrix

CONTEXT_TOKENS = 512 + 257  # text, image
_PIXELS_A_LATENT = 8  # VAE downsampling in height and width
_ATTENTION_BACKWARD = 2.5  # flash attention's backward pass: two matrix products of the forward become five


@dataclass(frozen=True)
class Network:
    """Parameter counts of a stage's transformer.

    Attributes:
        arguments: constructor arguments.
        parameters: all parameters, without adapters.
        trained: parameters that the stage trains: adapters and pose modules, or all.
        adapters: parameters of the adapters, included in `trained`.
        teacher: parameters of the frozen teacher (stage 2).
        matrices: parameters of the matrices that Muon would update, included in `trained`.
        vae_config: configuration of the VAE that encodes the simulated poses of stage 3; empty: Wan 2.1's.
    """

    arguments: dict[str, Any]
    parameters: int
    trained: int
    adapters: int
    teacher: int
    matrices: int
    vae_config: dict[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return int(self.arguments["num_attention_heads"] * self.arguments["attention_head_dim"])

    @property
    def num_layers(self) -> int:
        """Transformer blocks."""
        return int(self.arguments["num_layers"])


def empty_network(arguments: dict[str, Any], config: TrainConfig) -> SteadyDancerTransformer3DModel:
    """Build the stage's network from constructor arguments, on torch's current default device."""
    network = SteadyDancerTransformer3DModel(**arguments)
    if config.trains_lora:
        add_lora(network, config.lora_rank, config.lora_alpha, config.lora_targets)
    return network


def count(config: TrainConfig, transformer_config: dict[str, Any], vae_config: dict[str, Any] | None = None) -> Network:
    """Count the parameters of the stage's network.

    Args:
        config: the stage; its `NETWORK_FIELDS` choose the variant of the network.
        transformer_config: configuration of the transformer that the stage starts from; empty: Wan 14B.
        vae_config: see `Network`.
    """
    given = {name: value for name, value in transformer_config.items() if not name.startswith("_")}
    given |= config.model_dump(include=set(NETWORK_FIELDS))
    with torch.device("meta"):
        plain = SteadyDancerTransformer3DModel(**given)
        network = empty_network(given, config)
    own = [weight.numel() for name in plain.pose_module_names for weight in plain.get_submodule(name).parameters()]
    named = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    trained = sum(weight.numel() for weight in named.values())
    total = sum(weight.numel() for weight in plain.parameters())
    return Network(
        arguments={name: value for name, value in plain.config.items() if not name.startswith("_")},
        parameters=total,
        trained=trained,
        adapters=trained - sum(own) if config.trains_lora else 0,
        teacher=total - sum(own) if config.stage == 2 else 0,
        matrices=sum(weight.numel() for name, weight in named.items() if is_block_matrix(name, weight)),
        vae_config=vae_config or {},
    )


def num_tokens(network: Network, bucket: Bucket, *, reference_frames: bool = True) -> int:
    """Count the tokens of a (pixel frames, height, width) clip, including the two reference frames of Eq. 4 if used."""
    num_frames, height, width = bucket
    patch_frames, patch_height, patch_width = network.arguments["patch_size"]
    extra = 2 * (reference_frames and network.arguments["condition_augmentation"])
    frames = ((num_frames - 1) // 4 + 1) // patch_frames + extra
    cell = _PIXELS_A_LATENT * patch_height, _PIXELS_A_LATENT * patch_width
    return int(frames * (height // cell[0]) * (width // cell[1]))


def num_branches(config: TrainConfig) -> int:
    """Return the forward passes of the trained network per step: Eq. 6 runs it with and without the pose."""
    return 2 if config.stage == 2 and config.distillation == "condition_decoupled" else 1


@dataclass(frozen=True)
class Flops:
    """Floating point operations per clip and step: needed (`model`) and executed with recomputation (`hardware`)."""

    model: float
    hardware: float


def _forward(network: Network, tokens: int) -> tuple[float, float]:
    """Return the FLOPs of (linear layers, attention) in one forward pass over a clip; a multiply-add counts as two."""
    width, context = network.width, CONTEXT_TOKENS
    projections = 2 * tokens * width**2 * 6 + 2 * context * width**2 * 2
    feed_forward = 4 * tokens * width * network.arguments["ffn_dim"]
    attention = 4 * tokens * width * (tokens + context)
    return float(network.num_layers * (projections + feed_forward)), float(network.num_layers * attention)


def step_flops(config: TrainConfig, network: Network, bucket: Bucket) -> Flops:
    """Count the FLOPs of an optimizer step per clip: forward, recomputation, backward; in stage 2 for both branches.

    Stage 2 adds the teacher's forward pass. The backward pass of a linear layer costs twice its forward pass, or once
    if its weights are frozen.
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
