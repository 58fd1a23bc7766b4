"""Optimizers on the flat float32 shards that ZeRO keeps: Muon for the matrices of the blocks, and averaged weights.

ZeRO gives an optimizer flat tensors that hold parts of many weights. That is enough for AdamW, which updates every
element separately. Muon's momentum is elementwise too; only the direction of its update needs the whole matrix. So each
worker keeps the momentum of its shard, and for a step the workers gather each matrix in one of them, which
orthogonalises it: `torch.optim.Muon` on a GPU, its float32 twin on a CPU. DeepSpeed's own Muon needs a compiler, has no
learning rate matched to AdamW's, and clips the update instead of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...models.newton_schulz import muon_update
from .config import TrainConfig

AVERAGE = "average"


def is_block_matrix(name: str, weight: Tensor) -> bool:
    """Return whether `optimizer="muon"` updates this weight by Muon: all matrices inside the transformer blocks.

    LoRA's A and B are among them: in stages 1 and 3 they are the only trained matrices of the blocks. AdamW updates the
    others: embeddings, pose modules, output layer, norms, biases and modulation tables.
    """
    return name.startswith("blocks.") and weight.ndim == 2


def build_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the stage's optimizer for the weights that require gradients. A `ShardedOptimizer` then needs `bind`."""
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw" and not config.ema_decay:
        return torch.optim.AdamW(trained.values(), **settings)
    adamw: list[Tensor] = []
    muon: list[Tensor] = []
    for name, weight in trained.items():
        by_muon = config.optimizer == "muon" and is_block_matrix(name, weight)
        (muon if by_muon else adamw).append(weight)
    rate = config.muon_learning_rate or config.learning_rate
    own: dict[str, Any] = {"momentum": config.muon_momentum, "rate_scale": rate / config.learning_rate}
    return ShardedOptimizer(adamw, muon, **own, ema_decay=config.ema_decay, **settings)


@dataclass(frozen=True)
class Shard:
    """The part of a weight that this worker holds: `flat[offset : offset + length]` are its elements from `start`.

    `length` is 0 if the worker holds none of it.
    """

    shape: torch.Size
    flat: Tensor
    offset: int
    start: int
    length: int

    def of_flat(self, flat: Tensor) -> Tensor:
        """Return the shard's elements in a tensor that is laid out like `flat`."""
        return flat.narrow(0, self.offset, self.length)

    def of_weight(self, weight: Tensor) -> Tensor:
        """Return the shard's elements in the whole weight."""
        return weight.view(-1).narrow(0, self.start, self.length)

    def fill(self, values: Tensor, device: torch.device) -> Tensor:
        """Return a whole weight on `device` with these values for the shard's elements, and zeros elsewhere."""
        whole = torch.zeros(self.shape, dtype=values.dtype, device=device)
        self.of_weight(whole).copy_(values)
        return whole


def find_shards(engine: Any) -> Iterator[tuple[Tensor, Shard]]:
    """Yield (weight, its shard on this worker) for all weights that a DeepSpeed engine trains, in the same order."""
    zero = engine.optimizer
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # ZeRO-3 cuts every weight into equal parts
        for weight in (weight for group in zero.fp16_groups for weight in group):
            index, offset, part = zero.grad_position[zero.get_param_id(weight)]
            start = min(dist.get_rank() * part, weight.ds_numel)
            length = min(part, weight.ds_numel - start)
            yield weight, Shard(weight.ds_shape, zero.fp32_partitioned_groups_flat[index], offset, start, length)
        return
    for flat, group in zip(zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True):
        for weight in group:  # ZeRO-2 joins all weights and cuts the result
            here = weight._hp_mapping
            if here is None:
                yield weight, Shard(weight.shape, flat, 0, 0, 0)
            else:
                ours, its = here.hp_fragment_address, here.lp_fragment_address
                yield weight, Shard(weight.shape, flat, ours.start, its.start, its.numel)


