"""Write weight files in chunks of a megabyte, so that memory does not grow with the size of a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .files import CheckpointError, StoredTensor
from .key_maps import Shape
from .safetensors_header import FLOATS, LENGTH_BYTES, item_bytes, num_bytes

CHUNK_BYTES = 1 << 20
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class ComputedTensor(Protocol):
    """A tensor whose bytes are computed while they are written."""

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes in pieces."""
        ...


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to write.

    Attributes:
        source: location of its elements, their bytes, or what computes these.
        shape: its shape in the file, with as many elements as `source`.
        dtype: its dtype in the file, in safetensors' spelling.
    """

    source: StoredTensor | bytes | ComputedTensor
    shape: Shape
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return num_bytes(self.shape, self.dtype)


def parse_size(text: str) -> int:
    """Parse a size such as "5GB" (5·10⁹ bytes) or "512MiB" into bytes.

    Raises:
        CheckpointError: it is not a positive size.
    """
    number = text.rstrip("BKMGiIkmgb ")
    try:
        size = int(float(number) * _UNITS[text[len(number) :].strip().upper()])
    except (ValueError, KeyError, OverflowError):  # OverflowError: "inf"
        raise CheckpointError(f"{text!r} is not a size; use the form 5GB or 512MiB") from None
    if size <= 0:
        raise CheckpointError(f"The shard size {text} is not positive: use one such as 5GB")
    return size


def plan_shards(tensors: Mapping[str, OutputTensor], max_bytes: int) -> list[dict[str, OutputTensor]]:
    """Split tensors, in order, into shards of at most `max_bytes`; a larger tensor becomes a shard of its own."""
    shards: list[dict[str, OutputTensor]] = [{}]
    room = max_bytes
    for name, tensor in tensors.items():
        if tensor.num_bytes > room and shards[-1]:
            shards.append({})
            room = max_bytes
        shards[-1][name] = tensor
        room -= tensor.num_bytes
    return shards


def write_safetensors(
    path: Path,
    tensors: Mapping[str, OutputTensor],
    metadata: Mapping[str, str],
    advance: Callable[[int], object] = lambda num_bytes: None,
) -> str:
    """Write one file, sync it to disk, and return its sha256; `advance` is called with the bytes of each chunk.

    Raises:
        CheckpointError: a source was truncated during reading.
        OSError: the disk is full or not writable.
    """
    # Widest dtypes first, as in the safetensors library, so that every tensor is aligned to its dtype.
    ordered = sorted(tensors.items(), key=lambda row: -item_bytes(row[1].dtype))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    end = 0
    for name, tensor in ordered:
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.num_bytes],
        }
        end += tensor.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as out:
        for content in (len(text).to_bytes(LENGTH_BYTES, "little"), text):
            out.write(content)
            digest.update(content)
        for _, tensor in ordered:
            for chunk in _chunks(tensor):
                out.write(chunk)
                digest.update(chunk)
                advance(len(chunk))
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def read_tensor_bytes(stored: StoredTensor, chunk_bytes: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of a tensor in chunks, of a megabyte by default; read, not mapped, so that none stay in memory.

    Raises:
        CheckpointError: the file was truncated during reading.
    """
    left, offset = stored.num_bytes, stored.offset
    with stored.file.open("rb", buffering=0) as file:
        while left:
            chunk = os.pread(file.fileno(), min(left, chunk_bytes or CHUNK_BYTES), offset)
            if not chunk:
                raise CheckpointError(f"{stored.file} was truncated during reading")
            chunk = chunk[: len(chunk) - len(chunk) % item_bytes(stored.dtype)] or chunk
            yield chunk
            left -= len(chunk)
            offset += len(chunk)


def unchanged(tensors: Mapping[str, StoredTensor]) -> dict[str, OutputTensor]:
    """Return outputs that keep the shapes and dtypes of the tensors."""
    return {name: OutputTensor(stored, stored.shape, stored.dtype) for name, stored in tensors.items()}


def total_bytes(groups: Iterable[Mapping[str, OutputTensor]]) -> int:
    """Return the total bytes of all tensors."""
    return sum(tensor.num_bytes for group in groups for tensor in group.values())


def _chunks(tensor: OutputTensor) -> Iterator[bytes]:
    if isinstance(tensor.source, bytes):
        yield tensor.source
    elif not isinstance(tensor.source, StoredTensor):
        yield from tensor.source.chunks()
    elif tensor.source.dtype == tensor.dtype:
        yield from read_tensor_bytes(tensor.source)
    else:
        import torch

        source, target = (getattr(torch, FLOATS[name]) for name in (tensor.source.dtype, tensor.dtype))
        for chunk in read_tensor_bytes(tensor.source):
            values = torch.frombuffer(bytearray(chunk), dtype=source).to(target)
            yield values.view(torch.uint8).numpy().tobytes()
