"""By what an adapter's product is multiplied: alpha / rank, or alpha / √rank, from wherever the file tells alpha.

In this order: the layer's own `.alpha`; what diffusers, PEFT and others write into the header; PEFT's
`adapter_config.json` beside the file; else alpha = rank, as every loader takes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checkpoints.files import Checkpoint, CheckpointError
from .names import strip_prefixes

HEADER_KEY = "lora_adapter_metadata"  # diffusers'
_HEADER_KEYS = (HEADER_KEY, "adapter_config", "peft_config", "lora_config")
_ALPHA = ("lora_alpha", "alpha")  # PEFT's for LoRA, and for LoKr and LoHa
# Ways of PEFT's to begin an adapter that take its beginning out of the base's weights.
_CHANGE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
ADAPTER_CONFIG, ADAPTER_MODEL = "adapter_config.json", "adapter_model.safetensors"  # PEFT's


@dataclass(frozen=True)
class AdapterScale:
    """What a file tells of alpha for all its layers.

    Attributes:
        alpha: of layers without a pattern; None: nothing is told.
        rank: PEFT's r, which LoKr and LoHa divide by; None: nothing is told.
        use_rslora: alpha / √rank in place of alpha / rank.
        alpha_pattern: ends of layers' names, or regular expressions, to the alpha of those layers.
        rank_pattern: the same for r.
    """

    alpha: float | None = None
    rank: int | None = None
    use_rslora: bool = False
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_pattern: Mapping[str, int] = field(default_factory=dict)

    def strength(self, names: Iterable[str], rank: int, own_alpha: float | None = None) -> float | None:
        """What B A of a layer is multiplied by; None where the file tells no alpha, which counts as 1.

        Args:
            names: of the layer, as the file and as we spell it; patterns are held against each.
            rank: rows of A.
            own_alpha: of the layer's `.alpha`, which goes before everything else and is never rank-stabilised.
        """
        if own_alpha is not None:
            return own_alpha / rank
        alpha = _matched(self.alpha_pattern, names, self.alpha)
        if alpha is None:
            return None
        return float(alpha) / (math.sqrt(rank) if self.use_rslora else rank)

    def product_strength(self, names: Iterable[str], rank: int | None, own_alpha: float | None) -> float | None:
        """The same for LoKr and LoHa; `rank` None: both factors are whole, and then LyCORIS' files take 1."""
        if own_alpha is not None:
            return own_alpha / rank if rank else 1.0
        names = list(names)
        alpha, told = _matched(self.alpha_pattern, names, self.alpha), _matched(self.rank_pattern, names, self.rank)
        divisor = told or rank
        return float(alpha) / float(divisor) if alpha is not None and divisor else None


def read_scale(checkpoint: Checkpoint) -> AdapterScale:
    """What the header of a file, or PEFT's configuration beside it, tells of alpha.

    `adapter_config.json` is taken to belong to PEFT's `adapter_model.safetensors`, and to the only file of a folder.

    Raises:
        CheckpointError: it is told in a form that is not understood, or belongs to a base with other weights.
    """
    try:
        told = adapter_config(checkpoint)
        alpha = next((told[name] for name in _ALPHA if told.get(name) is not None), None)
        scale = AdapterScale(
            alpha=None if alpha is None else _number(alpha),
            rank=None if told.get("r") is None else int(_number(told["r"])),
            use_rslora=_flag(told.get("use_rslora")),
            alpha_pattern={
                strip_prefixes(name): _number(value) for name, value in _mapping(told.get("alpha_pattern")).items()
            },
            rank_pattern={
                strip_prefixes(name): int(_number(value)) for name, value in _mapping(told.get("rank_pattern")).items()
            },
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.source}: what its header, or {ADAPTER_CONFIG} beside it, tells of alpha is unusable ({error})"
        ) from error
    begun = str(told.get("init_lora_weights")).lower()
    if begun.startswith(_CHANGE_BASE):
        raise CheckpointError(
            f"{checkpoint.source} is no LoRA of the plain base: it was begun with {begun}, which changes the base's "
            "weights too, and the file does not hold these. Save it with PEFT's "
            "`path_initial_model_for_weight_conversion`, which makes a plain LoRA of it"
        )
    return scale


def adapter_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """PEFT's configuration of an adapter, from the file's header or else beside it; empty where there is none.

    Raises:
        ValueError: it is no JSON.
    """
    file, told = checkpoint.source, _header(checkpoint.metadata)
    beside = file.parent / ADAPTER_CONFIG
    is_its_own = file.name == ADAPTER_MODEL or len(list(file.parent.glob("*.safetensors"))) == 1
    if any(name in told for name in _ALPHA) or not is_its_own or not beside.is_file():
        return told
    return dict(json.loads(beside.read_text(encoding="utf-8-sig")))


def _header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """A LoRA configuration in a header: as JSON under one of its usual names, or key by key."""
    for name in _HEADER_KEYS:
        if name in metadata:
            told = json.loads(metadata[name])
            ours = {key: value for key, value in told.items() if key.startswith("transformer.")}
            return {key.removeprefix("transformer."): value for key, value in (ours or told).items()}
    return {name: metadata[name] for name in ("lora_alpha", "use_rslora", "alpha_pattern") if name in metadata}


def _matched(pattern: Mapping[str, Any], names: Iterable[str], default: Any) -> Any:
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
        raise ValueError(f"{value!r} is no number to scale by")
    return number


def _mapping(value: Any) -> dict[str, Any]:
    return dict(json.loads(value) if isinstance(value, str) else value or {})


def _flag(value: Any) -> bool:
    return value.strip().lower() in ("true", "1") if isinstance(value, str) else bool(value)
