"""Load LoRA files of other programs into our transformer.

Supported are diffusers' names (`transformer.…lora_A.weight`), the official names of LightX2V, ComfyUI, DiffSynth and
PEFT (`diffusion_model.…lora_down.weight`, with `.alpha`, `.diff`, `.diff_b` and `.set_weight`), the flat names of kohya
and musubi (`lora_unet_blocks_0_self_attn_q.…`), FastVideo's names, and LyCORIS' LoKr and LoHa. Every key is either used
or reported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...datasets.storage import is_address, local_folder, location
from ..checkpoints.files import CheckpointError, check_tensors, open_checkpoint, weight_files
from ..diffusers_internals import LORA_WEIGHT_NAME_SAFE
from ..quantised_linear import QuantisedLinear
from ..weights.download import WeightsError
from ..weights.hub import hub_file
from .export import POSE_MODULES_FILE
from .files import LoraTensors, base_layer, get_weight, read_lora, weight_names
from .scale import ADAPTER_MODEL

__all__ = ["LoraTensors", "find_adapter", "load_lora", "read_lora", "resolve_adapter"]


def load_lora(transformer: Any, source: str | Path, adapter_name: str | None = None, scale: float = 1.0) -> LoraTensors:
    """Add a LoRA to a transformer: W x becomes W x + scale · s · B A x; other layers do not change.

    s is alpha / r, or alpha / √r for a rank-stabilised LoRA. Low-rank pairs of linear layers become a PEFT adapter,
    which can be scaled, fused and unloaded. Other tensors cannot: `diff` and `diff_b` (of norms and biases), LoKr, LoHa
    and pairs of other layers are added to the weights; full weights (`set_weight`, and `pose_modules.safetensors` in
    the same folder) replace ours. A change of plain Wan's `patch_embedding` applies to our `patch_embedding`, which
    embeds the reference image; `patch_embedding_fuse` does not change.

    Args:
        transformer: a Wan or SteadyDancer transformer; modified in place, or unchanged if the file does not fit.
        source: safetensors file, or folder with `pytorch_lora_weights.safetensors`, `adapter_model.safetensors` or a
            single safetensors file.
        adapter_name: PEFT's name of the adapter; None uses the next free name.
        scale: factor of the whole change.

    Returns:
        tensors of the file under our names; `unused` lists the keys that were not applied.

    Raises:
        CheckpointError: the file is damaged, not a LoRA, of an unsupported kind, or for another model.
    """
    source = Path(source)
    tensors = read_lora(transformer, find_adapter(source))
    if source.is_dir() and (source / POSE_MODULES_FILE).is_file():
        tensors.replaced |= _read_pose_modules(transformer, source / POSE_MODULES_FILE)
    _check_changeable(transformer, source, tensors)
    adapter: dict[str, Tensor] = {}
    for name, (down, up, strength) in tensors.pairs.items():
        layer = name.removesuffix(".weight")
        if isinstance(base_layer(transformer.get_submodule(layer)), nn.Linear):
            adapter[f"{layer}.lora_A.weight"] = down
            adapter[f"{layer}.lora_B.weight"] = up if strength * scale == 1 else up.float() * (strength * scale)
        else:
            product = (up.flatten(1).float() @ down.flatten(1).float()) * strength
            before = tensors.deltas.get(name, torch.zeros(())).float()
            tensors.deltas[name] = before + product.reshape(get_weight(transformer, name).shape)
    if adapter:
        transformer.load_lora_adapter(adapter, prefix=None, adapter_name=adapter_name)
    with torch.no_grad():
        for name, delta in tensors.deltas.items():
            _add(get_weight(transformer, name), scale * delta.float())
        for name, change in tensors.products.items():
            _add(get_weight(transformer, name), scale * change.delta())
        for name, tensor in tensors.replaced.items():
            get_weight(transformer, name).copy_(tensor)
    return tensors


def _check_changeable(transformer: Any, source: Path, tensors: LoraTensors) -> None:
    """Check that no tensor of a LoRA must be added to, or replace, a quantised weight; pairs remain beside it."""
    changed = [name for name in (*tensors.deltas, *tensors.products, *tensors.replaced) if name.endswith(".weight")]
    for name in changed:
        layer = base_layer(transformer.get_submodule(name.removesuffix(".weight")))
        if isinstance(layer, QuantisedLinear):
            raise CheckpointError(
                f"{source} changes {name} itself, which is quantised: load it into the checkpoint that was quantised"
            )


def find_adapter(source: Path) -> Path:
    """Return the file of an adapter: `source`, or in a folder the file named as in diffusers or PEFT, or the only one.

    Raises:
        CheckpointError: the folder contains no such file, or several.
    """
    if not source.is_dir():
        return source
    folder = source
    for name in (LORA_WEIGHT_NAME_SAFE, ADAPTER_MODEL):
        if (folder / name).is_file():
            return folder / name
    found = [file for file in sorted(folder.glob("*.safetensors")) if file.name != POSE_MODULES_FILE]
    if len(found) == 1:
        return found[0]
    if not found:
        return weight_files(folder)[0]  # raises an error that names the files found
    names = ", ".join(file.name for file in found[:4])
    raise CheckpointError(
        f"{folder} contains neither {LORA_WEIGHT_NAME_SAFE} nor {ADAPTER_MODEL} nor a single safetensors file "
        f"({names}): pass the path of one file"
    )


def resolve_adapter(source: str) -> Path:
    """Return the local file or folder of a LoRA: a path, an address on a store, or OWNER/NAME/FILE on the hub.

    Raises:
        CheckpointError: there is no such file, and the hub does not have it.
    """
    place = location(source)
    if place.is_dir():
        return local_folder(place, ["*.safetensors", "*.json"])
    if place.is_file():
        return local_folder(place.parent, [place.name]) / place.name
    parts = source.split("/", 2)
    if is_address(source) or len(parts) != 3 or not source.endswith(".safetensors"):
        raise CheckpointError(
            f"the LoRA {source} does not exist: pass a safetensors file, or OWNER/NAME/FILE on the hub"
        )
    try:
        return hub_file("/".join(parts[:2]), parts[2])
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:  # the hub client raises its own errors and those of requests, httpx and the system
        raise CheckpointError(
            f"the LoRA {source} is not a file and cannot be downloaded from the model hub ({type(error).__name__}): "
            "pass a local safetensors file"
        ) from error


def _add(weight: Tensor, delta: Tensor) -> None:
    weight.add_(delta.to(weight.device, weight.dtype))


def _read_pose_modules(transformer: Any, file: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(file)
    ours = getattr(transformer, "pose_module_names", ())
    names = [name for name in weight_names(transformer) if name.split(".")[0] in ours]
    wanted = {name: tuple(get_weight(transformer, name).shape) for name in names}
    check_tensors(checkpoint.shapes, wanted, file, "the pose modules of this transformer")
    return checkpoint.load()
