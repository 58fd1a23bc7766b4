"""Cached conditions as tensors without a copy. safetensors' own `load` copies each one; training reads gigabytes."""

import warnings

import torch
from torch import Tensor

from .checkpoints.safetensors_header import FLOATS, LENGTH_BYTES, TensorEntry, header_length, parse_header

# The tensors are read-only by contract (see `tensors_of`), so torch's warning does not apply.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

_DTYPES = {name: getattr(torch, FLOATS[name]) for name in ("BF16", "F16", "F32")}


def tensors_of(data: bytes | memoryview) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file in memory. They share the memory of `data`: do not write to them.

    Raises:
        ValueError: `data` is not a safetensors file, or a tensor is not bfloat16, float16 or float32.
    """
    try:
        entries, _ = parse_header(bytes(data[LENGTH_BYTES : LENGTH_BYTES + header_length(data)]))
        unsupported = [f"{name} is {entry.dtype}" for name, entry in entries.items() if entry.dtype not in _DTYPES]
        if unsupported:
            raise ValueError(f"{', '.join(unsupported)}; supported types are {', '.join(_DTYPES)}")
        return {name: _tensor(data, entry) for name, entry in entries.items()}
    except ValueError as error:
        raise ValueError(f"{len(data)} bytes are not a safetensors file of cached conditions: {error}") from error


def _tensor(data: bytes | memoryview, entry: TensorEntry) -> Tensor:
    if entry.stop > len(data):
        raise ValueError("the file is truncated")
    if entry.start == entry.stop:
        return torch.empty(entry.shape, dtype=_DTYPES[entry.dtype])
    view = memoryview(data)[entry.start : entry.stop]
    return torch.frombuffer(view, dtype=_DTYPES[entry.dtype]).reshape(entry.shape)
