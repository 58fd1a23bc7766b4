"""Identify the transformer in a published file and load its weights into a network.

The kind of model is read from the tensors' names and shapes, never from file names. `transformer_loading` chooses the
class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .files import Checkpoint, CheckpointError, StoredTensor, check_tensors, open_checkpoint
from .key_maps import (
    Shape,
    config_from_official,
    known_official,
    known_ours,
    official_shape,
    plain_shape,
    renamed_from_official,
    renamed_to_official,
)
from .quantisation import SCALE, scale_name, split_scales
from .unsupported_models import POSE_KEYS, reject_unsupported_models

if TYPE_CHECKING:
    import torch

Kind = Literal["wan", "steadydancer"]
Layout = Literal["official", "diffusers"]


@dataclass(frozen=True)
class TransformerFile:
    """A transformer's checkpoint with its kind and configuration.

    Attributes:
        checkpoint: its files and headers.
        kind: plain Wan image-to-video, or SteadyDancer.
        layout: naming of the tensors.
        config: constructor arguments of the class for `kind`.
        scales: scale of each quantised weight, by our name; empty for unquantised weights (`quantisation`).
    """

    checkpoint: Checkpoint
    kind: Kind
    layout: Layout
    config: Mapping[str, Any]
    scales: Mapping[str, StoredTensor] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """Our name of each tensor by its name in the file."""
        keys = self.checkpoint.tensors
        return renamed_from_official(keys) if self.layout == "official" else {key: key for key in keys}

    def stored(self) -> dict[str, tuple[StoredTensor, Shape]]:
        """Return (location, our shape) of each tensor by our name."""
        return {
            ours: (
                self.checkpoint.tensors[key],
                plain_shape(key, self.checkpoint.tensors[key].shape)
                if self.layout == "official"
                else self.checkpoint.tensors[key].shape,
            )
            for key, ours in self.names.items()
        }


def read_transformer(
    source: str | Path, kind: Kind | None = None, num_attention_heads: int | None = None
) -> TransformerFile:
    """Identify a checkpoint from its headers; `check_complete` then compares its tensors with a network's.

    Args:
        source: safetensors file, index of safetensors files, or folder with either; official or diffusers' names.
        kind: expected kind; None accepts either.
        num_attention_heads: used if no `config.json` specifies it; None means width / 128.

    Raises:
        CheckpointError: it cannot be read, or is another model.
    """
    checkpoint, scales = split_scales(open_checkpoint(source))
    reject_unsupported_models(checkpoint)
    layout = _layout(checkpoint)
    # The naive baseline (pose latents added to the image's) differs from plain Wan only in its configuration.
    is_ours = checkpoint.config.get("_class_name") == "SteadyDancerTransformer3DModel"
    has_pose_keys = any(name.startswith(POSE_KEYS) for name in checkpoint.tensors)
    found: Kind = "steadydancer" if is_ours or has_pose_keys else "wan"
    if kind is not None and found != kind:
        raise CheckpointError(
            f"{source} is a SteadyDancer checkpoint, but a base is expected: a plain Wan 2.1 I2V transformer. "
            "Pass a trained checkpoint with --from or --checkpoint."
            if found == "steadydancer"
            else f"{source} is a plain Wan 2.1 I2V checkpoint without pose modules, but SteadyDancer weights are "
            "expected: pass it as --base, or initialise from it with `SteadyDancerTransformer3DModel.from_wan`."
        )
    return TransformerFile(checkpoint, found, layout, _constructor(checkpoint, layout, num_attention_heads), scales)


def check_complete(opened: TransformerFile, wanted: Mapping[str, Shape]) -> None:
    """Check that a checkpoint has exactly the expected tensors, under the names of its layout.

    Raises:
        CheckpointError: tensors are missing, unexpected or mis-shaped.
    """
    name = "SteadyDancer" if opened.kind == "steadydancer" else "Wan 2.1 I2V"
    what = f"a {name} checkpoint with {opened.layout} names"
    check_tensors(opened.checkpoint.shapes, wanted, opened.checkpoint.source, what)


def transformer_config(source: str | Path) -> dict[str, Any]:
    """Return the constructor arguments of the transformer in a file or folder, from headers alone and without torch.

    Raises:
        CheckpointError: it cannot be read, or is another model.
    """
    checkpoint, _ = split_scales(open_checkpoint(source))
    reject_unsupported_models(checkpoint)
    return _constructor(checkpoint, _layout(checkpoint), None)


def load_weights(
    model: Any, opened: TransformerFile, dtype: torch.dtype | None, device: str | torch.device = "cpu"
) -> Any:
    """Load a checkpoint's tensors into a network and set eval mode; copy only if dtype or device change.

    Quantised weights stay quantised, in layers that dequantise them when they are used.

    Args:
        model: network with `opened.config`, without weights.
        opened: a complete checkpoint.
        dtype: as for `transformer_loading.load_transformer`.
        device: device of the weights, which are moved one at a time.

    Raises:
        CheckpointError: a scale of a quantised weight is not a positive number.
    """
    import torch

    tensors = opened.checkpoint.load()
    state = _load_quantised(model, opened, tensors, device)
    for key, ours in opened.names.items():
        tensor = tensors.pop(key)
        if ours in opened.scales:
            continue
        wanted = _dtype(model, ours, tensor.dtype, dtype)
        state[ours] = tensor.reshape(plain_shape(key, tensor.shape) if opened.layout == "official" else tensor.shape)
        state[ours] = state[ours].to(device, wanted if tensor.is_floating_point() else tensor.dtype)
    with torch.no_grad():
        model.load_state_dict(state, assign=True)
    return model.to(device).eval()


def _load_quantised(model: Any, opened: TransformerFile, tensors: dict[str, Any], device: Any) -> dict[str, Any]:
    """Take the quantised weights out of `tensors` and return them with their scales; replace their layers."""
    if not opened.scales:
        return {}
    from ..quantised_linear import use_quantised_layers

    use_quantised_layers(model, opened.scales)
    scales = {scale_name(name): tensor for name, tensor in opened.scales.items()}
    state: dict[str, Any] = {}
    for name, scale in replace(opened.checkpoint, tensors=scales).load().items():
        if not (scale.isfinite() & (scale > 0)).all():
            raise CheckpointError(
                f"{opened.checkpoint.source} is damaged: {name} has values that are not positive numbers; convert the "
                "unquantised checkpoint again"
            )
        weight = name.removesuffix(SCALE) + "weight"
        state |= {name: scale.to(device), weight: tensors[weight].to(device)}
    return state


def checkpoint_shapes(model: Any, layout: Layout) -> dict[str, Shape]:
    """Return the shapes by name of a complete checkpoint of a network in a layout."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if layout == "diffusers":
        return shapes
    names = renamed_to_official(shapes)
    return {names[name]: official_shape(names[name], shape) for name, shape in shapes.items()}


