"""Tensors in kept results, whose files hold arrays: types that arrays lack are kept by their bits."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ...datasets.storage.result_store import Array, Result

_BITS = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.int8, torch.float8_e5m2: torch.int8}
_BY_NAME = {str(kind).removeprefix("torch."): kind for kind in _BITS}


def tensor_result(tensors: Mapping[str, Tensor], made_from: Iterable[str]) -> Result:
    """Return a result of tensors on any device; `tensors_of` returns the same values on the CPU.

    Args:
        tensors: by name.
        made_from: digests of the files of people that they were made from.
    """
    arrays: dict[str, Array] = {}
    for name, tensor in tensors.items():
        kept, bits = tensor.detach().cpu().contiguous(), _BITS.get(tensor.dtype)
        if bits is not None:
            arrays[f"{name}:{str(kept.dtype).removeprefix('torch.')}"] = kept.view(bits).numpy()
        else:
            arrays[name] = kept.numpy()
    return Result(arrays, made_from=made_from)


def tensors_of(result: Result) -> dict[str, Tensor]:
    """Return the tensors of a result of `tensor_result`."""
    tensors = {}
    for whole, array in result.arrays.items():
        name, _, kind = whole.partition(":")
        tensor = torch.tensor(array)
        tensors[name] = tensor.view(_BY_NAME[kind]) if kind else tensor
    return tensors