class ShardedOptimizer(torch.optim.AdamW):
    """AdamW on ZeRO's flat tensors; Muon for the matrices of the blocks; optionally the moving average of all weights.

    Muon has the weight decay of AdamW and, unless told otherwise, its learning rate: torch's `match_rms_adamw` scales
    updates to a fifth of the rate, about the size of AdamW's. The state has the names of AdamW's moments, which
    DeepSpeed's conversion to another number of workers reads. Muon has one moment: its `exp_avg_sq` is the same tensor
    as its `exp_avg`.

    Args:
        adamw: weights for AdamW.
        muon: weights for Muon.
        momentum: Muon's Nesterov momentum.
        rate_scale: Muon's learning rate over AdamW's.
        ema_decay: decay of the average of the weights, kept as the state `average`; 0: no average.
        settings: arguments of `torch.optim.AdamW`.
    """

    def __init__(
        self,
        adamw: list[Tensor],
        muon: list[Tensor],
        *,
        momentum: float,
        rate_scale: float = 1.0,
        ema_decay: float,
        **settings: Any,
    ) -> None:
        super().__init__([{"params": weights} for weights in (adamw, muon) if weights], **settings)
        self.ema_decay = ema_decay
        self._momentum, self._rate_scale = momentum, rate_scale
        self._muon_weights = set(muon)
        self._matrices: dict[Tensor, list[Shard]] = {}  # by flat tensor
        self._device = torch.device("cpu")
        # It orthogonalises and scales whole matrices. Momentum and weight decay are applied to the shards.
        self._muon = torch.optim.Muon(
            [nn.Parameter(torch.zeros(1, 1))],
            weight_decay=0.0,
            momentum=0.0,
            nesterov=False,
            adjust_lr_fn="match_rms_adamw",
        )

    def bind(self, engine: Any) -> None:
        """Find Muon's matrices in the flat tensors of the engine. All workers call this before the first step."""
        self._device = engine.device
        for weight, shard in find_shards(engine):
            if weight in self._muon_weights:
                self._matrices.setdefault(shard.flat, []).append(shard)
        self._muon_weights.clear()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the flat tensors of `param_groups` by their gradients. All workers call this together."""
        groups = self.param_groups
        flats = [(flat, group) for group in groups for flat in group["params"]]
        first = {flat: flat.clone() for flat, _ in flats if self.ema_decay and AVERAGE not in self.state[flat]}
        for flat, group in flats:
            if flat in self._matrices:
                self._muon_step(flat, group["lr"] * self._rate_scale, group["weight_decay"])
        self.param_groups = [group for flat, group in flats if flat not in self._matrices]
        try:
            if self.param_groups:
                super().step()
        finally:
            self.param_groups = groups
        if self.ema_decay:
            for flat, _ in flats:
                _update_average(self.state[flat], flat, self.ema_decay, first.get(flat))

    def tie_moments(self) -> None:
        """Make Muon's moments one tensor again after a state was loaded."""
        for flat in self._matrices:
            if "exp_avg" in (state := self.state[flat]):
                state["exp_avg_sq"] = state["exp_avg"]

    def _muon_step(self, flat: Tensor, rate: float, weight_decay: float) -> None:
        state, gradient = self.state[flat], flat.grad
        assert gradient is not None
        if "exp_avg" not in state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = state["exp_avg_sq"] = torch.zeros_like(flat)
        state["step"] += 1
        moment = state["exp_avg"].lerp_(gradient, 1 - self._momentum)
        flat.mul_(1 - rate * weight_decay)
        matrices, rank, world_size = self._matrices[flat], dist.get_rank(), dist.get_world_size()
        for first in range(0, len(matrices), world_size):  # one for each worker
            shards = matrices[first : first + world_size]
            pieces = [shard.of_flat(gradient).lerp(shard.of_flat(moment), self._momentum) for shard in shards]
            wholes = [shard.fill(piece, self._device) for shard, piece in zip(shards, pieces, strict=True)]
            if world_size > 1:
                for owner, whole in enumerate(wholes):
                    dist.reduce(whole, dst=owner)
            if rank < len(wholes):
                wholes[rank] = self._orthogonal_update(wholes[rank], rate)
            for owner, (shard, whole) in enumerate(zip(shards, wholes, strict=True)):
                if world_size > 1:
                    dist.broadcast(whole, src=owner)
                shard.of_flat(flat).add_(shard.of_weight(whole).to(flat.device))

    def _orthogonal_update(self, direction: Tensor, rate: float) -> Tensor:
        """Return what `torch.optim.Muon` adds to a matrix whose gradient with momentum is `direction`."""
        if direction.device.type == "cpu":
            return muon_update(direction, rate).neg_()
        update = torch.zeros_like(direction)
        update.grad = direction
        (group,) = self._muon.param_groups
        group["params"], group["lr"] = [update], rate
        self._muon.step()
        group["params"] = []
        self._muon.state.clear()
        update.grad = None
        return update


def _update_average(state: dict[str, Any], flat: Tensor, decay: float, first: Tensor | None) -> None:
    """Move the average towards the weights; it follows them faster during the first steps, as in diffusers."""
    if first is not None:
        state[AVERAGE] = first
    steps = float(state["step"])
    state[AVERAGE].lerp_(flat, 1 - min(decay, (1 + steps) / (10 + steps)))


def gather_average(engine: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (weight, its whole average in float32), one at a time. All workers call this together."""
    state = engine.optimizer.optimizer.state
    for weight, shard in find_shards(engine):
        average = state[shard.flat].get(AVERAGE, shard.flat).detach()
        whole = shard.fill(shard.of_flat(average), engine.device)
        dist.all_reduce(whole)
        yield weight, whole


def use_average(engine: Any) -> None:
    """Replace the weights of an engine by their average, to measure it. Training cannot go on afterwards."""
    zero = engine.optimizer
    for flat, state in zero.optimizer.state.items():
        if AVERAGE in state:
            flat.data.copy_(state[AVERAGE])
    if not hasattr(zero, "fp32_partitioned_groups_flat"):
        zero.update_lp_params()
        return
    for index in range(len(zero.fp32_partitioned_groups_flat)):
        zero._reassign_or_swap_out_partitioned_parameters(index)
    zero._post_step([])
