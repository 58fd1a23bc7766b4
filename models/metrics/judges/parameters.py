"""Read published parameters into a judge's network, completely or not at all.

No file is executed: a pickle is read as tensors and plain containers, a TorchScript archive by `torchscript`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor, nn

from ....datasets.arrays import Floats32, Frames
from ...weights import WeightsError
from .torchscript import is_torchscript, read_torchscript

_MAX_NAMES = 3


def file_of(weights: Path, names: Sequence[str]) -> Path:
    """Return `weights` if it is a file, else the first of the files `names` in that folder.

    Raises:
        WeightsError: there is none; the message lists what was looked for and what is there.
    """
    if weights.is_file():
        return weights
    for name in names:
        if (weights / name).is_file():
            return weights / name
    found = ", ".join(sorted(path.name for path in weights.iterdir())) if weights.is_dir() else "no such folder"
    raise WeightsError(f"{weights} has none of {', '.join(names)} ({found or 'it is empty'}): put one of them there.")


def read_parameters(file: Path) -> dict[str, Tensor]:
    """Read tensors by name from a `.safetensors` file, a pickled state dictionary or a TorchScript archive.

    A state dictionary inside `state_dict` is unwrapped, and a prefix `module.` of all names is dropped.

    Raises:
        WeightsError: the file is damaged, or contains something else than named tensors.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        elif is_torchscript(file):
            state = read_torchscript(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("not all of its entries are tensors")
    except (UnpicklingError, OSError, EOFError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file} cannot be read as parameters ({error}): get the published file again.") from error
    except Exception as error:  # safetensors' own error has no public base class
        if type(error).__name__ != "SafetensorError":
            raise
        raise WeightsError(f"{file} cannot be read as parameters ({error}): get the published file again.") from error
    prefix = "module." if state and all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def load_parameters(network: nn.Module, parameters: Mapping[str, Tensor], file: Path, what: str) -> None:
    """Fill `network` with `parameters` in its own dtype.

    Args:
        network: a network whose parameters have the published names.
        parameters: exactly the network's; of any floating dtype.
        file: for messages.
        what: name of the network, for messages.

    Raises:
        WeightsError: a parameter is missing, unexpected or of another shape; the message names some of them.
    """
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in parameters.items()}
    both = own.keys() & given.keys()
    complaints = {
        "missing": sorted(own.keys() - given.keys()),
        "unexpected": sorted(given.keys() - own.keys()),
        "of another shape": [
            f"{name} {given[name]}, not {own[name]}" for name in sorted(both) if own[name] != given[name]
        ],
    }
    found = [
        f"{len(names)} {kind} ({', '.join(names[:_MAX_NAMES])}{', …' if len(names) > _MAX_NAMES else ''})"
        for kind, names in complaints.items()
        if names
    ]
    if found:
        raise WeightsError(f"{file} does not contain {what}'s parameters: {'; '.join(found)}. Use the published file.")
    network.load_state_dict(dict(parameters))


def in_batches(frames: Frames, size: int, compute: Callable[[Frames], Tensor], width: int) -> Floats32:
    """Compute features [F, width] of frames, at most `size` at a time, without gradients; float32 on the CPU."""
    features = np.empty((len(frames), width), np.float32)
    with torch.inference_mode():
        for start in range(0, len(frames), size):
            features[start : start + size] = compute(frames[start : start + size]).float().cpu().numpy()
    return features
