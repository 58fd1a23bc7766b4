"""Add low-rank adapters to the transformer, and save trained weights with merged adapters."""

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
    """Freeze a transformer and add adapters to its blocks; only adapters and pose modules remain trainable.

    W x becomes W x + (alpha / rank) B A x with A random and B zero, so that the output does not change initially.

    Args:
        transformer: a `SteadyDancerTransformer3DModel`; modified in place.
        rank: rows of A, columns of B.
        alpha: numerator of the scale.
        targets: suffixes of the names of linear layers inside the blocks, such as `to_q` or `ffn.net.2`.

    Raises:
        ValueError: no layer has such a name.
    """
    ends = "|".join(re.escape(target) for target in targets)
    transformer.requires_grad_(False)
    transformer.add_adapter(
        LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=rf"blocks\.\d+\.(?:.+\.)?(?:{ends})")
    )
    for name in transformer.pose_module_names:  # they have no pretrained weights, so train them in full
        transformer.get_submodule(name).requires_grad_(True)


def save_trained(
    network: Any, weights: Mapping[str, Tensor], transformer_dir: Path, lora_dir: Path | None, dtype: torch.dtype
) -> None:
    """Save trained weights as a plain transformer folder with merged adapters: W + (alpha / rank) B A.

    Args:
        network: the trained network; only its configuration is used.
        weights: its full state dict, unsharded, on the CPU.
        transformer_dir: folder for the merged transformer (diffusers layout, safetensors).
        lora_dir: folder for the adapter (`pytorch_lora_weights.safetensors`); None: do not save it.
        dtype: dtype of the merged transformer; the adapter keeps the dtype of `weights`.
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
        # safe_fusing creates new tensors for merged weights; `weights` may be the network's own and must not change.
        copy.fuse_lora(safe_fusing=True)
        copy.unload_lora()
    _cast(copy, dtype)
    copy.save_pretrained(transformer_dir)


def _save_adapter(network: nn.Module, config: LoraConfig, folder: Path) -> None:
    """Save as diffusers' `save_lora_adapter` does, without its cast, whose only effect is a warning."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = json.dumps(config.to_dict(), sort_keys=True, default=sorted)
    save_file(
        get_peft_model_state_dict(network, adapter_name="default"),
        folder / LORA_WEIGHT_NAME_SAFE,
        metadata={"format": "pt", LORA_ADAPTER_METADATA_KEY: metadata},
    )


def _cast(network: nn.Module, dtype: torch.dtype) -> None:
    for weight in network.parameters():
        weight.data = weight.data.to(dtype)
