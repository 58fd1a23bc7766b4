"""Run an autoencoder's 3D convolutions by oneDNN on a CPU, for one clip as for several.

PyTorch takes oneDNN for batches and a plain loop for a batch of one, which is four to eight times as slow per clip.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def use_onednn(module: Any) -> Any:
    """Let all 3D convolutions of a module run by oneDNN where a CPU computes without gradients; return the module."""
    if torch.backends.mkldnn.is_available():
        for layer in module.modules():
            if isinstance(layer, nn.Conv3d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
                vars(layer)["_conv_forward"] = partial(_convolve, layer)
    return module


def _convolve(layer: nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled():
        return nn.Conv3d._conv_forward(layer, x, weight, bias)
    padding: Any = layer.padding
    return torch.mkldnn_convolution(x, weight, bias, padding, layer.stride, layer.dilation, layer.groups)