def create_empty(transformer: Any, config: Mapping[str, Any]) -> Any:
    """Build a transformer of a class without weights: meta parameters, but computed buffers (the rotary tables).

    Raises:
        CheckpointError: the class does not accept `config`.
    """
    from accelerate import init_empty_weights

    from ..diffusers_internals import no_init_weights

    try:
        with no_init_weights(), init_empty_weights():
            return transformer(**config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{transformer.__name__} does not accept {dict(config)}: {error}") from error


def _layout(checkpoint: Checkpoint) -> Layout:
    is_ours = len(known_ours(checkpoint.tensors)) > len(known_official(checkpoint.tensors))
    return "diffusers" if is_ours else "official"


def _constructor(checkpoint: Checkpoint, layout: Layout, num_attention_heads: int | None) -> dict[str, Any]:
    """Return constructor arguments from diffusers' `config.json`, or from the shapes and Wan's `config.json`."""
    stored = checkpoint.config
    if layout == "diffusers" and "num_attention_heads" in stored:
        return {name: value for name, value in stored.items() if not name.startswith("_")}
    shapes = checkpoint.tensors if layout == "official" else _official_names(checkpoint)
    config = config_from_official(shapes, num_attention_heads or stored.get("num_heads"))
    extra = {"eps": stored["eps"]} if "eps" in stored else {}
    return config | extra | stored.get("steadydancer", {})


def _official_names(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    known = known_ours(checkpoint.tensors)
    return {official: checkpoint.tensors[name] for name, official in renamed_to_official(known).items()}


def _dtype(model: Any, name: str, stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    import torch

    from ..diffusers_internals import float32_modules

    if name.startswith("pose_modulation."):
        return torch.float32
    if wanted is None:
        return torch.bfloat16 if stored.itemsize == 1 else stored  # no operator computes in float8
    is_kept = any(module in name.split(".") for module in float32_modules(model))
    return torch.float32 if is_kept else wanted
