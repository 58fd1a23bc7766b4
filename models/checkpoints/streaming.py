"""Weight files written tensor by tensor, a megabyte at a time: a file of any size needs no memory of its size."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .files import CheckpointError, StoredTensor
from .key_maps import Shape
from .safetensors_header import FLOATS, LENGTH_BYTES, item_bytes, num_bytes

CHUNK_BYTES = 1 << 20
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to be written.

    Attributes:
        source: where its elements lie, or their bytes.
        shape: its shape in the file, as many elements as `source` has.
        dtype: its type in the file, as safetensors writes it.
    """

    source: StoredTensor | bytes
    shape: Shape
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Size in the file."""
        return num_bytes(self.shape, self.dtype)


def parse_size(text: str) -> int:
    """Bytes of a size such as "5GB" (a thousand million) or "512MiB".

    Raises:
        CheckpointError: it is none.
    """
    number = text.rstrip("BKMGiIkmgb ")
    try:
        size = int(float(number) * _UNITS[text[len(number) :].strip().upper()])
    except (ValueError, KeyError, OverflowError):  # infinite ones, too
        raise CheckpointError(f"{text!r} is no size; write it like 5GB or 512MiB") from None
    if size <= 0:
        raise CheckpointError(f"A shard of {text} holds nothing")
    return size


def plan_shards(tensors: Mapping[str, OutputTensor], max_bytes: int) -> list[dict[str, OutputTensor]]:
    """Cut tensors, in their order, into shards of at most `max_bytes`; a larger tensor is a shard of its own."""
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
    """Write one file and bring it to the disk; `advance` is told the bytes as they are written. Returns its sha256.

    Raises:
        CheckpointError: a source became shorter while it was read.
        OSError: the disk is full, or cannot be written.
    """
    # The widest first, as the library orders them, so that every tensor begins where its type wants.
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


def read_tensor_bytes(stored: StoredTensor) -> Iterator[bytes]:
    """The bytes of a tensor, a megabyte at a time; read, not mapped, so that they do not stay in memory.

    Raises:
        CheckpointError: the file is shorter than it was.
    """
    left, offset = stored.num_bytes, stored.offset
    with stored.file.open("rb", buffering=0) as file:
        while left:
            chunk = os.pread(file.fileno(), min(left, CHUNK_BYTES), offset)
            if not chunk:
                raise CheckpointError(f"{stored.file} became shorter while it was read")
            chunk = chunk[: len(chunk) - len(chunk) % item_bytes(stored.dtype)] or chunk
            yield chunk
            left -= len(chunk)
            offset += len(chunk)


def unchanged(tensors: Mapping[str, StoredTensor]) -> dict[str, OutputTensor]:
    """Those tensors as they are."""
    return {name: OutputTensor(stored, stored.shape, stored.dtype) for name, stored in tensors.items()}


def total_bytes(groups: Iterable[Mapping[str, OutputTensor]]) -> int:
    """Bytes of all tensors."""
    return sum(tensor.num_bytes for group in groups for tensor in group.values())


def _chunks(tensor: OutputTensor) -> Iterator[bytes]:
    if isinstance(tensor.source, bytes):
        yield tensor.source
    elif tensor.source.dtype == tensor.dtype:
        yield from read_tensor_bytes(tensor.source)
    else:
        import torch

        source, target = (getattr(torch, FLOATS[name]) for name in (tensor.source.dtype, tensor.dtype))
        for chunk in read_tensor_bytes(tensor.source):
            values = torch.frombuffer(bytearray(chunk), dtype=source).to(target)
            yield values.view(torch.uint8).numpy().tobytes()
