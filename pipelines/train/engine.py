"""DeepSpeed: the process group it runs in, the engine around the network, and the weights out of it."""

from __future__ import annotations

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

TAG = "engine"


@dataclass(frozen=True)
class ProcessGroup:
    """Where one worker stands among all workers of the run."""

    rank: int
    world_size: int
    device: torch.device

    def barrier(self) -> None:
        """Wait for all workers."""
        dist.barrier()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all workers of a tensor of one shape, in place."""
        dist.all_reduce(values)
        return values

    def largest(self, *values: torch.Tensor | float) -> list[float]:
        """Return the largest of each number over all workers. Waits for the device once."""
        stacked = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        dist.all_reduce(stacked, op=dist.ReduceOp.MAX)
        return [float(value) for value in stacked.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether one worker says so."""
        return self.largest(flag) == [1.0]

    def mean(self, micro_batches: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        """Average scalars over all workers and their micro-batches. Waits for the device once.

        Args:
            micro_batches: of this worker; each has the same scalars, still on the device.

        Returns:
            A mean is not finite if a value of any worker is not.
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
    """Join the run's process group: Ray Train's, or one of this process alone in local mode (`num_workers=0`)."""
    if not config.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    # Nothing is compiled: DeepSpeed asks this table only for its shared-memory collectives, and gloo does their work.
    # To fill the table it would run a compiler on every start.
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
        # DeepSpeed's own function: it also forgets the groups it made, so the next stage can begin in this process.
        if deepspeed.comm.is_initialized():
            deepspeed.comm.destroy_process_group()
        else:
            dist.destroy_process_group()


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """DeepSpeed's own settings for a stage."""
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
        "zero_allow_untested_optimizer": True,  # torch's AdamW; DeepSpeed's need a compiler
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def open_engine(network: nn.Module, config: TrainConfig) -> Any:
    """A DeepSpeed engine that trains the weights of `network` that require gradients, with AdamW."""
    import deepspeed

    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    engine, *_ = deepspeed.initialize(
        model=network,
        model_parameters=trained,
        optimizer=optimizer,
        config=deepspeed_config(config),
        dist_init_required=False,
    )
    return engine


def set_learning_rate(engine: Any, config: TrainConfig, step: int) -> float:
    """Linear warm-up, then constant: a function of the step, so there is no scheduler's state to lose."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(config.warmup_steps, 1))
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    return rate


def grad_norm(engine: Any) -> torch.Tensor | float:
    """Return the global L2 norm of the last step's gradients, before clipping, the same on all workers.

    It is infinite if a gradient was not finite: then ZeRO has skipped the update, and weights and optimizer are those
    of the step before. DeepSpeed computes it for clipping, with the optimizer on the device or on the host.
    """
    norm: torch.Tensor | float = engine.get_global_grad_norm()
    return norm


def call_before_updates(engine: Any, call: Callable[[], Any]) -> Any:
    """Call a function each time before the optimizer changes weights, until `remove()` of what is returned."""

    def hook(*_: Any) -> None:  # torch would take an answer for other arguments
        call()

    return engine.optimizer.optimizer.register_step_pre_hook(hook)


def trained_names(engine: Any) -> list[str]:
    """Names of the weights that the engine trains."""
    return sorted(name for name, weight in engine.module.named_parameters() if weight.requires_grad)


def collect_state_files(engine: Any, folder: Path, taken: Callable[[Any], Any]) -> dict[Path, Any]:
    """What this rank would write of the engine's state below `folder` by DeepSpeed: file → `taken` of its content.

    Trained weights and optimizer, not the frozen weights. All ranks call this; `folder` is there.
    """
    writer = engine.checkpoint_engine
    collector = _Collector(writer, taken)
    engine.checkpoint_engine = collector
    try:
        engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
    finally:
        engine.checkpoint_engine = writer
    return collector.files


class _Collector:
    """Stands for DeepSpeed's writer, and keeps what it is given to write."""

    def __init__(self, writer: Any, taken: Callable[[Any], Any]) -> None:
        self._writer, self._taken = writer, taken
        self.files: dict[Path, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def save(self, state_dict: Any, path: str) -> None:
        self.files[Path(path)] = self._taken(state_dict)

    def preserves_storage_sharing(self) -> bool:
        return False  # or DeepSpeed would copy what is copied here


def read_engine(engine: Any, folder: Path, *, universal: bool = False) -> None:
    """Load a training state as `collect_state_files` returned it, or converted to DeepSpeed's universal form.

    The frozen weights are not in it, so DeepSpeed cannot be strict; the caller compares `trained_names` instead.
    """
    # DeepSpeed asks this of its settings, and they were given before it was known which state there is.
    engine.load_universal_checkpoint = lambda: universal
    with symlink_without_brackets(folder) as plain:
        engine.load_checkpoint(str(plain), tag=TAG, load_module_strict=False)
    if universal:
        # ZeRO-3 gives all groups of weights the one step count that it read, and AdamW would add to it for each group.
        for state in engine.optimizer.optimizer.state.values():
            state["step"] = state["step"].clone()


@contextmanager
def symlink_without_brackets(folder: Path) -> Iterator[Path]:
    """The folder under a name without brackets and the like, which DeepSpeed would take for patterns."""
    with tempfile.TemporaryDirectory() as plain:
        link = Path(plain) / "state"
        link.symlink_to(folder.resolve())
        yield link


def gather_trained(engine: Any, dtype: torch.dtype, is_first: bool) -> dict[str, torch.Tensor]:
    """The trained weights, whole, in host memory, one after another; all ranks call this, the first one gets them."""
    from deepspeed.utils import safe_get_full_fp32_param

    weights = {}
    for name, weight in engine.module.named_parameters():
        if weight.requires_grad:
            whole = safe_get_full_fp32_param(weight)
            if is_first:
                weights[name] = torch.empty(whole.shape, dtype=dtype).copy_(whole.detach())
    return weights


def full_weights(engine: Any) -> dict[str, torch.Tensor]:
    """Every weight of the network, whole, on the CPU; trained ones in float32, frozen ones as they are.

    All ranks call this; the first rank gets the weights, the others an empty mapping.
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
