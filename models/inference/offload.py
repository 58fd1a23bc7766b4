"""Where a network computes while its weights wait elsewhere: what diffusers' and accelerate's kinds of offload tell."""

from __future__ import annotations

import torch
from torch import nn

from ..diffusers_internals import accelerate_hooks, group_offload_device


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes. Its parameters may wait elsewhere, if one of diffusers' kinds of offload is enabled."""
    if (onload_device := group_offload_device(module)) is not None:
        return onload_device
    devices = (getattr(hook, "execution_device", None) for hook in accelerate_hooks(module))
    device = next((device for device in devices if device is not None), None)
    return next(module.parameters()).device if device is None else torch.device(device)
