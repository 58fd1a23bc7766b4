"""Export adapters under the names that diffusers and ComfyUI read.

diffusers: `transformer.` + diffusers' layer + `.lora_A.weight`, `.lora_B.weight`, alpha in the header; pose modules,
which are trained in full, in a separate file, because diffusers' loader accepts only pairs. ComfyUI: `diffusion_model.`
+ official layer + `.lora_down.weight`, `.lora_up.weight`, `.alpha`; the pose modules in the same file as `.set_weight`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...datasets.storage.atomic import atomic_write
from ..checkpoints.conversion_output import Conversion, LoraLayout, output_tensor
from ..checkpoints.files import CheckpointError, StoredTensor, open_checkpoint
from ..checkpoints.key_maps import POSE_MODULE_NAMES, official_shape, renamed_to_official
from ..checkpoints.streaming import OutputTensor, unchanged, write_safetensors
from ..transformer_loading import open_transformer
from .scale import HEADER_KEY, AdapterScale, adapter_config, read_scale

LORA_FILES = {"diffusers": "pytorch_lora_weights.safetensors", "comfyui": "steadydancer_lora_comfyui.safetensors"}
POSE_MODULES_FILE = "pose_modules.safetensors"


def export_lora(source: Any, path: str | Path, layout: LoraLayout = "diffusers") -> list[Path]:
    """Write an adapter for diffusers or ComfyUI; `load_lora` reads both layouts with the same outputs.

    Args:
        source: folder of a training checkpoint (with `lora/` and `transformer/`), folder or file of an adapter, or a
            transformer with an adapter "default".
        path: safetensors file to write. diffusers' layout adds `pose_modules.safetensors` in the same folder.
        layout: naming of the tensors.

    Returns:
        paths of the files written.

    Raises:
        CheckpointError: `source` has no adapter.
    """
    if not isinstance(source, str | Path):
        with TemporaryDirectory(dir=Path(path).parent, prefix=".lora-") as scratch:
            _save(source, Path(scratch))
            return export_lora(scratch, path, layout)
    plan = plan_lora(Path(source), None, layout)
    written = []
    for name, tensors in plan.shards.items():
        file = Path(path).with_name(POSE_MODULES_FILE) if name == POSE_MODULES_FILE else Path(path)
        with atomic_write(file) as aside:
            write_safetensors(aside, tensors, plan.metadata.get(name, {}))
        written.append(file)
    return written


def _save(transformer: Any, folder: Path) -> None:
    """Save the adapter and the pose modules of a network in memory, as in a training checkpoint."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = getattr(transformer, "peft_config", {}).get("default")
    if config is None:
        raise CheckpointError(
            f'{type(transformer).__name__} has no adapter "default" to export: load or add one under that name'
        )
    metadata = json.dumps(config.to_dict(), sort_keys=True, default=sorted)
    pairs = get_peft_model_state_dict(transformer, adapter_name="default")
    (folder / "lora").mkdir()
    save_file(_contiguous(pairs), folder / "lora" / LORA_FILES["diffusers"], {"format": "pt", HEADER_KEY: metadata})
    pose = {
        name: tensor
        for name, tensor in transformer.state_dict().items()
        if name.split(".")[0] in getattr(transformer, "pose_module_names", ())
    }
    if pose:
        save_file(_contiguous(pose), folder / POSE_MODULES_FILE)


def _contiguous(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def plan_lora(source: Path, dtype: str | None, layout: LoraLayout) -> Conversion:
    """Plan the export of a checkpoint's adapter and of its fully trained pose modules.

    diffusers' loader accepts only low-rank pairs, so its layout has the pose modules in a separate file. ComfyUI
    accepts full tensors as `set_weight`.

    Args:
        source: folder of the checkpoint, or folder or file of the adapter.
        dtype: dtype of the pairs; None keeps the stored dtype.
        layout: naming of the tensors.

    Raises:
        CheckpointError: there is no adapter, or it was not written by a training stage.
    """
    folder = source if source.is_dir() else source.parent
    candidates = [source] if source.is_file() else [f / LORA_FILES["diffusers"] for f in (folder / "lora", folder)]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{source} contains no adapter (no lora/{LORA_FILES['diffusers']}): pass a checkpoint of stage 1 or 3; "
            "stage 2 trains all weights"
        )
    adapter = open_checkpoint(file)
    pairs = {name.removeprefix("transformer."): tensor for name, tensor in adapter.tensors.items()}
    unknown = [name for name in pairs if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if unknown or not pairs:
        raise CheckpointError(
            f"{file} is not an adapter of a training stage ({', '.join(unknown[:3]) or 'it is empty'})"
        )
    scale, config = read_scale(adapter), adapter_config(adapter)
    outputs = {name: output_tensor(tensor, tensor.shape, dtype) for name, tensor in pairs.items()}
    pose = _pose_modules(folder)
    plan = Conversion(sources=sorted({file, *(tensor.file for tensor in pose.values())}))
    name = LORA_FILES[layout]
    if layout == "diffusers":
        plan.shards[name] = {f"transformer.{key}": tensor for key, tensor in outputs.items()}
        if config:
            plan.metadata[name] = {HEADER_KEY: json.dumps({f"transformer.{k}": v for k, v in config.items()})}
        if pose:
            plan.shards[POSE_MODULES_FILE] = unchanged(pose)
        return plan
    plan.shards[name] = _comfyui_names(outputs, scale) | _whole_tensors(unchanged(pose))
    return plan


def _comfyui_names(pairs: Mapping[str, OutputTensor], scale: AdapterScale) -> dict[str, OutputTensor]:
    """Rename pairs as `diffusion_model.` + official layer + `.lora_down.weight`, `.lora_up.weight`, `.alpha`.

    Readers divide `.alpha` by the rank, so for a rank-stabilised adapter it is converted to give the same scale.
    """
    out = {}
    for key, tensor in pairs.items():
        layer, _, side = key.removesuffix(".weight").rpartition(".lora_")
        (official,) = renamed_to_official([f"{layer}.weight"]).values()
        official = f"diffusion_model.{official.removesuffix('.weight')}"
        out[f"{official}.lora_{'down' if side == 'A' else 'up'}.weight"] = tensor
        if side == "A":
            rank = tensor.shape[0]
            strength = scale.strength([layer], rank)
            alpha = rank if strength is None else strength * rank
            out[f"{official}.alpha"] = OutputTensor(struct.pack("<f", alpha), (), "F32")
    return out


def _whole_tensors(tensors: Mapping[str, OutputTensor]) -> dict[str, OutputTensor]:
    names = renamed_to_official(tensors)
    return {
        f"diffusion_model.{names[name].removesuffix('.weight')}.set_weight": OutputTensor(
            tensor.source, official_shape(names[name], tensor.shape), tensor.dtype
        )
        for name, tensor in tensors.items()
    }


def _pose_modules(folder: Path) -> dict[str, StoredTensor]:
    """Locate the fully trained pose modules next to an adapter; empty if there is no transformer."""
    if (folder / POSE_MODULES_FILE).is_file():
        return dict(open_checkpoint(folder / POSE_MODULES_FILE).tensors)
    folders = [path for path in (folder / "transformer", folder.parent / "transformer") if path.is_dir()]
    if not folders:
        return {}
    stored = open_transformer(folders[0], kind="steadydancer").stored()
    return {name: place for name, (place, _) in stored.items() if name.split(".")[0] in POSE_MODULE_NAMES}
