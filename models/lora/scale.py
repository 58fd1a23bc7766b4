"""Read the scale of an adapter: alpha / rank, or alpha / √rank if it is rank-stabilised.

alpha is read from, in this order: the layer's own `.alpha`; the header (diffusers, PEFT and others); PEFT's
`adapter_config.json` in the same folder. Without any of them alpha = rank, as in other loaders.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checkpoints.files import Checkpoint, CheckpointError
from .names import strip_prefixes

HEADER_KEY = "lora_adapter_metadata"  # diffusers' key
_HEADER_KEYS = (HEADER_KEY, "adapter_config", "peft_config", "lora_config")
_ALPHA = ("lora_alpha", "alpha")  # PEFT's names for LoRA, and for LoKr and LoHa
# PEFT's initialisations that subtract the initial adapter from the weights of the base.
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
ADAPTER_CONFIG, ADAPTER_MODEL = "adapter_config.json", "adapter_model.safetensors"  # PEFT's file names


@dataclass(frozen=True)
class AdapterScale:
    """Scale settings of a file for all its layers.

    Attributes:
        alpha: alpha of layers without a pattern; None: not specified.
        rank: PEFT's r, the divisor for LoKr and LoHa; None: not specified.
        use_rslora: scale by alpha / √rank instead of alpha / rank.
        alpha_pattern: alpha by suffix of layer names, or by regular expression.
        rank_pattern: r by suffix of layer names, or by regular expression.
    """

    alpha: float | None = None
    rank: int | None = None
    use_rslora: bool = False
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_pattern: Mapping[str, int] = field(default_factory=dict)

    def strength(self, names: Iterable[str], rank: int, own_alpha: float | None = None) -> float | None:
        """Return the factor of a layer's B A; None if the file specifies no alpha, and 1 applies.

        Args:
            names: names of the layer in the file and in our spelling; a pattern may match any of them.
            rank: rows of A.
            own_alpha: the layer's `.alpha`, which takes precedence and is never rank-stabilised.
        """
        if own_alpha is not None:
            return own_alpha / rank
        alpha = _match_pattern(self.alpha_pattern, names, self.alpha)
        if alpha is None:
            return None
        return float(alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def product_strength(self, names: Iterable[str], rank: int | None, own_alpha: float | None) -> float | None:
        """Return the factor for LoKr and LoHa; `rank` is None if both factors are full, and LyCORIS then uses 1."""
        if own_alpha is not None:
            return own_alpha / rank if rank else 1.0
        names = list(names)
        alpha = _match_pattern(self.alpha_pattern, names, self.alpha)
        divisor = _match_pattern(self.rank_pattern, names, self.rank) or rank
        return float(alpha) / float(divisor) if alpha is not None and divisor else None


def read_scale(checkpoint: Checkpoint) -> AdapterScale:
    """Read the scale settings of a file from its header, or from PEFT's configuration in the same folder.

    `adapter_config.json` applies to PEFT's `adapter_model.safetensors`, and to the only file of a folder.

    Raises:
        CheckpointError: the settings are invalid, or the adapter needs a base with modified weights.
    """
    try:
        config = adapter_config(checkpoint)
        alpha = next((config[name] for name in _ALPHA if config.get(name) is not None), None)
        scale = AdapterScale(
            alpha=None if alpha is None else _number(alpha),
            rank=None if config.get("r") is None else int(_number(config["r"])),
            use_rslora=_flag(config.get("use_rslora")),
            alpha_pattern={
                strip_prefixes(name): _number(value) for name, value in _mapping(config.get("alpha_pattern")).items()
            },
            rank_pattern={
                strip_prefixes(name): int(_number(value))
                for name, value in _mapping(config.get("rank_pattern")).items()
            },
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.source}: invalid scale settings in its header or in {ADAPTER_CONFIG} next to it ({error})"
        ) from error
    initialisation = str(config.get("init_lora_weights")).lower()
    if initialisation.startswith(_CHANGE_BASE):
        raise CheckpointError(
            f"{checkpoint.source} is not a LoRA of the plain base: its initialisation {initialisation} changes the "
            "base's weights too, and the file does not contain them. Convert it to a plain LoRA: save it with PEFT's "
            "`path_initial_model_for_weight_conversion`"
        )
    return scale


def adapter_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read PEFT's configuration of an adapter from the file's header, or from the same folder; empty if there is none.

    Raises:
        ValueError: it is not JSON.
    """
    file, config = checkpoint.source, _header(checkpoint.metadata)
    path = file.parent / ADAPTER_CONFIG
    is_its_own = file.name == ADAPTER_MODEL or len(list(file.parent.glob("*.safetensors"))) == 1
    if any(name in config for name in _ALPHA) or not is_its_own or not path.is_file():
        return config
    return dict(json.loads(path.read_text(encoding="utf-8-sig")))


def _header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read a LoRA configuration from a header: JSON under one of the usual names, or one entry per key."""
    for name in _HEADER_KEYS:
        if name in metadata:
            config = json.loads(metadata[name])
            ours = {key: value for key, value in config.items() if key.startswith("transformer.")}
            return {key.removeprefix("transformer."): value for key, value in (ours or config).items()}
    return {name: metadata[name] for name in ("lora_alpha", "use_rslora", "alpha_pattern") if name in metadata}


def _match_pattern(pattern: Mapping[str, Any], names: Iterable[str], default: Any) -> Any:
    if not pattern:
        return default
    from ..diffusers_internals import get_pattern_key

    for name in names:
        if (key := get_pattern_key(list(pattern), strip_prefixes(name))) in pattern:
            return pattern[key]
    return default


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {value!r}")
    return number


def _mapping(value: Any) -> dict[str, Any]:
    return dict(json.loads(value) if isinstance(value, str) else value or {})


def _flag(value: Any) -> bool:
    return value.strip().lower() in ("true", "1") if isinstance(value, str) else bool(value)
