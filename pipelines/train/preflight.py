"""Whether a stage will fit and how long it will take, said before any GPU is taken."""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...datasets.artifact import json_digest
from ...datasets.sampler import StepSampler
from ...datasets.shards import Bucket
from ...datasets.storage import Location
from .checkpoint import TrainingRefused, read_metrics, steps_done
from .config import TrainConfig
from .publish import run_folder
from .split import split
from .start import Start, check_start
from .trackers import refuse_missing

_MEASURED_STEPS = 50  # a rate is the median of so many steps, the last ones
_GB = 1e9


def plan(
    config: TrainConfig,
    *,
    latents: Location,
    base: str | None,
    out: Location,
    from_checkpoint: Location | None = None,
    address: str | None = None,
    tflops: float | None = None,
    gpu_memory_gb: float | None = None,
) -> dict[str, Any]:
    """What `run` would do and need, without loading a weight.

    Args:
        config: the stage.
        latents: of `run`, as all up to `address`.
        base: see `run`.
        out: see `run`.
        from_checkpoint: see `run`.
        address: see `run`.
        tflops: 10¹² operations that one GPU does in a second; None: the rate of the steps already taken in `out`.
        gpu_memory_gb: memory of one GPU, 10⁹ bytes; None: of this machine's, unless `address` names another.

    Returns:
        JSON values: steps, samples, parameters, bytes of GPU, host and disk by what they hold, operations a step,
        hours left (null without a rate), and `refusals`, sentences of which `run` would raise the first.

    Raises:
        TrainingRefused: the inputs do not fit together, so that there is nothing to plan.
    """
    from . import cost

    start = check_start(config, latents, base, from_checkpoint, fetch=False)
    here = run_folder(out)
    keys = split(start.shards, config).training
    sampler = StepSampler({key: start.shards.bucket[key] for key in keys}, config.global_batch_size, config.seed)
    network = cost.count(config, start.transformer_config)
    state_bytes = cost.engine_state_bytes(config, network)
    flops = _mean_step_flops(config, network, start)
    done = steps_done(here)
    seconds, rate_from = _seconds_a_step(config, flops.hardware, here, tflops)
    return {
        "stage": config.stage,
        "out": str(out.resolve()),
        "steps": config.steps,
        "steps_done": done,
        "samples": len(keys),
        "validation": start.record["validation"],
        "batches_per_epoch": sampler.steps_per_epoch,
        "epochs": config.steps / sampler.steps_per_epoch,
        "workers": config.num_workers,
        "parameters": network.parameters,
        "trained_parameters": network.trained,
        "gpu_memory_bytes": cost.gpu_memory(config, network, _largest(start)) if config.use_gpu else None,
        "host_memory_bytes": cost.host_memory(config, network),
        "checkpoint_bytes": cost.checkpoint_bytes(config, network),
        "engine_state_bytes": state_bytes,
        # While a state is written, the ones that stay are still there.
        "engine_states_bytes_at_most": state_bytes * (config.keep_checkpoints + 1),
        "model_flops_a_step": flops.model,
        "hardware_flops_a_step": flops.hardware,
        "seconds_a_step": seconds,
        "rate_from": rate_from,
        "hours_left": None if seconds is None else max(config.steps - done, 0) * seconds / 3600,
        "refusals": list(_refusals(config, start, network, here, address, gpu_memory_gb)),
        "config_digest": json_digest(config.model_dump(mode="json")),
        "base": start.record["base"],
        "parent": start.record["parent"],
        "latents": start.record["latents"],
    }


def _largest(start: Start) -> Bucket:
    return max(start.shards.bucket.values(), key=lambda bucket: bucket[0] * bucket[1] * bucket[2])


def _mean_step_flops(config: TrainConfig, network: Any, start: Start) -> Any:
    """Operations of one optimizer step of all workers, the mean over the clips there are."""
    from . import cost

    buckets = list(start.shards.bucket.values())
    each = {bucket: cost.step_flops(config, network, bucket) for bucket in set(buckets)}
    clips = config.global_batch_size
    return cost.Flops(
        model=clips * statistics.fmean(each[bucket].model for bucket in buckets),
        hardware=clips * statistics.fmean(each[bucket].hardware for bucket in buckets),
    )


def _seconds_a_step(
    config: TrainConfig, flops: float, out: Path, tflops: float | None
) -> tuple[float | None, str | None]:
    """(seconds, where the rate is from): a given rate, or the newest steps of the run in `out`, or neither."""
    if tflops is not None:
        return flops / (max(config.num_workers, 1) * tflops * 1e12), "given"
    seconds = [row["seconds"] for row in read_metrics(out)[-_MEASURED_STEPS:]]
    return (statistics.median(seconds), "measured") if seconds else (None, None)


