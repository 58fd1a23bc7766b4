"""Run code on a GPU that is not there: fake CUDA tensors, whose memory torch's own tracker counts.

Fake tensors have shape, dtype and device but no data. Every operation runs its real shape, dtype and device rules, so
that a tensor on the wrong device or of the wrong dtype raises as it does on a GPU. Nothing is computed.

Not traced: memory that kernels allocate for themselves, the CUDA context, fragmentation of torch's allocator, what runs
outside torch (codecs, pose estimators, tokenizers), and values: a branch that reads a number takes the finite way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed._tools.mod_tracker import ModTracker
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .networks import empty_network

CUDA = torch.device("cuda", 0)
_MAX_FLASH_HEAD_DIM = 256
_ATEN = torch.ops.aten
# Kernels that refuse tensors of different dtypes; torch's shape rules for fake tensors accept them.
_ONE_DTYPE = {
    *(_ATEN.mm.default, _ATEN.bmm.default, _ATEN.addmm.default, _ATEN.baddbmm.default),
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
}


class FakeGpu:
    """The fake device of a `fake_gpu` context: makes networks and tensors on it, and knows its memory."""

    def __init__(self, tracker: TotalTracker) -> None:
        self._tracker = tracker

    def network(self, make: Callable[[], nn.Module], dtype: torch.dtype, *, keep_float32: bool = True) -> Any:
        """Build a network on the fake GPU, see `empty_network`."""
        return empty_network(make, dtype, CUDA, keep_float32=keep_float32)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Make a fake tensor on the fake GPU."""
        return torch.empty(shape, dtype=dtype, device=CUDA)

    @property
    def bytes(self) -> int:
        """Bytes of all live tensors."""
        return _total(self._tracker.get_tracker_snapshot("current"))

    @property
    def peak_bytes(self) -> int:
        """Largest number of bytes since the context was entered, or since `reset_peak`."""
        return _total(self._tracker.get_tracker_snapshot("peak"))

    def reset_peak(self) -> None:
        """Begin a new peak at the bytes that are live now."""
        self._tracker.reset_peak()


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Enter a context in which the device "cuda" exists, without data."""
    tracker = TotalTracker()
    with _replaced_weights(), FakeTensorMode(allow_non_fake_inputs=True), tracker, _RealHost(), _GpuAttention():
        yield FakeGpu(tracker)


@contextmanager
def _replaced_weights() -> Iterator[None]:
    """Let `Module.to` put new weights in the place of the old ones; torch would swap them, which fake ones refuse."""

    def apply(module: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for child in module.children() if recurse else ():
            apply(child, convert)
        for name, weight in module.named_parameters(recurse=False):
            with torch.no_grad():
                setattr(module, name, nn.Parameter(convert(weight), weight.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, convert(buffer))
        return module

    torchs, nn.Module._apply = nn.Module._apply, apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = torchs  # type: ignore[method-assign]


def _total(snapshot: dict[torch.device, dict[str, int]]) -> int:
    return int(snapshot.get(CUDA, {}).get("Total", 0))


class TotalTracker(MemTracker):
    """torch's memory tracker without its tables by module.

    With them a network can be called only once, and their hooks keep the autograd graph alive.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mod_tracker = cast(ModTracker, _NoModules())

    def reset_peak(self) -> None:
        """Begin a new peak at the bytes that are live now."""
        self._peak_mem_snap = self.get_tracker_snapshot("current")
        self._peak_mem = {device: by_kind["Total"] for device, by_kind in self._peak_mem_snap.items()}


class _NoModules:
    is_bw = False
    parents: frozenset[str] = frozenset()

    def register_user_hooks(self, *hooks: Any) -> None: ...

    def clear_user_hooks(self) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *error: Any) -> None: ...


class _RealHost(TorchDispatchMode):
    """Computes on the CPU what only the CPU sees, and answers reads of fake tensors.

    The sampler's grid of sigmas is on the CPU, and steps are looked up in it. The only reads of fake tensors are tests
    whether all numbers are finite.
    """

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        is_fake = any(isinstance(tensor, FakeTensor) for tensor in given)
        if is_fake and operation is _ATEN._local_scalar_dense.default:
            return True if args[0].dtype is torch.bool else 1
        if operation in _ONE_DTYPE and len({tensor.dtype for tensor in given}) > 1:
            raise RuntimeError(f"{operation} takes one dtype, not {', '.join(str(tensor.dtype) for tensor in given)}")
        device = kwargs.get("device")
        if is_fake or (device is not None and torch.device(device).type == "cuda"):
            return operation(*args, **kwargs)
        with unset_fake_temporarily():
            return operation(*args, **kwargs)


class _GpuAttention(TorchFunctionMode):
    """Chooses the attention kernel as torch does on a GPU; without one it would choose the product of all pairs."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is nn.functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    half = query.dtype in (torch.bfloat16, torch.float16)
    if query.device.type != "cuda" or enable_gqa:
        with torch._C.DisableTorchFunction():
            return nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
    if half and attn_mask is None and query.shape[-1] <= _MAX_FLASH_HEAD_DIM:
        return _ATEN._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    return _ATEN._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale
    )[0]
