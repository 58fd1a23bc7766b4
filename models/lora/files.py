"""Read a LoRA file: assign its keys to our layers, check their shapes, and compute the scale of each layer."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..checkpoints.files import Checkpoint, CheckpointError, check_tensors, open_checkpoint
from ..checkpoints.key_maps import Shape, known_ours, plain_shape, renamed_to_official
from .names import LOHA, LOKR, SUPPORTED, flat_names, parse_key, unsupported_kinds
from .products import FullRankChange, factor_problem, product_rank
from .scale import AdapterScale, read_scale

Names = tuple[str, ...]
_FACTORS = {*LOKR, *LOHA}
_CHANGES = {"down", "up", *_FACTORS}
_OPPOSITE = {"down": "up", "up": "down", "A": "B", "B": "A"}


@dataclass
class LoraTensors:
    """Tensors of a LoRA file under our names.

    Attributes:
        pairs: (A [r, in], B [out, r], alpha / r) by weight.
        products: full-rank change (LoKr or LoHa) by weight.
        deltas: tensor to add, by weight.
        replaced: tensor to replace the weight with, by weight.
        unused: keys of the file that are not used, with the reason.
        assumed_alpha: weights of `pairs` and `products` without an alpha in the file; the rank is used.
    """

    pairs: dict[str, tuple[Tensor, Tensor, float]] = field(default_factory=dict)
    products: dict[str, FullRankChange] = field(default_factory=dict)
    deltas: dict[str, Tensor] = field(default_factory=dict)
    replaced: dict[str, Tensor] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    assumed_alpha: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Layer:
    """Tensors of one layer in a file, or of several layers that the file stores as one matrix.

    Attributes:
        weights: our names of the weights, in the order of the matrix's rows.
        keys: the file's key of each role.
        spelled: name of the layer in the file.
        shape: shape of the weights, concatenated along the rows.
    """

    weights: Names
    keys: dict[str, str]
    spelled: str
    shape: Shape

    @property
    def names(self) -> list[str]:
        """Names of the layer that a pattern for alpha may use."""
        ours = self.weights[0]
        both = [ours, *renamed_to_official(known_ours([ours])).values()]
        return [self.spelled, *(name.removesuffix(".weight") for name in both)]


def read_lora(transformer: Any, file: str | Path) -> LoraTensors:
    """Read the tensors of a LoRA file under the transformer's names, without changing the transformer.

    Raises:
        CheckpointError: as for `load_lora`.
    """
    checkpoint = open_checkpoint(file)
    if kinds := unsupported_kinds(checkpoint.tensors):
        examples = ", ".join(key for keys in kinds.values() for key in keys[:2])
        raise CheckpointError(
            f"{file} is a {' and '.join(kinds)} adapter ({examples}); only LoRA, LoKr, LoHa and diffs are supported: "
            "merge it into the weights with the program that created it"
        )
    layers = _layers(transformer, checkpoint)
    if not any(role not in ("alpha", "rank") for layer in layers for role in layer.keys):
        begin = ", ".join(list(checkpoint.tensors)[:3])
        raise CheckpointError(
            f"{file} is not a LoRA for this transformer: none of its keys match a layer ({begin}); {SUPPORTED}"
        )
    found, wanted = LoraTensors(), dict[str, Shape]()
    for layer in layers:
        wanted |= _expected(transformer, checkpoint, layer, found)
    given = {key: shape for key, shape in checkpoint.shapes.items() if key not in found.unused}
    try:
        check_tensors(given, wanted, checkpoint.source, "a LoRA for this transformer")
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {SUPPORTED}") from None
    _collect(transformer, checkpoint, layers, found)
    return found


def _layers(transformer: Any, checkpoint: Checkpoint) -> list[_Layer]:
    """Group the file's tensors by layer; keys without a layer are skipped.

    Raises:
        CheckpointError: a layer has the same tensor twice, in two spellings or from two adapters.
    """
    known = flat_names(weight_names(transformer))
    keys: dict[Names, dict[str, str]] = defaultdict(dict)
    spelled: dict[Names, str] = {}
    for key in checkpoint.tensors:
        found = parse_key(key, known)
        if found is None or (found[1] in _CHANGES and not found[0][0].endswith(".weight")):
            continue
        weights, role, spelled[weights] = found
        if role in keys[weights]:
            raise CheckpointError(
                f"{checkpoint.source} contains two adapters for one layer ({keys[weights][role]}, {key}): pass a file "
                "with only one"
            )
        keys[weights][role] = key
    layers = []
    for weights, roles in keys.items():
        shapes = [tuple(get_weight(transformer, name).shape) for name in weights]
        shape = (sum(first for first, *_ in shapes), *shapes[0][1:])
        layers.append(_Layer(weights, roles, spelled[weights], shape))
    return layers


def _expected(transformer: Any, checkpoint: Checkpoint, layer: _Layer, found: LoraTensors) -> dict[str, Shape]:
    """Return the expected shapes by key, including missing keys; add keys that cannot be used to `found.unused`."""
    wanted: dict[str, Shape] = {}
    has_change = layer.keys.keys() & _CHANGES
    for role, key in layer.keys.items():
        shape = checkpoint.tensors[key].shape
        expected = _shape(transformer, layer, role, shape)
        if expected is None:
            found.unused[key] = f"{layer.weights[0]} has no bias"
        elif role in ("alpha", "rank") and not has_change:
            found.unused[key] = "the file has no pair for it"
        elif layer.weights == ("patch_embedding.weight",) and role == "diff" and len(shape) == 5 and shape != expected:
            found.unused[key] = f"it belongs to a model with {shape[1]} input channels"
        else:
            wanted[key] = expected
        other = {"down": "up", "up": "down"}.get(role)
        if other and other not in layer.keys:
            wanted[re.sub(r"(lora[._])(down|up|A|B)\b", lambda m: m[1] + _OPPOSITE[m[2]], key)] = ()
    factors = {role: checkpoint.tensors[key].shape for role, key in layer.keys.items() if role in _FACTORS}
    if factors and (problem := factor_problem(factors, layer.shape)):
        raise CheckpointError(f"{checkpoint.source}: {layer.spelled}: {problem}; {SUPPORTED}")
    return wanted


def _shape(transformer: Any, layer: _Layer, role: str, shape: Shape) -> Shape | None:
    """Return the expected shape of a tensor with a role; None if the layer has no bias."""
    rows, *rest = layer.shape
    if role in ("alpha", "rank"):
        return () if shape == () else (1,)
    if role in _FACTORS:
        return shape  # checked together by `factor_problem`
    if role in ("up_bias", "diff_bias"):
        biases = [re.sub(r"weight$", "bias", name) for name in layer.weights]
        return (rows,) if all(_has(transformer, bias) for bias in biases) else None
    if role in ("diff", "set"):
        (first, *more) = layer.weights
        official = next(iter(renamed_to_official(known_ours([first])).values()), first)
        # The released alignment unit has 1x1 convolutions.
        same = not more and plain_shape(official, shape) == layer.shape
        return shape if same else layer.shape
    rank = shape[0] if role == "down" and shape else (shape[1] if len(shape) > 1 else 1)
    full = (rank, *rest) if role == "down" else (rows, rank, *[1] * (len(rest) - 1))
    flat = (full[0], math.prod(full[1:]))
    one_by_one = (*full, *[1] * (len(shape) - len(full)))  # a linear layer stored as a 1x1 convolution
    return shape if shape in (flat, one_by_one) else full


def _collect(transformer: Any, checkpoint: Checkpoint, layers: Sequence[_Layer], found: LoraTensors) -> None:
    """Add the tensors of all layers to `found`, by how they are applied."""
    tensors, scales = checkpoint.load(), read_scale(checkpoint)
    for layer in layers:
        of_role = {role: tensors[key] for role, key in layer.keys.items() if key not in found.unused}
        strength, end = _strength(layer, of_role, scales, checkpoint), 0
        if strength is None:
            found.assumed_alpha += layer.weights
            strength = 1.0
        for name in layer.weights:
            begin, end = end, end + get_weight(transformer, name).shape[0]
            rows = slice(begin, end) if len(layer.weights) > 1 else None
            _put(transformer, name, rows, of_role, strength, found)


def _put(
    transformer: Any, name: str, rows: slice | None, of_role: Mapping[str, Tensor], strength: float, found: LoraTensors
) -> None:
    """Add the rows of one weight from its layer's tensors to `found`."""
    if "down" in of_role:
        found.pairs[name] = (_two_axes(of_role["down"]), _rows(_two_axes(of_role["up"]), rows), strength)
    if factors := {role: tensor for role, tensor in of_role.items() if role in _FACTORS}:
        found.products[name] = FullRankChange(factors, strength, rows)
    bias = re.sub(r"weight$", "bias", name)
    for role, target in (("up_bias", bias), ("diff_bias", bias), ("diff", name), ("set", name)):
        if role not in of_role:
            continue
        tensor = _rows(of_role[role], rows).reshape(get_weight(transformer, target).shape)
        if role == "set":
            found.replaced[target] = tensor
            continue
        delta = tensor.float() * strength if role == "up_bias" else tensor
        found.deltas[target] = found.deltas[target].float() + delta.float() if target in found.deltas else delta


