"""Count the bytes of live tensors, on the meta device without allocating anything."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all live tensors that operations in its context have created, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operation is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return True if args[0].dtype is torch.bool else 1  # asked whether all numbers are finite, or all rows valid
        for given in tree_leaves((args, kwargs)):
            self._notice(given, 0)  # weights and inputs from outside, of which an operation may return a view
        results = operation(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            self._notice(result, None)
        return results

    def _notice(self, tensor: Any, num_bytes: int | None) -> None:
        storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
        if storage is not None and storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes() if num_bytes is None else num_bytes
            weakref.finalize(storage, self._sizes.pop, storage._cdata)
            self.peak = max(self.peak, sum(self._sizes.values()))


class FusedAttention(TorchFunctionMode):
    """Attention that makes its output alone, as fused kernels do; the meta device would make the table of all pairs."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function is nn.functional.scaled_dot_product_attention:
            query = args[0] if args else given["query"]
            return query.new_empty(query.shape)
        return function(*args, **given)
