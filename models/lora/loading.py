"""LoRA files of other programs, put into our transformer.

Read are diffusers' names (`transformer.…lora_A.weight`), the official ones of LightX2V, ComfyUI, DiffSynth and PEFT
(`diffusion_model.…lora_down.weight`, with `.alpha`, `.diff`, `.diff_b` and `.set_weight`), kohya's and musubi's flat
ones (`lora_unet_blocks_0_self_attn_q.…`), FastVideo's, and LyCORIS' LoKr and LoHa. Every key is used or reported; none
is dropped in silence.
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
    """Add a LoRA to a transformer: W x becomes W x + scale · s · B A x. What it has no layers for stays.

    s is alpha / r, or alpha / √r of a rank-stabilised one. Low-rank pairs of linear layers become an adapter of peft's,
    which can be scaled, fused and unloaded. All else that the file holds cannot be: `diff` and `diff_b` (of norms and
    biases), LoKr and LoHa are added to the weights, pairs of other layers too, and weights that are given whole
    (`set_weight`, and `pose_modules.safetensors` in the same folder) replace ours. The plain Wan's `patch_embedding` is
    the reference image's here; `patch_embedding_fuse` stays as it is.

    Args:
        transformer: a Wan or SteadyDancer transformer; changed in place, or not at all where the file does not fit.
        source: a safetensors file, or a folder with `pytorch_lora_weights.safetensors`, `adapter_model.safetensors` or
            one safetensors file alone.
        adapter_name: peft's name for it; None takes the next free one.
        scale: see above.

    Returns:
        what was found, in our names; `unused` holds the keys that could not be used.

    Raises:
        CheckpointError: the file is damaged, no LoRA, of a kind that is not read, or of another model.
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
    """The adapter in a folder, by the names that diffusers and PEFT give it, or because it is the only file."""
    for name in (LORA_WEIGHT_NAME_SAFE, ADAPTER_MODEL):
        if (folder / name).is_file():
            return folder / name
    found = [file for file in sorted(folder.glob("*.safetensors")) if file.name != POSE_MODULES_FILE]
    if len(found) == 1:
        return found[0]
    if not found:
        return weight_files(folder)[0]  # which says what lies there instead
    there = ", ".join(file.name for file in found[:4])
    raise CheckpointError(
        f"{folder} holds neither {LORA_WEIGHT_NAME_SAFE} nor {ADAPTER_MODEL} nor one safetensors file alone ({there}): "
        "give the file"
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
