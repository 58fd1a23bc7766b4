"""DeepSpeed: process group, engine, learning rate, and saving and loading of its state and weights."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .config import TrainConfig
from .optimizer import ShardedOptimizer, build_optimizer, gather_average

TAG = "engine"


@dataclass(frozen=True)
class ProcessGroup:
    """The run's process group: rank and device of this worker, and the collectives."""

    rank: int
    world_size: int
    device: torch.device

    def barrier(self) -> None:
        """Wait for all workers."""
        dist.barrier()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum a tensor of the same shape over all workers, in place."""
        dist.all_reduce(values)
        return values

    def largest(self, *values: torch.Tensor | float) -> list[float]:
        """Return the maximum of each number over all workers. Synchronises with the device once."""
        stacked = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        dist.all_reduce(stacked, op=dist.ReduceOp.MAX)
        return [float(value) for value in stacked.tolist()]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on at least one worker."""
        return self.largest(flag) == [1.0]

    def mean(self, micro_batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        """Average scalars over all workers and their micro-batches. Synchronises with the device once.

        Args:
            micro_batches: scalars by name for each micro-batch of this worker, on the device.

        Returns:
            Mean by name; not finite if any worker's value is not.
        """
        names = list(micro_batches[0])
        stacked = torch.stack(
            [torch.stack([terms[name].detach().double() for name in names]) for terms in micro_batches]
        )
        dist.all_reduce(stacked)
        columns = zip(*(stacked / self.world_size).tolist(), strict=True)
        return {name: sum(column) / len(micro_batches) for name, column in zip(names, columns, strict=True)}


@contextmanager
def process_group(config: TrainConfig) -> Iterator[ProcessGroup]:
    """Join the run's process group: Ray Train's, or a group of one in local mode (`num_workers=0`)."""
    if not config.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    # DeepSpeed reads this table only for its shared-memory collectives, which gloo replaces. An empty table stops it
    # from running a compiler on every start.
    deepspeed.ops.__compatible_ops__ = {}
    if config.num_workers > 0:
        import ray.train.torch

        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), ray.train.torch.get_device())
        return
    os.environ.setdefault("LOCAL_RANK", "0")
    dist.init_process_group("nccl" if config.use_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield ProcessGroup(0, 1, torch.device("cuda", 0) if config.use_gpu else torch.device("cpu"))
    finally:
        # DeepSpeed's own function also clears its groups, so the next stage can start in this process.
        if deepspeed.comm.is_initialized():
            deepspeed.comm.destroy_process_group()
        else:
            dist.destroy_process_group()


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """Build DeepSpeed's configuration for a stage."""
    zero: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": config.use_gpu}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_batch_size": config.global_batch_size,
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": zero,
        "bf16": {"enabled": config.dtype == "bfloat16"},
        "zero_allow_untested_optimizer": True,  # torch's AdamW and Muon: DeepSpeed's optimizers need a compiler
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def open_engine(network: nn.Module, config: TrainConfig) -> Any:
    """Open a DeepSpeed engine that trains the weights of `network` that require gradients."""
    import deepspeed

    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = build_optimizer(network, config)
    engine, *_ = deepspeed.initialize(
        model=network,
        model_parameters=trained,
        optimizer=optimizer,
        config=deepspeed_config(config),
        dist_init_required=False,
    )
    if isinstance(optimizer, ShardedOptimizer):
        optimizer.bind(engine)
    return engine


def set_learning_rate(engine: Any, config: TrainConfig, step: int) -> float:
    """Set the rate of a step: linear warm-up, then the schedule, without any scheduler state to save."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.learning_rate_schedule == "cosine" and step >= config.warmup_steps:
        done = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
        rate *= (1 + math.cos(math.pi * done)) / 2
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    return rate


def grad_norm(engine: Any) -> torch.Tensor | float:
    """Return the global L2 norm of the last step's gradients, before clipping, the same on all workers.

    It is infinite if a gradient was not finite: then ZeRO skipped the update, and weights and optimizer are those of
    the previous step. DeepSpeed computes the norm for clipping, with the optimizer on the device or on the host.
    """
    norm: torch.Tensor | float = engine.get_global_grad_norm()
    return norm


def call_before_updates(engine: Any, call: Callable[[], Any]) -> Any:
    """Call a function before every optimizer update; returns a handle whose `remove()` ends it."""

    def hook(*_: Any) -> None:  # a return value would replace the arguments
        call()

    return engine.optimizer.optimizer.register_step_pre_hook(hook)


def trained_names(engine: Any) -> list[str]:
    """List the names of the weights that the engine trains."""
    return sorted(name for name, weight in engine.module.named_parameters() if weight.requires_grad)


def collect_state_files(engine: Any, folder: Path, copy: Callable[[Any], Any]) -> dict[Path, Any]:
    """Collect the files that DeepSpeed would write below `folder` on this rank: path → `copy(content)`.

    They contain the trained weights and the optimizer, not the frozen weights. All ranks call this; `folder` exists.
    """
    writer = engine.checkpoint_engine
    collector = _Collector(writer, copy)
    engine.checkpoint_engine = collector
    try:
        engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
    finally:
        engine.checkpoint_engine = writer
    return collector.files


class _Collector:
    """Replacement for DeepSpeed's checkpoint writer that collects the content instead of writing it."""

    def __init__(self, writer: Any, copy: Callable[[Any], Any]) -> None:
        self._writer, self._copy = writer, copy
        self.files: dict[Path, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def save(self, state_dict: Any, path: str) -> None:
        self.files[Path(path)] = self._copy(state_dict)

    def preserves_storage_sharing(self) -> bool:
        return False  # else DeepSpeed would make another copy


def read_engine(engine: Any, folder: Path, *, universal: bool = False) -> None:
    """Load a training state as `collect_state_files` returned it, or converted to DeepSpeed's universal form.

    The frozen weights are not in it, so loading cannot be strict; the caller compares `trained_names` instead.
    """
    # DeepSpeed takes this from its configuration, which was built before the state to load was known.
    engine.load_universal_checkpoint = lambda: universal
    with symlink_without_brackets(folder) as plain:
        engine.load_checkpoint(str(plain), tag=TAG, load_module_strict=False)
    if universal:
        # ZeRO-3 shares one step counter between all parameter groups; the optimizer would increment it once per group.
        for state in engine.optimizer.optimizer.state.values():
            state["step"] = state["step"].clone()
    if isinstance(engine.optimizer.optimizer, ShardedOptimizer):
        engine.optimizer.optimizer.tie_moments()


@contextmanager
def symlink_without_brackets(folder: Path) -> Iterator[Path]:
    """Yield a link to the folder without glob characters in its path, which DeepSpeed would expand."""
    with tempfile.TemporaryDirectory() as plain:
        link = Path(plain) / "state"
        link.symlink_to(folder.resolve())
        yield link


def gather_trained(engine: Any, dtype: torch.dtype, is_first: bool) -> dict[str, torch.Tensor]:
    """Gather the full trained weights in host memory, one at a time. All ranks call this; rank 0 gets them.

    With `ema_decay` they are the average of the weights.
    """
    weights = {}
    for name, whole in _whole_weights(engine):
        if is_first:
            weights[name] = torch.empty(whole.shape, dtype=dtype).copy_(whole.detach())
    return weights


def _whole_weights(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    from deepspeed.utils import safe_get_full_fp32_param

    named = {name: weight for name, weight in engine.module.named_parameters() if weight.requires_grad}
    if getattr(engine.optimizer.optimizer, "ema_decay", 0.0):
        names = {weight: name for name, weight in named.items()}
        yield from ((names[weight], whole) for weight, whole in gather_average(engine))
    else:
        yield from ((name, safe_get_full_fp32_param(weight)) for name, weight in named.items())


def full_weights(engine: Any) -> dict[str, torch.Tensor]:
    """Gather all weights of the network on the CPU; trained ones in float32, frozen ones in their own dtype.

    All ranks call this; rank 0 gets the weights, the others an empty mapping.
    """
    from deepspeed.runtime.zero import GatheredParameters

    is_first = dist.get_rank() == 0
    weights = gather_trained(engine, torch.float32, is_first)
    for name, weight in engine.module.named_parameters():
        if not weight.requires_grad:
            with GatheredParameters([weight], enabled=hasattr(weight, "ds_id")):
                if is_first:
                    weights[name] = weight.detach().cpu().clone()
    if is_first:
        stored = engine.module.state_dict().keys()
        buffers = {name: buffer for name, buffer in engine.module.named_buffers() if name in stored}
        weights |= {name: buffer.detach().cpu().clone() for name, buffer in buffers.items()}
    return weights
