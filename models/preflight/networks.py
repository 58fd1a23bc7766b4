"""Networks without values, on the meta device or on a fake GPU, and with random ones, for measurements."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from ..diffusers_internals import float32_modules


def empty_network(
    make: Callable[[], nn.Module], dtype: torch.dtype, device: torch.device | str, *, keep_float32: bool = True
) -> Any:
    """Build a network without values on a device; nothing else is allocated there on the way.

    Args:
        make: builds it.
        dtype: of its floating point weights and buffers.
        device: its device.
        keep_float32: leave the modules in float32 that diffusers keeps so when it loads the network.
    """
    with torch.device("meta"):
        model = make()
    kept = float32_modules(model) if keep_float32 else ()
    made: dict[Tensor, Tensor] = {}  # tied weights stay tied
    for path, module in model.named_modules():
        for name, old in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if old not in made:
                is_kept = isinstance(old, nn.Parameter) and any(part in f"{path}.{name}" for part in kept)
                casts = isinstance(old, nn.Parameter) and old.is_floating_point()
                its = (torch.float32 if is_kept else dtype) if casts else old.dtype
                new = torch.empty(old.shape, dtype=its, device=device)
                made[old] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
            setattr(module, name, made[old])
    return model.eval()


def fill_randomly(network: Any, device: torch.device | str | None = None) -> Any:
    """Fill a network of `empty_network` with small random weights, in place, and return it.

    Args:
        network: a transformer or an autoencoder.
        device: where the numbers are drawn; None: where the weights are. A GPU is faster for a network on the CPU.
    """
    with torch.no_grad():
        for name, weight in network.named_parameters():
            is_norm = name.endswith("weight") and weight.ndim == 1
            drawn = torch.empty(weight.shape, dtype=weight.dtype, device=device or weight.device)
            weight.copy_(drawn.fill_(1) if is_norm else drawn.normal_(std=0.02))
    if hasattr(network, "rope"):  # tables that were built without values
        config = network.config
        rope = type(network.rope)(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
        network.rope = rope.to(next(network.parameters()).device)
    return network


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers, each counted once."""
    return sum(tensor.nbytes for tensor in {id(t): t for t in [*model.parameters(), *model.buffers()]}.values())


def make_wan(arguments: Mapping[str, Any]) -> WanTransformer3DModel:
    """Build the plain Wan of the size of a SteadyDancer, from its constructor arguments, on torch's current device."""
    known = inspect.signature(WanTransformer3DModel.__init__).parameters
    given = {name: value for name, value in arguments.items() if name in known}
    width = arguments["num_attention_heads"] * arguments["attention_head_dim"]
    return WanTransformer3DModel(**{**given, "added_kv_proj_dim": given.get("added_kv_proj_dim") or width})