def refuse_what_cannot_work(config: TrainConfig, start: Start, out: Path, address: str | None) -> None:
    """Raise `TrainingRefused` for the first thing that would fail after hours, or wait without a word."""
    from . import cost

    network = cost.count(config, start.transformer_config)
    for refusal in _refusals(config, start, network, out, address, None):
        raise TrainingRefused(refusal)


def _refusals(
    config: TrainConfig, start: Start, network: Any, out: Path, address: str | None, gpu_memory_gb: float | None
) -> Iterator[str]:
    """What cannot work, as sentences that begin with the field."""
    from . import cost

    missing = refuse_missing(config)
    if missing:
        yield missing
    if address is None:
        yield from _missing_workers(config)
    if config.use_gpu:
        yield from _too_little_gpu_memory(
            config, cost.gpu_memory(config, network, _largest(start)), _gpu_bytes(address, gpu_memory_gb)
        )
        if address is None:  # on a CPU everything is host memory, and machines that swap are nobody's plan
            yield from _too_little_host_memory(cost.host_memory(config, network), _host_bytes())
    needed = cost.engine_state_bytes(config, network) * (config.keep_checkpoints + 1)
    yield from _too_little_disk(needed + cost.checkpoint_bytes(config, network), out)


def _missing_workers(config: TrainConfig) -> Iterator[str]:
    """GPUs or cores that this machine does not have: a private Ray would wait for them without a word."""
    import torch

    wanted = max(config.num_workers, 1)
    if config.use_gpu and wanted > (here := torch.cuda.device_count()):
        yield (
            f"num_workers: {wanted} GPU are asked for and this machine has {here}: give --address of a cluster that "
            "has them, fewer --num-workers, or a preset without GPU (tiny)"
        )
    if not config.use_gpu and wanted > (here := os.cpu_count() or 1):
        yield f"num_workers: {wanted} cores are asked for and this machine has {here}"


def _too_little_gpu_memory(config: TrainConfig, parts: dict[str, int], there: int | None) -> Iterator[str]:
    if there is None or parts["total"] <= there:
        return
    ways = [
        way
        for way, is_left in (
            ("gradient_checkpointing", not config.gradient_checkpointing),
            ("keep_attention_outputs off", config.keep_attention_outputs),
            ("more gradient_accumulation", config.micro_batch_size > 1),
            ("zero_stage 3", config.zero_stage == 2 and config.num_workers > 1),
            ("offload_optimizer", not config.offload_optimizer),
            ("more workers", True),
        )
        if is_left
    ]
    held = ", ".join(f"{name} {size / _GB:.1f}" for name, size in parts.items() if name != "total" and size)
    yield (
        f"gpu_memory: a step needs {parts['total'] / _GB:.0f} GB a GPU ({held}) and the GPU has {there / _GB:.0f} GB: "
        f"try {', '.join(ways)}"
    )


def _too_little_host_memory(parts: dict[str, int], there: int) -> Iterator[str]:
    if parts["total"] > there:
        held = ", ".join(f"{name} {size / _GB:.0f}" for name, size in parts.items() if name != "total" and size)
        yield (
            f"host_memory: {parts['total'] / _GB:.0f} GB are needed ({held}) and this machine has {there / _GB:.0f} "
            "GB: try asynchronous_checkpoints off, no offload_optimizer, or a cluster (--address)"
        )


def _too_little_disk(needed: int, out: Path) -> Iterator[str]:
    folder = next(parent for parent in (out, *out.parents) if parent.exists())
    used = sum(file.stat().st_size for file in (out / "state").rglob("*") if file.is_file())
    free = shutil.disk_usage(folder).free
    if needed - used > free:
        yield (
            f"disk: {out} needs {(needed - used) / _GB:.1f} GB more for engine states and the checkpoint, and "
            f"{free / _GB:.1f} GB are free: make room, choose another --out, or lower keep_checkpoints"
        )


def _gpu_bytes(address: str | None, gpu_memory_gb: float | None) -> int | None:
    import torch

    if gpu_memory_gb is not None:
        return int(gpu_memory_gb * _GB)
    if address is None and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return None


def _host_bytes() -> int:
    """Memory of this machine, or what its container may take of it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    cgroup = Path("/sys/fs/cgroup/memory.max")
    if cgroup.exists() and (limit := cgroup.read_text().strip()).isdigit():
        limits.append(json.loads(limit))
    return min(limits)
