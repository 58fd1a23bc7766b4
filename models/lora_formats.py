"""LoRA files of other programs, put into our transformer, and ours, written so that other programs read them.

Read: diffusers' names (`transformer.…lora_A.weight`), the official names that LightX2V and ComfyUI use
(`diffusion_model.…lora_down.weight`, with `.alpha`, `.diff`, `.diff_b` and `.set_weight`), and musubi's flat ones
(`lora_unet_blocks_0_self_attn_q.…`). Every key is used or reported; none is dropped in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from .checkpoints import Checkpoint, CheckpointError, check_tensors, open_checkpoint
from .lora_export import POSE_MODULES_FILE
from .state_dict import Shape, known_ours, plain_shape, renamed_to_official

_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "lora_unet_")
_KEY = re.compile(
    r"(?P<name>.+?)\.(?:"
    r"(?P<down>lora_down\.weight|lora_A(?:\.\w+)?\.weight)|(?P<up>lora_up\.weight|lora_B(?:\.\w+)?\.weight)|"
    r"(?P<up_bias>lora_B(?:\.\w+)?\.bias)|(?P<alpha>alpha)|(?P<diff>diff)|(?P<diff_bias>diff_b)|(?P<set>set_weight))"
)
_OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "lora_mid": "CP",
}


@dataclass
class LoraTensors:
    """A LoRA file, in our names.

    Attributes:
        pairs: weight's name to (A [r, in], B [out, r], alpha / r).
        deltas: weight's name to what is added to it.
        replaced: weight's name to what takes its place.
        left_out: keys of the file that cannot be used here, with the reason.
    """

    pairs: dict[str, tuple[Tensor, Tensor, float]] = field(default_factory=dict)
    deltas: dict[str, Tensor] = field(default_factory=dict)
    replaced: dict[str, Tensor] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def load_lora(transformer: Any, source: str | Path, adapter_name: str | None = None, scale: float = 1.0) -> LoraTensors:
    """Add a LoRA to a transformer: W x becomes W x + scale · (alpha / r) · B A x. What it has no layers for stays.

    Low-rank pairs of linear layers become an adapter of peft's, which can be scaled, fused and unloaded. All else that
    the file holds cannot be: `diff` and `diff_b` (of norms and biases) are added to the weights, pairs of other layers
    too, and weights that are given whole (`set_weight`, and `pose_modules.safetensors` in the same folder) replace
    ours. The plain Wan's `patch_embedding` is the reference image's here; `patch_embedding_fuse` stays as it is.

    Args:
        transformer: a Wan or SteadyDancer transformer; changed in place, or not at all where the file does not fit.
        source: a safetensors file, or a folder with `pytorch_lora_weights.safetensors`.
        adapter_name: peft's name for it; None takes the next free one.
        scale: see above.

    Returns:
        what was found, in our names; `left_out` holds the keys that could not be used.

    Raises:
        CheckpointError: the file is damaged, no LoRA, of another kind, or of another model.
    """
    source = Path(source)
    tensors = read_lora(transformer, source / LORA_WEIGHT_NAME_SAFE if source.is_dir() else source)
    if source.is_dir() and (source / POSE_MODULES_FILE).is_file():
        tensors.replaced |= _read_pose_modules(transformer, source / POSE_MODULES_FILE)
    adapter: dict[str, Tensor] = {}
    for name, (down, up, strength) in tensors.pairs.items():
        layer = name.removesuffix(".weight")
        if isinstance(_without_adapter(transformer.get_submodule(layer)), nn.Linear):
            adapter[f"{layer}.lora_A.weight"] = down
            adapter[f"{layer}.lora_B.weight"] = up if strength * scale == 1 else up.float() * (strength * scale)
        else:
            product = (up.flatten(1).float() @ down.flatten(1).float()) * strength
            tensors.deltas[name] = tensors.deltas.get(name, torch.zeros(())) + product.reshape(
                _weight(transformer, name).shape
            )
    if adapter:
        transformer.load_lora_adapter(adapter, prefix=None, adapter_name=adapter_name)
    with torch.no_grad():
        for name, delta in tensors.deltas.items():
            weight = _weight(transformer, name)
            weight.add_((scale * delta.float()).to(weight.device, weight.dtype))
        for name, tensor in tensors.replaced.items():
            _weight(transformer, name).copy_(tensor)
    return tensors


def read_lora(transformer: Any, file: str | Path) -> LoraTensors:
    """The tensors of a LoRA file in the transformer's names; nothing is changed.

    Raises:
        CheckpointError: as for `load_lora`.
    """
    checkpoint = open_checkpoint(file)
    targets = _targets(transformer)
    parsed, kinds = {}, {kind for part, kind in _OTHER_KINDS.items() if any(part in key for key in checkpoint.tensors)}
    if kinds:
        raise CheckpointError(f"{file} is a {' and '.join(sorted(kinds))} adapter; only LoRA (and diffs) are read")
    for key in checkpoint.tensors:
        match = _KEY.fullmatch(key)
        name = targets.get(_stripped(match["name"])) if match else None
        if match and name:
            parsed[key] = (name, next(role for role, part in match.groupdict().items() if part and role != "name"))
    if not any(role in ("down", "diff", "diff_bias", "set") for _, role in parsed.values()):
        begin = ", ".join(list(checkpoint.tensors)[:3])
        raise CheckpointError(f"{file} is no LoRA for this transformer: none of its keys belongs to a layer ({begin})")
    return _collect(transformer, checkpoint, parsed)


def _collect(transformer: Any, checkpoint: Checkpoint, parsed: Mapping[str, tuple[str, str]]) -> LoraTensors:
    """Check all shapes, then sort the tensors by what is done with them."""
    found = LoraTensors()
    by_role = {(name, role): key for key, (name, role) in parsed.items()}
    wanted: dict[str, Shape] = {}
    for key, (name, role) in parsed.items():
        shape = checkpoint.tensors[key].shape
        expected = _expected(transformer, name, role, shape)
        if expected is None:
            found.left_out[key] = f"{name} has no bias here"
        elif role == "alpha" and (name, "down") not in by_role:
            found.left_out[key] = "there is no pair that it belongs to"
        elif name == "patch_embedding.weight" and role == "diff" and shape != expected:
            found.left_out[key] = f"it is of a model with {shape[1]} input channels"
        else:
            wanted[key] = expected
        other = {"down": "up", "up": "down"}.get(role)
        if other and (name, other) not in by_role:
            wanted[re.sub(r"(lora_)(down|up|A|B)\b", lambda m: m[1] + _OPPOSITE[m[2]], key)] = ()
    given = {key: shape for key, shape in checkpoint.shapes.items() if key not in found.left_out}
    check_tensors(given, wanted, checkpoint.source, "a LoRA for this transformer")

    tensors = checkpoint.load()
    metadata = _peft_config(checkpoint)
    for key, (name, role) in sorted(parsed.items(), key=lambda row: row[1][1] != "down"):  # pairs before their biases
        if key in found.left_out:
            continue
        tensor = tensors[key]
        bias = re.sub(r"weight$", "bias", name)
        if role == "down":
            alpha = tensors[by_role[name, "alpha"]].item() if (name, "alpha") in by_role else None
            found.pairs[name] = (
                tensor,
                tensors[by_role[name, "up"]],
                _strength(name, tensor.shape[0], alpha, metadata),
            )
        elif role == "up_bias":
            strength = found.pairs[name][2] if name in found.pairs else 1.0
            found.deltas[bias] = tensor * strength
        elif role in ("diff", "diff_bias"):
            target = name if role == "diff" else bias
            found.deltas[target] = tensor.reshape(_weight(transformer, target).shape)
        elif role == "set":
            found.replaced[name] = tensor.reshape(_weight(transformer, name).shape)
    return found


_OPPOSITE = {"down": "up", "up": "down", "A": "B", "B": "A"}


def _expected(transformer: Any, name: str, role: str, shape: Shape) -> Shape | None:
    """The shape that a tensor of that role must have for the weight `name`; None where the layer has no bias."""
    weight = _weight(transformer, name)
    if role == "alpha":
        return () if shape == () else (1,)
    if role in ("up_bias", "diff_bias"):
        bias = re.sub(r"weight$", "bias", name)
        return tuple(_weight(transformer, bias).shape) if _has(transformer, bias) else None
    if role in ("diff", "set"):
        official = next(iter(renamed_to_official(known_ours([name])).values()), name)
        same = plain_shape(official, shape) == tuple(weight.shape)  # the released form of the alignment unit's layers
        return shape if same else tuple(weight.shape)
    rank = shape[0] if role == "down" and shape else (shape[1] if len(shape) > 1 else 1)
    rows = (rank, *weight.shape[1:]) if role == "down" else (weight.shape[0], rank, *[1] * (weight.ndim - 2))
    flat = (rows[0], int(torch.Size(rows[1:]).numel()))
    return shape if shape == flat else rows


def _targets(transformer: Any) -> dict[str, str]:
    """Every name that a layer or weight may have in a file, to the weight's own: ours, the official, and both flat."""
    targets = {}
    for name in _weights(transformer):
        names = [name, *renamed_to_official(known_ours([name])).values()]
        names += [alias.removesuffix(".weight") for alias in names if alias.endswith(".weight")]
        for alias in names:
            targets[alias] = targets[alias.replace(".", "_")] = name
    return targets


