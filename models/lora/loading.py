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

from ..checkpoints.files import CheckpointError, check_tensors, open_checkpoint, weight_files
from ..diffusers_internals import LORA_WEIGHT_NAME_SAFE
from .export import POSE_MODULES_FILE
from .files import LoraTensors, base_layer, get_weight, read_lora, weight_names
from .scale import ADAPTER_MODEL

__all__ = ["LoraTensors", "load_lora", "read_lora"]


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
    tensors = read_lora(transformer, _file(source) if source.is_dir() else source)
    if source.is_dir() and (source / POSE_MODULES_FILE).is_file():
        tensors.replaced |= _read_pose_modules(transformer, source / POSE_MODULES_FILE)
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


def _file(folder: Path) -> Path:
    """Find the adapter in a folder: the file named as in diffusers or PEFT, or the only file."""
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


def _add(weight: Tensor, delta: Tensor) -> None:
    weight.add_(delta.to(weight.device, weight.dtype))


def _read_pose_modules(transformer: Any, file: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(file)
    ours = getattr(transformer, "pose_module_names", ())
    names = [name for name in weight_names(transformer) if name.split(".")[0] in ours]
    wanted = {name: tuple(get_weight(transformer, name).shape) for name in names}
    check_tensors(checkpoint.shapes, wanted, file, "the pose modules of this transformer")
    return checkpoint.load()
