"""Cached conditions as tensors, without a copy: safetensors' own `load` copies each, and training reads gigabytes."""

import warnings

import torch
from torch import Tensor

from .checkpoints.safetensors_header import FLOATS, LENGTH_BYTES, TensorEntry, header_length, parse_header

# That they must not be written to is said below, and nobody does.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

_DTYPES = {name: getattr(torch, FLOATS[name]) for name in ("BF16", "F16", "F32")}


def tensors_of(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file in memory; they lie in `data`, so they must not be written to.

    Raises:
        ValueError: it is no such file, or holds another type than bfloat16, float16 or float32.
    """
    try:
        entries, _ = parse_header(data[LENGTH_BYTES : LENGTH_BYTES + header_length(data)])
        strange = [f"{name} is {entry.dtype}" for name, entry in entries.items() if entry.dtype not in _DTYPES]
        if strange:
            raise ValueError(f"{', '.join(strange)}, known are {', '.join(_DTYPES)}")
        return {name: _tensor(data, entry) for name, entry in entries.items()}
    except ValueError as error:
        raise ValueError(f"{len(data)} bytes are no safetensors of cached conditions: {error}") from error


def _tensor(data: bytes, entry: TensorEntry) -> Tensor:
    if entry.stop > len(data):
        raise ValueError("they are cut short")
    if entry.start == entry.stop:
        return torch.empty(entry.shape, dtype=_DTYPES[entry.dtype])
    view = memoryview(data)[entry.start : entry.stop]
    return torch.frombuffer(view, dtype=_DTYPES[entry.dtype]).reshape(entry.shape)
