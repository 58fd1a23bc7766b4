"""Linear layers whose weights stay in one byte per element and are dequantised when they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class QuantisedLinear(nn.Linear):
    """Compute y = (Q · s) x + b, with Q [out, in] in int8 or float8, and a scale s [out, 1] per output channel.

    Only one layer's weight exists in full precision at a time. The product Q · s is rounded once, to the dtype of x.
    Q and s are buffers: they move between devices, but `to(dtype)` does not change them, and they are not trained.
    """

    weight_scale: Tensor
    weight: Any

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__(in_features, out_features, bias, device="meta")
        del self.weight
        # Placeholders; the weights are assigned when they are loaded.
        self.register_buffer("weight", torch.empty(out_features, in_features, dtype=torch.int8, device="meta"))
        self.register_buffer("weight_scale", torch.empty(out_features, 1, dtype=torch.float32, device="meta"))

    @property
    def compute_dtype(self) -> torch.dtype:
        """Dtype of the bias; PEFT creates adapters in it."""
        return torch.float32 if self.bias is None else self.bias.dtype

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """Return the weight [out, in] in a dtype."""
        # Multiplied in place in float32 and rounded on storing: the scale itself is not rounded to `dtype`.
        return self.weight.to(dtype).mul_(self.weight_scale)

    def forward(self, input: Tensor) -> Tensor:
        """Compute the layer for `input` [..., in], in its dtype."""
        return linear(input, self.dequantised(input.dtype), self.bias)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        kept = (self.weight, self.weight_scale)

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype == tensor.dtype or not any(tensor is one for one in kept):
                return moved
            return tensor.to(moved.device)

        return super()._apply(move, recurse)


def use_quantised_layers(model: nn.Module, weights: Iterable[str]) -> None:
    """Replace the linear layers with these weights by quantised layers, which have no storage yet.

    Args:
        model: modified in place.
        weights: names of weights, such as "blocks.0.attn1.to_q.weight".

    Raises:
        ValueError: a weight does not belong to a linear layer.
    """
    for name in weights:
        path = name.removesuffix(".weight")
        layer = model.get_submodule(path)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{name} belongs to a {type(layer).__name__}, not to a linear layer")
        quantised = QuantisedLinear(layer.in_features, layer.out_features, layer.bias is not None)
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, quantised.train(layer.training))


def has_quantised_layers(model: nn.Module) -> bool:
    """Return whether a network has quantised layers."""
    return any(isinstance(module, QuantisedLinear) for module in model.modules())
