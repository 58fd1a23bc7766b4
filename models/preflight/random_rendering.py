"""Networks and inputs of a rendering with random values, for measurements of time and memory without weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from ..conditions import Conditions
from ..guidance import Branch, BranchVelocity
from ..mode_parts import tile
from ..modes import Mode, apply_mode
from ..objectives import wan_velocity
from ..transformer import SteadyDancerTransformer3DModel
from .inputs import branch_inputs
from .networks import empty_network, fill_randomly, make_wan
from .sizes import Clip, Sizes

NUM_TOKENS = 120, 126  # of a prompt, and of Wan's negative prompt


def random_transformer(sizes: Sizes, mode: Mode, dtype: torch.dtype, device: str, is_plain: bool = False) -> Any:
    """Build a transformer with random weights, in a mode.

    Args:
        sizes: of the networks.
        mode: a few-step LoRA, which changes only weights, is left out.
        dtype: of the transformer.
        device: where it computes.
        is_plain: build diffusers' Wan of the same size instead, to which no mode is applied.
    """
    arguments = json.loads(sizes.transformer_json)
    at = "cpu" if mode.offloads else device
    if is_plain:
        return fill_randomly(empty_network(lambda: make_wan({**arguments, "in_channels": 36}), dtype, at), device)
    network = fill_randomly(empty_network(lambda: SteadyDancerTransformer3DModel(**arguments), dtype, at), device)
    alone: Any = SimpleNamespace(transformer=network, vae=None)
    apply_mode(alone, replace(mode, needs_distilled_lora=False), device=device)
    return network


def random_autoencoder(sizes: Sizes, mode: Mode, device: str) -> Any:
    """Build an autoencoder with random weights on a device, in a mode."""
    vae = fill_randomly(empty_network(lambda: AutoencoderKLWan(**sizes.vae), torch.float32, device))
    if mode.tiles_autoencoder:
        tile(vae)
    return vae


def random_inputs(network: Any, clip: Clip, dtype: torch.dtype, device: str) -> tuple[dict[Branch, Conditions], Tensor]:
    """Draw the conditions of all branches and the noise of a clip: the same numbers in every process."""
    normal = partial(torch.randn, device=device, generator=torch.Generator(device).manual_seed(0))
    config, grid = network.config, clip.latent_grid
    branches = branch_inputs(normal, grid, config.image_dim, config.text_dim, dtype=dtype, num_tokens=NUM_TOKENS)
    return branches, normal(1, 16, *grid)


def plain_velocity(network: Any, branches: Mapping[Branch, Conditions]) -> BranchVelocity:
    """Wrap diffusers' Wan, which computes everything in every evaluation, as a velocity.

    It has no reference frames; two more frames in their place give it as many tokens.
    """
    velocity_of = wan_velocity(network)

    def velocity(latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        longer = torch.cat([latents, latents[:, :, :2]], dim=2)
        image = branches[branch].image_latents
        conditions = branches[branch].replace(image_latents=torch.cat([image, image[:, :, :2]], dim=2))
        return velocity_of(longer, timestep, conditions)[:, :, : latents.shape[2]]

    return velocity
