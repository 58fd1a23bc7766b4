"""Quantised weight files: which weights are quantised, and how a file stores them. Does not import torch.

A quantised weight `NAME.weight` [out, in] has one byte per element, int8 or float8 (e4m3), and beside it
`NAME.weight_scale` [out, 1] in float32: weight = stored × scale. Only linear layers of the blocks are quantised, the
same ones that diffusers' layerwise casting stores in float8. Norms, modulation tables, biases, embeddings and the pose
modules keep their precision: together they are a few percent of the bytes, and errors in them reach every token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from .files import Checkpoint, CheckpointError, StoredTensor, open_checkpoint, read_header
from .key_maps import Shape

Quantisation = Literal["int8", "fp8"]
SCALE = "weight_scale"
STORED = {"int8": "I8", "fp8": "F8_E4M3"}
LARGEST = {"int8": 127.0, "fp8": 448.0}  # magnitudes; int8's −128 is not used, so that the grid is symmetric
_LINEAR = re.compile(
    r"blocks\.\d+\.(attn[12]\.(to_q|to_k|to_v|to_out\.0|add_k_proj|add_v_proj)|ffn\.net\.(0\.proj|2))\.weight"
)


def is_quantisable(name: str, shape: Shape) -> bool:
    """Return whether a weight, by our name, is quantised: the matrices of the blocks' linear layers."""
    return len(shape) == 2 and _LINEAR.fullmatch(name) is not None


def scale_name(weight: str) -> str:
    """Return the name of a quantised weight's scale."""
    return f"{weight.removesuffix('weight')}{SCALE}"


def split_scales(checkpoint: Checkpoint) -> tuple[Checkpoint, dict[str, StoredTensor]]:
    """Return (the checkpoint without the scales of its quantised weights, the scale by weight name).

    The second is empty for a checkpoint that is not quantised in this layout.

    Raises:
        CheckpointError: a quantised weight has no scale, a scale no weight, or its shape or dtype is wrong.
    """
    tensors = checkpoint.tensors
    scales = {name: tensor for name, tensor in tensors.items() if name.endswith(f".{SCALE}")}
    if not scales or not all(_LINEAR.fullmatch(_weight_name(name)) for name in scales):
        return checkpoint, {}  # another program's layout, if any
    weights = {name: tensor for name, tensor in tensors.items() if name not in scales}
    by_weight = {_weight_name(name): tensor for name, tensor in scales.items()}
    if problem := _problem(weights, by_weight):
        raise CheckpointError(f"{checkpoint.source} is damaged: {problem}; convert the unquantised checkpoint again")
    return replace(checkpoint, tensors=weights), by_weight


def is_quantised(source: str | Path) -> bool:
    """Return whether a file or folder has quantised weights in this layout, from headers alone.

    Raises:
        CheckpointError: it cannot be read, or is damaged.
    """
    return bool(split_scales(open_checkpoint(source))[1])


def has_scales(folder: Path) -> bool:
    """Return whether any weight file of a folder has scales; unlike `is_quantised` without judging unreadable files."""
    try:
        return any(name.endswith(f".{SCALE}") for file in folder.glob("*.safetensors") for name in read_header(file)[0])
    except CheckpointError:
        return False


def require_unquantised(source: str | Path, purpose: str) -> None:
    """Refuse a quantised checkpoint for a purpose that needs the full weights.

    Raises:
        CheckpointError: it is quantised, cannot be read, or is damaged.
    """
    if is_quantised(source):
        raise CheckpointError(
            f"{source} has quantised weights, which can be rendered with but not {purpose}: pass the checkpoint that "
            "it was converted from"
        )


def _weight_name(scale: str) -> str:
    return f"{scale.removesuffix(SCALE)}weight"


def _problem(weights: Mapping[str, StoredTensor], scales: Mapping[str, StoredTensor]) -> str | None:
    stored = set(STORED.values())
    for name, scale in scales.items():
        if name not in weights:
            return f"{scale_name(name)} has no {name}"
        weight = weights[name]
        if weight.dtype not in stored:
            return f"{name} has a scale, but is {weight.dtype} instead of {' or '.join(sorted(stored))}"
        if len(weight.shape) != 2 or scale.shape != (weight.shape[0], 1) or scale.dtype != "F32":
            expected = (weight.shape[0], 1)
            return f"{scale_name(name)} is {scale.dtype} {[*scale.shape]}, expected F32 {[*expected]}"
    without = [name for name, tensor in weights.items() if tensor.dtype == STORED["int8"] and name not in scales]
    without += [name for name in weights if name not in scales and _LINEAR.fullmatch(name)]
    return f"{without[0]} has no scale" if without else None