def _rows(tensor: Tensor, rows: slice | None) -> Tensor:
    return tensor if rows is None else tensor[rows]


def _two_axes(tensor: Tensor) -> Tensor:
    """Flatten a factor of a linear layer stored as a 1x1 convolution; return others unchanged."""
    return tensor.flatten(1) if tensor.ndim > 2 and math.prod(tensor.shape[2:]) == 1 else tensor


def _strength(
    layer: _Layer, of_role: Mapping[str, Tensor], scales: AdapterScale, checkpoint: Checkpoint
) -> float | None:
    """Return alpha / rank of a layer, 1 if nothing is scaled, None if the file does not specify alpha."""
    alpha = of_role["alpha"].float().item() if "alpha" in of_role else None
    if alpha is not None and not math.isfinite(alpha):
        raise CheckpointError(
            f"{checkpoint.source}: {layer.keys['alpha']} is {alpha}, not a finite number: the file is damaged"
        )
    if "down" in of_role:
        return scales.strength(layer.names, of_role["down"].shape[0], alpha)
    shapes = {role: tuple(tensor.shape) for role, tensor in of_role.items() if role in _FACTORS}
    return scales.product_strength(layer.names, product_rank(shapes), alpha) if shapes else 1.0


def weight_names(transformer: Any) -> list[str]:
    """List the names of a transformer's weights without its adapters."""
    names = [name for name, _ in transformer.named_parameters() if ".lora_" not in name]
    names += [name for name, _ in transformer.named_buffers() if name.endswith(".weight")]  # quantised ones
    return [name.replace(".base_layer.", ".") for name in names]


def base_layer(module: nn.Module) -> Any:
    """Return the original layer of a PEFT wrapper, or the module itself."""
    return getattr(module, "base_layer", module)


def _has(transformer: Any, name: str) -> bool:
    module, _, leaf = name.rpartition(".")
    return getattr(base_layer(transformer.get_submodule(module)), leaf, None) is not None


def get_weight(transformer: Any, name: str) -> Tensor:
    """Return the weight with a name of `weight_names`."""
    module, _, leaf = name.rpartition(".")
    weight: Tensor = getattr(base_layer(transformer.get_submodule(module)), leaf)
    return weight
