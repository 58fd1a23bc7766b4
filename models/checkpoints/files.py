"""Open safetensors checkpoints, check their tensors, and map them into memory without a copy.

Opening reads only headers, so that a wrong or truncated file is rejected before any weights are read. torch is not
imported here, because `steadydancer convert --dry-run` needs only the headers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .folders import ComponentsError
from .key_maps import Shape
from .safetensors_header import LENGTH_BYTES, header_length, num_bytes, parse_header

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
_MAX_HEADER_BYTES = 100_000_000
_MAX_NAMES = 5


class CheckpointError(ComponentsError, ValueError):
    """A weight file cannot be used; the message states what it is, what is expected and what to do."""


@dataclass(frozen=True)
class StoredTensor:
    """Location of a tensor in a file.

    Attributes:
        file: file that contains it.
        dtype: dtype in safetensors' spelling, such as "BF16".
        shape: sizes of its axes.
        offset: position of its first byte in the file.
    """

    file: Path
    dtype: str
    shape: Shape
    offset: int

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""
        return num_bytes(self.shape, self.dtype)


@dataclass(frozen=True)
class Checkpoint:
    """An opened set of weight files.

    Attributes:
        source: the opened file or folder, for messages.
        tensors: location of each tensor by its name in the file, without a shared prefix.
        prefix: that prefix, such as "model.diffusion_model.".
        config: contents of the `config.json` in the same folder; empty if there is none.
        metadata: metadata of the first file's header.
    """

    source: Path
    tensors: Mapping[str, StoredTensor]
    prefix: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shape of each tensor by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def files(self) -> list[Path]:
        """The weight files, sorted."""
        return sorted({tensor.file for tensor in self.tensors.values()})

    def load(self) -> dict[str, Tensor]:
        """Load all tensors as memory maps: pages are read when they are used."""
        from safetensors import safe_open

        loaded = {}
        for file in self.files:
            with safe_open(file, "pt") as opened:
                for name, tensor in self.tensors.items():
                    if tensor.file == file:
                        loaded[name] = opened.get_tensor(self.prefix + name)
        return {name: loaded[name] for name in self.tensors}


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Read the headers of a safetensors file, of the shards of an index, or of a folder that holds either.

    Raises:
        CheckpointError: no weights are found, a file is damaged, truncated or a pickle, or a shard is missing.
    """
    source = Path(source)
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    for file in weight_files(source):
        stored, header_metadata = read_header(file)
        if repeated := sorted(tensors.keys() & stored.keys()):
            first = tensors[repeated[0]].file
            raise CheckpointError(f"{source}: {repeated[0]} is in both {first.name} and {file.name}")
        tensors |= stored
        metadata = metadata or header_metadata
    prefix = next((p for p in ("model.diffusion_model.", "diffusion_model.") if _all_start_with(tensors, p)), "")
    folder = source if source.is_dir() else source.parent
    return Checkpoint(
        source=source,
        tensors={name.removeprefix(prefix): tensor for name, tensor in tensors.items()},
        prefix=prefix,
        config=_config(folder / "config.json") if source.is_dir() or source.suffix == ".json" else {},
        metadata=metadata,
    )


def weight_files(source: Path) -> list[Path]:
    """List the safetensors files of a source: one file, the shards of an index, or those of a folder.

    Raises:
        CheckpointError: there are none, several sets, or a shard of the index is missing.
    """
    if source.is_dir():
        indices = sorted(source.glob("*.safetensors.index.json"))
        files = sorted(source.glob("*.safetensors"))
        if len(indices) == 1 or (not indices and len(files) == 1):
            return weight_files((indices or files)[0])
        if indices or files:
            found = ", ".join(file.name for file in (indices or files)[:4])
            raise CheckpointError(f"{source} contains several sets of weights ({found}): pass the path of one")
        pickles = [file for file in sorted(source.iterdir()) if file.suffix in PICKLES]
        raise _pickle_error(pickles[0]) if pickles else CheckpointError(f"{source} contains no safetensors files")
    if source.suffix in PICKLES:
        raise _pickle_error(source)
    if not source.is_file():
        raise CheckpointError(f"{source} does not exist")
    if source.suffix == ".safetensors":
        return [source]
    if not source.name.endswith(".index.json"):
        raise CheckpointError(f"{source} is not a safetensors file, an index of safetensors files, or a folder")
    try:
        names = sorted({str(name) for name in json.loads(source.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source} is not an index of safetensors files ({error}): download it again") from error
    missing = [name for name in names if not (source.parent / name).is_file()]
    if missing or not names:
        raise CheckpointError(
            f"{len(missing)} of the {len(names)} files that {source} lists are missing ({', '.join(missing[:3])}): "
            "the download is incomplete; download them into the same folder"
        )
    return [source.parent / name for name in names]


def read_header(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Read the header of a safetensors file: (location of each tensor by name, metadata).

    Raises:
        CheckpointError: the file is truncated or damaged, or has another format.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        first = opened.read(LENGTH_BYTES)
        length = header_length(first)
        is_truncated = len(first) < LENGTH_BYTES or (length <= _MAX_HEADER_BYTES and LENGTH_BYTES + length > size)
        raw = opened.read(length) if not is_truncated and length <= _MAX_HEADER_BYTES else b""
    if is_truncated:
        raise CheckpointError(f"{file} is truncated: {size:,} bytes are less than its header; download it again")
    try:
        entries, metadata = parse_header(raw)
    except ValueError as error:
        raise CheckpointError(f"{file} is not a safetensors file ({error})") from error
    end = max((entry.stop for entry in entries.values()), default=0)
    if end != size:
        raise CheckpointError(
            f"{file} is truncated or damaged: it has {size:,} bytes, its header specifies {end:,}; download it again"
        )
    return {name: StoredTensor(file, one.dtype, one.shape, one.start) for name, one in entries.items()}, metadata


def check_tensors(given: Mapping[str, Shape], wanted: Mapping[str, Shape], source: object, what: str) -> None:
    """Check that names and shapes are exactly the expected ones, and report all differences in one message.

    Raises:
        CheckpointError: tensors are missing, unexpected or of the wrong shape.
    """
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    misshaped = [
        f"{name} {_text(given[name])} (expected {_text(wanted[name])})"
        for name in wanted
        if name in given and tuple(given[name]) != tuple(wanted[name])
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(_some(names))}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("with the wrong shape", misshaped))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source} is not {what} ({len(wanted)} tensors expected, {len(given)} given)\n  "
            + "\n  ".join(problems)
            + "\nnothing was loaded; download the file again, or pass one for this model"
        )


def _some(names: Iterable[str]) -> Iterator[str]:
    # Names outside the blocks come first: they are few and identify the model.
    names = sorted(names, key=lambda name: name.startswith("blocks."))
    yield from names[:_MAX_NAMES]
    if len(names) > _MAX_NAMES:
        yield f"… and {len(names) - _MAX_NAMES} more"


def _text(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _all_start_with(names: Iterable[str], prefix: str) -> bool:
    names = list(names)
    return bool(names) and all(name.startswith(prefix) for name in names)


def _config(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text())) if file.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error})") from error


def _pickle_error(file: Path) -> CheckpointError:
    return CheckpointError(
        f"{file} is a pickle, which can run code when it is read: pass safetensors instead. "
        "(Only the three encoders of an official Wan 2.1 folder are read from .pth, as tensors only.)"
    )
