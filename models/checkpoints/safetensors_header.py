"""What the header of a safetensors file says of its tensors, and the types it names. No torch here.

A safetensors file is eight bytes that say how long its header is, the header (JSON: type, shape and place of each
tensor), and the bytes of the tensors. The library reads headers too, but does not say where the bytes of a tensor are.
"""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

LENGTH_BYTES = 8  # of the header's length, little-endian
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
          "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}  # fmt: skip
"""Real types as safetensors and as torch call them."""
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


class TensorEntry(NamedTuple):
    """A tensor in a file: type, as safetensors writes it, shape, and places of its first byte and after its last."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def item_bytes(dtype: str) -> int:
    """Bytes of one element. Raises KeyError for a type that is not known."""
    return _ITEM_BYTES[dtype]


def num_bytes(shape: Sequence[int], dtype: str) -> int:
    """Bytes of a tensor. Raises KeyError for a type that is not known."""
    return math.prod(shape) * item_bytes(dtype)


def header_length(begin: bytes) -> int:
    """The length of the header in bytes, from the first bytes of a file."""
    return int.from_bytes(begin[:LENGTH_BYTES], "little")


def parse_header(header: bytes) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """(name to entry, metadata) from the bytes that follow the length.

    Raises:
        ValueError: it is not a header of safetensors, or contradicts itself.
    """
    try:
        rows = json.loads(header)
        metadata = dict(rows.pop("__metadata__", {}))
        base, entries = LENGTH_BYTES + len(header), {}
        for name, row in rows.items():
            start, stop = row["data_offsets"]
            entries[name] = TensorEntry(row["dtype"], tuple(row["shape"]), base + start, base + stop)
            if num_bytes(row["shape"], row["dtype"]) != stop - start:
                raise ValueError(f"{name} has {stop - start} bytes for {row['dtype']} {row['shape']}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return entries, metadata
