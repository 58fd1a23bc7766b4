"""Parse the header of a safetensors file, without torch.

A safetensors file consists of the header's length in eight bytes, the header (JSON: dtype, shape and offsets of each
tensor), and the bytes of the tensors. The safetensors library reads headers too, but does not expose the offsets.
"""

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

LENGTH_BYTES = 8  # size of the header's length, little-endian
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
          "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}  # fmt: skip
"""Float dtypes: safetensors' name to torch's."""
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


class TensorEntry(NamedTuple):
    """A tensor in a file: safetensors' dtype, shape, and positions of its first byte and after its last byte."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def item_bytes(dtype: str) -> int:
    """Return the bytes of one element. Raises KeyError for an unknown dtype."""
    return _ITEM_BYTES[dtype]


def num_bytes(shape: Sequence[int], dtype: str) -> int:
    """Return the bytes of a tensor. Raises KeyError for an unknown dtype."""
    return math.prod(shape) * item_bytes(dtype)


def header_length(begin: bytes | memoryview) -> int:
    """Decode the length of the header in bytes from the first bytes of a file."""
    return int.from_bytes(begin[:LENGTH_BYTES], "little")


def parse_header(header: bytes) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Parse the bytes after the length: (entry by name, metadata).

    Raises:
        ValueError: it is not a safetensors header, or it is inconsistent.
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
