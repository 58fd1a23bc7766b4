"""Low-rank adapters for the transformer, and the way from trained weights back to a plain transformer folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from ..diffusers_internals import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE


def add_lora(transformer: Any, rank: int, alpha: int, targets: Sequence[str]) -> None:
    """Freeze a transformer, put adapters into its blocks, and leave the adapters and the pose modules trainable.

    W x becomes W x + (alpha / rank) B A x with A random and B zero, so that the output is unchanged at first.

    Args:
        transformer: a `SteadyDancerTransformer3DModel`; changed in place.
        rank: rows of A, columns of B.
        alpha: see above.
        targets: ends of names of linear layers inside the blocks, as `to_q` or `ffn.net.2`.

    Raises:
        ValueError: no layer has such a name.
    """
    ends = "|".join(re.escape(target) for target in targets)
    transformer.requires_grad_(False)
    transformer.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=rf"blocks\.\d+\.(?:.+\.)?(?:{ends})")
    )
    for name in transformer.pose_module_names:  # no pretrained weights to stay close to
        transformer.get_submodule(name).requires_grad_(True)


def save_trained(
    network: Any, weights: Mapping[str, Tensor], transformer_dir: Path, lora_dir: Path | None, dtype: torch.dtype
) -> None:
    """Write trained weights as a plain transformer folder, adapters merged: W + (alpha / rank) B A.

    Args:
        network: the network that was trained; only its configuration is used.
        weights: all its weights, whole, on the CPU, under the names of its state.
        transformer_dir: where the merged transformer goes (diffusers layout, safetensors).
        lora_dir: where the adapter goes as well (`pytorch_lora_weights.safetensors`); None: there is none.
        dtype: of the merged transformer; the adapter keeps the dtype that `weights` has.
    """
    lora = getattr(network, "peft_config", {}).get("default")
    with torch.device("meta"):
        copy: Any = type(network).from_config(network.config)
        if lora is not None:
            copy.add_adapter(lora)
    copy.load_state_dict(dict(weights), assign=True)
    if lora is not None:
        if lora_dir is not None:
            _save_adapter(copy, lora, lora_dir)
        # Safely: each merged weight is a new tensor, and those that were given, perhaps the network's own, stay.
        copy.fuse_lora(safe_fusing=True)
        copy.unload_lora()
    _cast(copy, dtype)
    copy.save_pretrained(transformer_dir)


def _save_adapter(network: nn.Module, config: LoraConfig, folder: Path) -> None:
    """As diffusers' `save_lora_adapter`, which casts (to nothing) on the way and warns of it."""
    folder.mkdir(parents=True, exist_ok=True)
    told = json.dumps(config.to_dict(), sort_keys=True, default=sorted)
    save_file(
        get_peft_model_state_dict(network, adapter_name="default"),
        folder / LORA_WEIGHT_NAME_SAFE,
        metadata={"format": "pt", LORA_ADAPTER_METADATA_KEY: told},
    )


def _cast(network: nn.Module, dtype: torch.dtype) -> None:
    for weight in network.parameters():
        weight.data = weight.data.to(dtype)
