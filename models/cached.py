"""Cached conditions as tensors, without a copy: safetensors' own `load` copies each, and training reads gigabytes."""

import json
import struct
import warnings

import torch
from torch import Tensor

# That they must not be written to is said below, and nobody does.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def tensors_of(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file in memory; they lie in `data`, so they must not be written to.

    Raises:
        ValueError: it is no such file, or holds another type than bfloat16, float16 or float32.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        strange = [f"{name} is {entry['dtype']}" for name, entry in header.items() if entry["dtype"] not in _DTYPES]
        if strange:
            raise ValueError(f"{', '.join(strange)}, known are {', '.join(_DTYPES)}")
        return {name: _tensor(data, 8 + length, **entry) for name, entry in header.items()}
    except (struct.error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{len(data)} bytes are no safetensors of cached conditions: {error}") from error


def _tensor(data: bytes, base: int, dtype: str, shape: list[int], data_offsets: tuple[int, int]) -> Tensor:
    kind, (start, stop) = _DTYPES[dtype], data_offsets
    view = memoryview(data)[base + start : base + stop]
    if not view:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(view, dtype=kind).reshape(shape)
