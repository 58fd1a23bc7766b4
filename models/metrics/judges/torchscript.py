"""Read the tensors of a TorchScript archive without compiling or running what is in it.

`torch.jit.load` compiles the archive's code. Its parameters, though, are a pickle that refers to files of raw numbers
in the same zip archive. It is read with an unpickler that knows tensors, containers and opaque objects, and refuses
every other name, so that no code of the archive is called.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}
_LISTS = {"build_intlist", "build_tensorlist", "build_doublelist", "build_boollist"}


class _Object:
    """An object of a class of the archive, which is not looked at: only its attributes count."""

    attributes: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def is_torchscript(file: Path) -> bool:
    """Return whether a file is a TorchScript archive: a zip archive with constants beside the data."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(file: Path) -> dict[str, Tensor]:
    """Return all tensors of the archived module by the names that its `state_dict` has, and its tensor attributes.

    Raises:
        UnpicklingError: the archive contains something else than tensors, containers and objects of its own.
        KeyError: a part of the archive is missing.
    """
    with zipfile.ZipFile(file) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).split("/")[0]
        with archive.open(f"{root}/data.pkl") as data:
            module = _Reader(data, archive, root).load()
    return dict(_tensors(module, ""))


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, _Object):
        for key, attribute in value.attributes.items():
            yield from _tensors(attribute, f"{name}.{key}" if name else key)


class _Reader(pickle.Unpickler):
    def __init__(self, data: Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(data)
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Object
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _view,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _type: value,
            ("torch", "device"): str,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch.jit._pickle" and name in _LISTS:
            return list
        raise pickle.UnpicklingError(f"the archive refers to {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the numbers [n] that a tensor refers to as (kind, dtype, key, device, n)."""
        kind, dtype, key = pid[:3]
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"the archive refers to {pid!r}, which is no storage")
        if key not in self._storages:
            numbers = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            self._storages[key] = torch.frombuffer(numbers, dtype=dtype) if numbers else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if prod(size) and not 0 <= offset <= last < len(storage):
        raise pickle.UnpicklingError(f"a tensor of size {tuple(size)} does not fit into {len(storage)} numbers")
    return storage.as_strided(tuple(size), tuple(stride), offset)
