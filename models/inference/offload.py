"""The device on which a network computes while diffusers or accelerate keeps its weights elsewhere."""

from __future__ import annotations

import torch
from torch import nn

from ..diffusers_internals import accelerate_hooks, group_offload_device


def execution_device(module: nn.Module) -> torch.device:
    """Return the device on which a module computes. With offload, its parameters may be elsewhere."""
    if (onload_device := group_offload_device(module)) is not None:
        return onload_device
    devices = (getattr(hook, "execution_device", None) for hook in accelerate_hooks(module))
    device = next((device for device in devices if device is not None), None)
    return next(module.parameters()).device if device is None else torch.device(device)
