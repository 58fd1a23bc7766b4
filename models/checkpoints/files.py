"""Files of tensors: what their headers say, whether that fits, and the tensors themselves, mapped and never copied.

Opening reads headers only, so that a wrong, cut or foreign file is refused before a byte of weights is. No torch at
import: `steadydancer convert --dry-run` answers from the headers.
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
_NUM_SHOWN = 5


class CheckpointError(ComponentsError, ValueError):
    """A file of weights cannot be used; the message says what it is, what is wanted and what to do."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies.

    Attributes:
        file: the file that holds it.
        dtype: its type as safetensors writes it, such as "BF16".
        shape: sizes of its axes.
        offset: of its first byte in the file.
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
        source: what was opened, for messages.
        tensors: name to place, under the names of the file, without a prefix that they all share.
        prefix: that prefix, such as "model.diffusion_model.".
        config: what the `config.json` beside them says; empty without one.
        metadata: free text of the first file's header.
    """

    source: Path
    tensors: Mapping[str, StoredTensor]
    prefix: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, Shape]:
        """Name to shape."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def files(self) -> list[Path]:
        """The weight files, sorted."""
        return sorted({tensor.file for tensor in self.tensors.values()})

    def load(self) -> dict[str, Tensor]:
        """All tensors, mapped from the files: pages are read when they are used."""
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
        CheckpointError: there is nothing to read, a file is damaged, cut short or a pickle, or a shard is missing.
    """
    source = Path(source)
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    for file in weight_files(source):
        stored, told = read_header(file)
        if again := sorted(tensors.keys() & stored.keys()):
            raise CheckpointError(f"{source}: {again[0]} lies in {tensors[again[0]].file.name} and in {file.name}")
        tensors |= stored
        metadata = metadata or told
    prefix = next((p for p in ("model.diffusion_model.", "diffusion_model.") if _all_begin(tensors, p)), "")
    folder = source if source.is_dir() else source.parent
    return Checkpoint(
        source=source,
        tensors={name.removeprefix(prefix): tensor for name, tensor in tensors.items()},
        prefix=prefix,
        config=_config(folder / "config.json") if source.is_dir() or source.suffix == ".json" else {},
        metadata=metadata,
    )


def weight_files(source: Path) -> list[Path]:
    """The safetensors files that belong together: one file, the shards of an index, or those of a folder.

    Raises:
        CheckpointError: there are none, or a shard that the index names is absent.
    """
    if source.is_dir():
        indices = sorted(source.glob("*.safetensors.index.json"))
        files = sorted(source.glob("*.safetensors"))
        if len(indices) == 1 or (not indices and len(files) == 1):
            return weight_files((indices or files)[0])
        if indices or files:
            found = ", ".join(file.name for file in (indices or files)[:4])
            raise CheckpointError(f"{source} holds several sets of weights ({found}): name the one that is meant")
        pickles = [file for file in sorted(source.iterdir()) if file.suffix in PICKLES]
        raise _pickle(pickles[0]) if pickles else CheckpointError(f"{source} holds no safetensors files")
    if source.suffix in PICKLES:
        raise _pickle(source)
    if not source.is_file():
        raise CheckpointError(f"There is no file {source}")
    if source.suffix == ".safetensors":
        return [source]
    if not source.name.endswith(".index.json"):
        raise CheckpointError(f"{source} is neither a safetensors file, nor an index of such, nor a folder")
    try:
        names = sorted({str(name) for name in json.loads(source.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{source} is no index of safetensors files ({error}): fetch it again") from error
    absent = [name for name in names if not (source.parent / name).is_file()]
    if absent or not names:
        raise CheckpointError(
            f"{source} names {len(absent)} of {len(names)} files that are not there ({', '.join(absent[:3])}): "
            "the download is incomplete, fetch them into the same folder"
        )
    return [source.parent / name for name in names]


def read_header(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """(name to place, metadata) of one safetensors file.

    Raises:
        CheckpointError: the file is cut short, or is something else.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        first = opened.read(LENGTH_BYTES)
        length = header_length(first)
        is_cut = len(first) < LENGTH_BYTES or (length <= _MAX_HEADER_BYTES and LENGTH_BYTES + length > size)
        raw = opened.read(length) if not is_cut and length <= _MAX_HEADER_BYTES else b""
    if is_cut:
        raise CheckpointError(f"{file} is cut short: {size:,} bytes do not even hold its header; fetch it again")
    try:
        entries, metadata = parse_header(raw)
    except ValueError as error:
        raise CheckpointError(f"{file} is no safetensors file ({error})") from error
    end = max((entry.stop for entry in entries.values()), default=0)
    if end != size:
        raise CheckpointError(
            f"{file} is cut short or damaged: it has {size:,} bytes and its header says {end:,}; fetch it again"
        )
    return {name: StoredTensor(file, one.dtype, one.shape, one.start) for name, one in entries.items()}, metadata


def check_tensors(given: Mapping[str, Shape], wanted: Mapping[str, Shape], source: object, what: str) -> None:
    """Refuse tensors that are not exactly the wanted ones, naming all that is wrong in one message.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape.
    """
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    misshaped = [
        f"{name} {_text(given[name])} (wanted {_text(wanted[name])})"
        for name in wanted
        if name in given and tuple(given[name]) != tuple(wanted[name])
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(_some(names))}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshaped))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source} is not {what} ({len(wanted)} tensors wanted, {len(given)} given)\n  "
            + "\n  ".join(problems)
            + "\nnothing was loaded; fetch the file again, or give the one that belongs to this model"
        )


def _some(names: Iterable[str]) -> Iterator[str]:
    names = sorted(names, key=lambda name: name.startswith("blocks."))  # the few outside the blocks tell most
    yield from names[:_NUM_SHOWN]
    if len(names) > _NUM_SHOWN:
        yield f"… and {len(names) - _NUM_SHOWN} more"


def _text(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _all_begin(names: Iterable[str], prefix: str) -> bool:
    names = list(names)
    return bool(names) and all(name.startswith(prefix) for name in names)


def _config(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text())) if file.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error})") from error


def _pickle(file: Path) -> CheckpointError:
    return CheckpointError(
        f"{file} is a pickle, which can run code when it is read: give safetensors instead. "
        "(Only the three encoders of an official Wan 2.1 folder are read from .pth, as tensors and nothing else.)"
    )
