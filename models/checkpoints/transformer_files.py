"""Transformers out of published files: what a file holds, why some cannot be used, and filling a network from one.

All is decided on the tensors' names and shapes, never on the names of files. `transformer_loading` knows the classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from .other_models import POSE_KEYS, refuse_other_models

if TYPE_CHECKING:
    import torch

Kind = Literal["wan", "steadydancer"]
Layout = Literal["official", "diffusers"]


@dataclass(frozen=True)
class TransformerFile:
    """A transformer's checkpoint, understood.

    Attributes:
        checkpoint: its files and headers.
        kind: plain Wan image-to-video, or SteadyDancer.
        layout: whose names the tensors have.
        config: constructor arguments of the class that `kind` says.
    """

    checkpoint: Checkpoint
    kind: Kind
    layout: Layout
    config: Mapping[str, Any]

    @property
    def names(self) -> dict[str, str]:
        """The file's name to ours."""
        keys = self.checkpoint.tensors
        return renamed_from_official(keys) if self.layout == "official" else {key: key for key in keys}

    def stored(self) -> dict[str, tuple[StoredTensor, Shape]]:
        """Our name to (place, our shape)."""
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
    """Read what a checkpoint is from its headers; `check_complete` compares its tensors with a network's.

    Args:
        source: a safetensors file, an index of such, or a folder with either; official or diffusers' names.
        kind: what is expected; None takes either.
        num_attention_heads: where no `config.json` says it; None means width / 128.

    Raises:
        CheckpointError: it cannot be read, or is another model.
    """
    checkpoint = open_checkpoint(source)
    refuse_other_models(checkpoint)
    layout = _layout(checkpoint)
    # Of the naive baseline (pose latents added to the image's) only the configuration tells that it is no plain Wan.
    is_ours = checkpoint.config.get("_class_name") == "SteadyDancerTransformer3DModel"
    has_pose_keys = any(name.startswith(POSE_KEYS) for name in checkpoint.tensors)
    found: Kind = "steadydancer" if is_ours or has_pose_keys else "wan"
    if kind is not None and found != kind:
        raise CheckpointError(
            f"{source} is a SteadyDancer checkpoint, where a base is wanted: a plain Wan 2.1 I2V transformer. "
            "What was trained before is given with --from, or as --checkpoint."
            if found == "steadydancer"
            else f"{source} is a plain Wan 2.1 I2V checkpoint, where SteadyDancer weights are wanted (it has no pose "
            "modules): give it as --base, or begin with it by `SteadyDancerTransformer3DModel.from_wan`."
        )
    return TransformerFile(checkpoint, found, layout, _constructor(checkpoint, layout, num_attention_heads))


def check_complete(opened: TransformerFile, wanted: Mapping[str, Shape]) -> None:
    """Refuse a checkpoint that lacks tensors, or holds others than those wanted, under the names of its layout.

    Raises:
        CheckpointError: tensors are missing, unexpected or mis-shaped.
    """
    name = "SteadyDancer" if opened.kind == "steadydancer" else "Wan 2.1 I2V"
    what = f"a {name} checkpoint with {opened.layout} names"
    check_tensors(opened.checkpoint.shapes, wanted, opened.checkpoint.source, what)


def transformer_config(source: str | Path) -> dict[str, Any]:
    """Constructor arguments of the transformer in a file or folder, from headers alone and without torch.

    Raises:
        CheckpointError: it cannot be read, or is another model.
    """
    checkpoint = open_checkpoint(source)
    refuse_other_models(checkpoint)
    return _constructor(checkpoint, _layout(checkpoint), None)


def load_weights(
    model: Any, opened: TransformerFile, dtype: torch.dtype | None, device: str | torch.device = "cpu"
) -> Any:
    """The network in eval mode, with the checkpoint's tensors: mapped, and copied only where type or place change.

    Args:
        model: of `opened.config`, without weights.
        opened: a whole checkpoint.
        dtype: as for `transformer_loading.load_transformer`.
        device: where the weights go, one after another.
    """
    import torch

    tensors = opened.checkpoint.load()
    state = {}
    for key, ours in opened.names.items():
        tensor = tensors.pop(key)
        wanted = _dtype(model, ours, tensor.dtype, dtype)
        state[ours] = tensor.reshape(plain_shape(key, tensor.shape) if opened.layout == "official" else tensor.shape)
        state[ours] = state[ours].to(device, wanted if tensor.is_floating_point() else tensor.dtype)
    with torch.no_grad():
        model.load_state_dict(state, assign=True)
    return model.to(device).eval()


def checkpoint_shapes(model: Any, layout: Layout) -> dict[str, Shape]:
    """Name to shape of a whole checkpoint of a network in that layout."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if layout == "diffusers":
        return shapes
    names = renamed_to_official(shapes)
    return {names[name]: official_shape(names[name], shape) for name, shape in shapes.items()}


def create_empty(transformer: Any, config: Mapping[str, Any]) -> Any:
    """A transformer of that class without weights: parameters without storage, buffers (the rotary tables) computed.

    Raises:
        CheckpointError: the class cannot be made with `config`.
    """
    from accelerate import init_empty_weights

    from ..diffusers_internals import no_init_weights

    try:
        with no_init_weights(), init_empty_weights():
            return transformer(**config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{transformer.__name__} cannot be made with {dict(config)}: {error}") from error


def _layout(checkpoint: Checkpoint) -> Layout:
    is_ours = len(known_ours(checkpoint.tensors)) > len(known_official(checkpoint.tensors))
    return "diffusers" if is_ours else "official"


def _constructor(checkpoint: Checkpoint, layout: Layout, num_attention_heads: int | None) -> dict[str, Any]:
    """Constructor arguments: diffusers' from its `config.json`; else off the shapes, with what those do not tell."""
    told = checkpoint.config
    if layout == "diffusers" and "num_attention_heads" in told:
        return {name: value for name, value in told.items() if not name.startswith("_")}
    shapes = checkpoint.tensors if layout == "official" else _official_names(checkpoint)
    config = config_from_official(shapes, num_attention_heads or told.get("num_heads"))
    extra = {"eps": told["eps"]} if "eps" in told else {}
    return config | extra | told.get("steadydancer", {})


def _official_names(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    known = known_ours(checkpoint.tensors)
    return {official: checkpoint.tensors[name] for name, official in renamed_to_official(known).items()}


def _dtype(model: Any, name: str, stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    import torch

    from ..diffusers_internals import kept_in_float32

    if name.startswith("pose_modulation."):
        return torch.float32
    if wanted is None:
        return torch.bfloat16 if stored.itemsize == 1 else stored  # nothing computes in float8
    is_kept = any(module in name.split(".") for module in kept_in_float32(model))
    return torch.float32 if is_kept else wanted
