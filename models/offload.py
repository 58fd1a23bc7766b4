"""Where a network computes while its weights wait elsewhere: what diffusers' and accelerate's kinds of offload tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.hooks.group_offloading import _get_group_onload_device
from torch import nn


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes. Its parameters may wait elsewhere, if one of diffusers' kinds of offload is enabled."""
    try:
        return _get_group_onload_device(module)
    except ValueError:  # how that function says no
        pass
    devices = (getattr(hook, "execution_device", None) for hook in accelerate_hooks(module))
    device = next((device for device in devices if device is not None), None)
    return next(module.parameters()).device if device is None else torch.device(device)


def accelerate_hooks(module: nn.Module) -> Iterator[Any]:
    """The hooks by which accelerate moves a module or its layers, outermost first."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        yield from getattr(hook, "hooks", [hook])  # one layer's hooks may be chained
