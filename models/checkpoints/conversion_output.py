"""Files that a conversion will write, with the source and name of each tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .files import StoredTensor
from .key_maps import Shape
from .safetensors_header import FLOATS
from .streaming import OutputTensor, plan_shards, total_bytes

Target = Literal["diffusers", "official", "lora"]
LoraLayout = Literal["diffusers", "comfyui"]
DTYPES = {name: stored for stored, name in FLOATS.items()}


@dataclass
class Conversion:
    """Output files of a conversion, by path relative to the target folder.

    Attributes:
        sources: files to read, in the order of their digests.
        shards: weight files and their tensors.
        metadata: metadata for the headers of weight files.
        texts: JSON files and their contents.
        copies: files copied unchanged, with their sources.
        reports: JSON files whose contents are known once the weights are written.
    """

    sources: list[Path] = field(default_factory=list)
    shards: dict[str, dict[str, OutputTensor]] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)
    copies: dict[str, Path] = field(default_factory=dict)
    reports: dict[str, Callable[[], Any]] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """Total bytes of the tensors to write."""
        return total_bytes(self.shards.values())

    @property
    def num_tensors(self) -> int:
        """Number of tensors to write."""
        return sum(map(len, self.shards.values()))

    def add_weights(self, prefix: str, tensors: Mapping[str, OutputTensor], shard_bytes: int, has_index: bool) -> None:
        """Add tensors as PREFIX.safetensors, or as PREFIX-00001-of-0000N.safetensors with an index."""
        shards = plan_shards(tensors, shard_bytes)
        if len(shards) == 1 and not has_index:
            self.shards[f"{prefix}.safetensors"] = shards[0]
            return
        names = [f"{prefix}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
        self.shards |= dict(zip(names, shards, strict=True))
        self.texts[f"{prefix}.safetensors.index.json"] = {
            "metadata": {"total_size": total_bytes(shards)},
            "weight_map": {name: file.rpartition("/")[2] for file in names for name in self.shards[file]},
        }


def output_tensor(place: StoredTensor, shape: Shape, dtype: str | None) -> OutputTensor:
    """Return a stored tensor with another shape and, if it is a float tensor, another dtype."""
    is_float = place.dtype in FLOATS
    return OutputTensor(place, shape, DTYPES[dtype] if dtype and is_float else place.dtype)
