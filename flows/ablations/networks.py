"""How a row's network differs from the reference's, read off parameters that are never allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ... import SteadyDancerError
from ...pipelines.train.config import NETWORK_FIELDS, TrainConfig
from .rows import Row

Shapes = Mapping[str, tuple[int, ...]]


class NetworkDifference(NamedTuple):
    """What two networks do not have in common.

    Attributes:
        fields: fields of the configuration that define the network, with the row's values.
        lacks: weights that only the reference has.
        adds: weights that only the row has.
        reshapes: weights of both in different shapes.
        num_parameters: those of the row's network.
        change: its parameters minus the reference's.
    """

    fields: dict[str, Any]
    lacks: list[str]
    adds: list[str]
    reshapes: list[str]
    num_parameters: int
    change: int


def shapes_of(base: Mapping[str, Any], config: TrainConfig) -> Shapes:
    """Return name -> shape of all parameters of the network that a stage trains.

    Args:
        base: constructor arguments of the base, as in its `config.json`.
        config: the stage.
    """
    import torch

    from ...models.transformer import SteadyDancerTransformer3DModel

    arguments = {name: value for name, value in base.items() if not name.startswith("_")}
    with torch.device("meta"):
        network = SteadyDancerTransformer3DModel(**{**arguments, **config.model_dump(include=set(NETWORK_FIELDS))})
    return {name: tuple(weight.shape) for name, weight in network.named_parameters()}


def difference(base: Mapping[str, Any], reference: TrainConfig, config: TrainConfig) -> NetworkDifference:
    """Compare the network of a stage with a reference's."""
    before, after = shapes_of(base, reference), shapes_of(base, config)
    numbers = [sum(math.prod(shape) for shape in shapes.values()) for shapes in (before, after)]
    return NetworkDifference(
        fields={name: getattr(config, name) for name in NETWORK_FIELDS
                if getattr(config, name) != getattr(reference, name)},
        lacks=sorted(before.keys() - after.keys()),
        adds=sorted(after.keys() - before.keys()),
        reshapes=sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
        num_parameters=numbers[1],
        change=numbers[1] - numbers[0],
    )  # fmt: skip


def require_named(row: Row, found: NetworkDifference) -> None:
    """Check that a row's network differs in exactly what the row names.

    Raises:
        SteadyDancerError: it differs in something else; the message names it.
    """
    wrong = [f"the configuration has {name}" for name in found.fields if name not in row.train]
    for what, named, weights in (
        ("lacks", row.lacks, found.lacks),
        ("adds", row.adds, found.adds),
        ("reshapes", row.reshapes, found.reshapes),
    ):
        wrong += [f"the network {what} {weight}" for weight in weights if not _is_named(weight, named)]
        wrong += [
            f"the network {what} nothing of {name}"
            for name in named
            if not any(_is_named(weight, (name,)) for weight in weights)
        ]
    if wrong:
        raise SteadyDancerError(
            f"row {row.name}: its network differs from the reference in more or less than it names: {'; '.join(wrong)}"
        )


def _is_named(weight: str, named: tuple[str, ...]) -> bool:
    return any(weight == name or weight.startswith(f"{name}.") for name in named)
