"""Open and load transformers of either class, diffusers' Wan or SteadyDancer, as their checkpoints say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .key_maps import Shape
from .transformer_files import (
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
    """Read what a checkpoint is from its headers, and check that it is whole; arguments as for `read_transformer`.

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
    """A transformer in eval mode; its tensors are mapped from the files, and copied only where type or place change.

    One tensor after another goes to a GPU, so that no process has the network in host memory.

    Args:
        source: as for `open_transformer`.
        dtype: of the weights, but for those that diffusers keeps in float32; None keeps what is stored. The pose
            modules are float32 in any case.
        kind: what is expected; None takes either.
        num_attention_heads: as for `open_transformer`.
        device: where the weights go.

    Returns:
        diffusers' `WanTransformer3DModel`, or `SteadyDancerTransformer3DModel`.

    Raises:
        CheckpointError: as `open_transformer`.
    """
    opened = open_transformer(source, kind, num_attention_heads)
    return load_weights(empty_transformer(opened.kind, opened.config), opened, dtype, device)


def expected_shapes(kind: Kind, config: Mapping[str, Any], layout: Layout) -> dict[str, Shape]:
    """Name to shape of a whole checkpoint in that layout."""
    return checkpoint_shapes(empty_transformer(kind, config), layout)


def empty_transformer(kind: Kind, config: Mapping[str, Any]) -> Any:
    """The transformer without weights, see `transformer_checkpoints.empty`.

    Raises:
        CheckpointError: no such transformer can be.
    """
    from diffusers import WanTransformer3DModel

    from ..transformer import SteadyDancerTransformer3DModel

    return create_empty(SteadyDancerTransformer3DModel if kind == "steadydancer" else WanTransformer3DModel, config)
