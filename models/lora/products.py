"""LoKr and LoHa: full-rank changes of a weight as products of small factors.

LoKr: ΔW = s · W1 ⊗ W2. LoHa: ΔW = s · (A1 B1) ∘ (A2 B2). A LoKr factor is stored in full or as a product of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checkpoints.key_maps import Shape
from .names import LOHA, LOKR


@dataclass(frozen=True)
class FullRankChange:
    """A change of a weight, stored as factors because a full copy of 14 B weights would not fit into memory.

    Attributes:
        factors: tensor by role (`lokr_w1`, `hada_w1_a` and so on).
        strength: s in the formulas of this module.
        rows: rows of the product that belong to the weight, a third for q, k, v in one matrix; None: all.
    """

    factors: Mapping[str, Tensor]
    strength: float
    rows: slice | None = None

    def delta(self) -> Tensor:
        """Compute the change in float32."""
        factors = {role: tensor.float() for role, tensor in self.factors.items()}
        if "hada_w1_a" in factors:
            product = (factors["hada_w1_a"] @ factors["hada_w1_b"]) * (factors["hada_w2_a"] @ factors["hada_w2_b"])
        else:
            first, second = (_whole(factors, name) for name in ("lokr_w1", "lokr_w2"))
            product = torch.kron(first, second)
        return (product if self.rows is None else product[self.rows]) * self.strength


def _whole(factors: Mapping[str, Tensor], name: str) -> Tensor:
    return factors[name] if name in factors else factors[f"{name}_a"] @ factors[f"{name}_b"]


def product_rank(shapes: Mapping[str, Shape]) -> int | None:
    """Return the rank by which LyCORIS divides alpha; None if both factors of a LoKr are stored in full."""
    for role in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if role in shapes:
            return shapes[role][0]
    return None


def factor_problem(shapes: Mapping[str, Shape], wanted: Shape) -> str | None:
    """Describe why factors do not fit a weight of shape `wanted`; None if they fit."""
    given = ", ".join(f"{role} {list(shape)}" for role, shape in sorted(shapes.items()))
    if len(wanted) != 2 or any(len(shape) != 2 for shape in shapes.values()):
        return f"LoKr and LoHa are supported for linear layers only ({given})"
    pairs = (LOHA[:2], LOHA[2:]) if set(shapes) & set(LOHA) else (LOKR[1:3], LOKR[4:])
    factors = []
    for a, b in pairs:
        whole = a.removesuffix("_a")
        if whole in shapes and not shapes.keys() & {a, b}:
            factors.append(shapes[whole])
        elif whole not in shapes and shapes.keys() >= {a, b} and shapes[a][1] == shapes[b][0]:
            factors.append((shapes[a][0], shapes[b][1]))
        else:
            return f"its factors are incomplete ({given})"
    (rows, columns), (more_rows, more_columns) = factors
    if set(shapes) <= set(LOHA):
        fits = factors == [wanted, wanted]
    else:
        fits = set(shapes) <= set(LOKR) and (rows * more_rows, columns * more_columns) == wanted
    return None if fits else f"the product of its factors does not have the shape {list(wanted)} ({given})"