def _stripped(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _weights(transformer: Any) -> list[str]:
    names = [name for name, _ in transformer.named_parameters() if ".lora_" not in name]
    return [name.replace(".base_layer.", ".") for name in names]


def _without_adapter(module: nn.Module) -> Any:
    return getattr(module, "base_layer", module)


def _has(transformer: Any, name: str) -> bool:
    module, _, leaf = name.rpartition(".")
    return getattr(_without_adapter(transformer.get_submodule(module)), leaf, None) is not None


def _weight(transformer: Any, name: str) -> Tensor:
    module, _, leaf = name.rpartition(".")
    weight: Tensor = getattr(_without_adapter(transformer.get_submodule(module)), leaf)
    return weight


def _peft_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """What diffusers and peft write of an adapter into the header; empty without it."""
    told = json.loads(checkpoint.metadata.get(LORA_ADAPTER_METADATA_KEY, "{}"))
    return {key.removeprefix("transformer."): value for key, value in told.items()}


def _strength(name: str, rank: int, alpha: float | None, config: Mapping[str, Any]) -> float:
    """Alpha / rank of a layer: from its own key, else from the header, else 1."""
    if alpha is None and "lora_alpha" in config:
        pattern: dict[str, float] = config.get("alpha_pattern") or {}
        layer = name.removesuffix(".weight")
        alpha = pattern.get(get_pattern_key(list(pattern), layer), config["lora_alpha"])
        if config.get("use_rslora"):
            return float(alpha) / rank**0.5
    return 1.0 if alpha is None else float(alpha) / rank


def _read_pose_modules(transformer: Any, file: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(file)
    ours = getattr(transformer, "pose_module_names", ())
    names = [name for name in _weights(transformer) if name.split(".")[0] in ours]
    wanted = {name: tuple(_weight(transformer, name).shape) for name in names}
    check_tensors(checkpoint.shapes, wanted, file, "the pose modules of this transformer")
    return checkpoint.load()
