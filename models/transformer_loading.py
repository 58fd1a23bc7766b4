"""Open and load transformers of the class of their checkpoint: diffusers' Wan or SteadyDancer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints.key_maps import Shape
from .checkpoints.transformer_files import (
    Kind,
    Layout,
    TransformerFile,
    check_complete,
    checkpoint_shapes,
    create_empty,
    load_weights,
    read_transformer,
)

if TYPE_CHECKING:
    import torch


def open_transformer(
    source: str | Path, kind: Kind | None = None, num_attention_heads: int | None = None
) -> TransformerFile:
    """Identify a checkpoint from its headers and check that it is complete; arguments as for `read_transformer`.

    Raises:
        CheckpointError: it cannot be read, is another model, or tensors are missing, unexpected or mis-shaped.
    """
    opened = read_transformer(source, kind, num_attention_heads)
    check_complete(opened, expected_shapes(opened.kind, opened.config, opened.layout))
    return opened


def load_transformer(
    source: str | Path,
    dtype: torch.dtype | None = None,
    kind: Kind | None = None,
    num_attention_heads: int | None = None,
    device: str | torch.device = "cpu",
) -> Any:
    """Load a transformer in eval mode; tensors are memory-mapped, and copied only if dtype or device change.

    Tensors are moved to a GPU one at a time, so that the network is never in host memory as a whole.

    Args:
        source: as for `open_transformer`.
        dtype: dtype of the weights, except those that diffusers keeps in float32; None keeps the stored dtype. The pose
            modules are always float32.
        kind: expected kind; None accepts either.
        num_attention_heads: as for `open_transformer`.
        device: device of the weights.

    Returns:
        diffusers' `WanTransformer3DModel`, or `SteadyDancerTransformer3DModel`.

    Raises:
        CheckpointError: as for `open_transformer`.
    """
    opened = open_transformer(source, kind, num_attention_heads)
    return load_weights(empty_transformer(opened.kind, opened.config), opened, dtype, device)


def expected_shapes(kind: Kind, config: Mapping[str, Any], layout: Layout) -> dict[str, Shape]:
    """Return the shapes by name of a complete checkpoint in a layout."""
    return checkpoint_shapes(empty_transformer(kind, config), layout)


def empty_transformer(kind: Kind, config: Mapping[str, Any]) -> Any:
    """Build the transformer of a kind without weights, see `transformer_files.create_empty`.

    Raises:
        CheckpointError: its class does not accept `config`.
    """
    from diffusers import WanTransformer3DModel

    from .transformer import SteadyDancerTransformer3DModel

    return create_empty(SteadyDancerTransformer3DModel if kind == "steadydancer" else WanTransformer3DModel, config)
