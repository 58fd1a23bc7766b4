"""Plan a stage before it uses a GPU: whether it fits, what it needs, and how long it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....datasets.sampler import StepSampler
from ....datasets.shards import Bucket
from ....datasets.storage import Location
from ....datasets.storage.digests import json_digest
from ....models.mode_requirements import host_memory_bytes
from ..config import TrainConfig
from ..data.split import split
from ..metrics.trackers import missing_tracker
from ..publish import run_folder
from ..run_folder import TrainingRefused, steps_done
from .fork import check_fork
from .inputs import StageInputs, check_inputs, refuse_other_run

if TYPE_CHECKING:
    from ..flops import Network

_GB = 1e9


def plan(
    config: TrainConfig,
    *,
    latents: Location,
    base: str | None,
    out: Location,
    from_checkpoint: Location | None = None,
    address: str | None = None,
    fork: Location | None = None,
    tflops: float | None = None,
    gpu_memory_gb: float | None = None,
) -> dict[str, Any]:
    """Compute what `run` would do and need, without loading weights.

    Args:
        config: the stage.
        latents: see `run`.
        base: see `run`; of a base that is not on this machine only `config.json` is downloaded.
        out: see `run`.
        from_checkpoint: see `run`.
        address: see `run`.
        fork: see `run`.
        tflops: 10¹² operations per second of one GPU; None: the rate of the steps already taken in `out` or `fork`.
        gpu_memory_gb: memory of one GPU in 10⁹ bytes; None: that of this machine's GPU, unless `address` is given.

    Returns:
        JSON values: steps, samples, parameters, bytes of GPU, host and disk by content, memory with other settings and
        by clip size, operations per step, hours left (null without a rate), `sizes_assumed` (the network assumed if the
        base's sizes are unknown, else null), and `refusals`, of which `run` would raise the first. See `table.table`.

    Raises:
        TrainingRefused: the inputs do not fit together.
    """
    from .. import flops
    from . import disk, footprint, forecast

    inputs = check_inputs(config, latents, base, from_checkpoint, fetch=False)
    folder, fork_folder = run_folder(out), run_folder(fork).resolve() if fork is not None else None
    keys, sampler = _order(config, inputs)
    buckets = [inputs.shards.bucket[key] for key in keys]
    network, largest = flops.count(config, inputs.transformer_config, inputs.vae_config), _largest(inputs)
    step_flops = forecast.mean_step_flops(config, network, buckets)
    on_disk = disk.needed_bytes(config, inputs, network, sampler, keys)
    refusals = list(_folder_conflicts(inputs, folder, fork_folder))
    forked = check_fork(fork_folder, folder, inputs.record) if fork_folder is not None and not refusals else None
    done = forked.steps if forked else steps_done(folder)
    seconds, rate_from = forecast.seconds_a_step(config, network, buckets, out=folder, fork=fork_folder, tflops=tflops)
    return {
        "stage": config.stage,
        "out": str(out.resolve()),
        "steps": config.steps,
        "steps_done": done,
        "forked_from": forked and {"path": str(fork_folder), "steps": forked.steps, "changes": forked.changes},
        "samples": len(keys),
        "validation": inputs.record["validation"],
        "batches_per_epoch": sampler.steps_per_epoch,
        "epochs": config.steps / sampler.steps_per_epoch,
        "repeated_per_epoch": sampler.num_repeated,
        "workers": config.num_workers,
        "parameters": network.parameters,
        "trained_parameters": network.trained,
        "gpu_bytes": _gpu_bytes(address, gpu_memory_gb) if config.use_gpu else None,
        "gpu_memory_bytes": footprint.gpu_memory(config, network, largest) if config.use_gpu else None,
        "host_memory_bytes": footprint.host_memory(config, network, largest),
        "memory_by_setting": forecast.memory_by_setting(config, network, largest) if config.use_gpu else None,
        "memory_by_size": forecast.memory_by_size(config, network, buckets) if config.use_gpu else None,
        "engine_state_bytes": footprint.training_state_bytes(config, network),
        "disk_bytes": on_disk,
        "disk_free_bytes": disk.free_bytes(folder),
        "model_flops_a_step": step_flops.model,
        "hardware_flops_a_step": step_flops.hardware,
        "seconds_a_step": seconds,
        "rate_from": rate_from,
        "hours_left": None if seconds is None else max(config.steps - done, 0) * seconds / 3600,
        "refusals": refusals + list(_refusals(config, inputs, network, on_disk, folder, address, gpu_memory_gb)),
        "config_digest": json_digest(config.model_dump(mode="json")),
        "base": inputs.record["base"],
        "sizes_assumed": None if inputs.transformer_config else "Wan 14B",
        "parent": inputs.record["parent"],
        "latents": inputs.record["latents"],
    }


def _order(config: TrainConfig, inputs: StageInputs) -> tuple[tuple[str, ...], StepSampler]:
    """Return the keys of the training samples, and their sampler."""
    keys = split(inputs.shards, config).training
    buckets = {key: inputs.shards.bucket[key] for key in keys}
    return keys, StepSampler(buckets, config.global_batch_size, config.seed)


def _largest(inputs: StageInputs) -> Bucket:
    return max(inputs.shards.bucket.values(), key=lambda bucket: bucket[0] * bucket[1] * bucket[2])


def _folder_conflicts(inputs: StageInputs, out: Path, fork: Path | None) -> Iterator[str]:
    """Yield the reasons why the run cannot start or resume in that folder."""
    for check in (
        lambda: check_fork(fork, out, inputs.record) if fork is not None else None,
        lambda: refuse_other_run(out, inputs.record),
    ):
        try:
            check()
        except TrainingRefused as refused:
            yield str(refused)


def check_feasible(config: TrainConfig, inputs: StageInputs, out: Path, address: str | None) -> None:
    """Raise `TrainingRefused` for the first problem that would appear only after hours, or make Ray wait forever."""
    from .. import flops
    from . import disk

    network = flops.count(config, inputs.transformer_config, inputs.vae_config)
    keys, sampler = _order(config, inputs)
    on_disk = disk.needed_bytes(config, inputs, network, sampler, keys)
    for refusal in _refusals(config, inputs, network, on_disk, out, address, None):
        raise TrainingRefused(refusal)


def _refusals(
    config: TrainConfig,
    inputs: StageInputs,
    network: Network,
    on_disk: dict[str, int],
    out: Path,
    address: str | None,
    gpu_memory_gb: float | None,
) -> Iterator[str]:
    """Yield the reasons why the stage cannot run; each starts with the field."""
    from . import disk, footprint

    missing = missing_tracker(config)
    if missing:
        yield missing
    if address is None:
        yield from _missing_workers(config)
    if config.use_gpu:
        gpu_bytes = _gpu_bytes(address, gpu_memory_gb)
        yield from _too_little_gpu_memory(config, network, _largest(inputs), gpu_bytes)
        if address is None:  # not on a CPU: there all memory is host memory
            yield from _too_little_host_memory(
                footprint.host_memory(config, network, _largest(inputs)), host_memory_bytes()
            )
    yield from disk.space_refusals(on_disk, out)


def _missing_workers(config: TrainConfig) -> Iterator[str]:
    """Yield a refusal for missing GPUs or cores: a private Ray would wait for them forever."""
    import torch

    wanted = max(config.num_workers, 1)
    if config.use_gpu and wanted > (count := torch.cuda.device_count()):
        yield (
            f"num_workers: {wanted} GPUs requested, but this machine has {count}: pass the --address of a cluster that "
            "has them, lower --num-workers, or use a preset without GPUs (tiny)"
        )
    if not config.use_gpu and wanted > (count := os.cpu_count() or 1):
        yield f"num_workers: {wanted} cores requested, but this machine has {count}: lower --num-workers"


def _too_little_gpu_memory(
    config: TrainConfig, network: Network, bucket: Bucket, available: int | None
) -> Iterator[str]:
    from . import footprint, forecast

    parts = footprint.gpu_memory(config, network, bucket)
    if available is None or parts["total"] <= available:
        return
    ways = sorted(forecast.memory_reductions(config, network, bucket), key=lambda way: way[1])
    helps = ", ".join(f"{way} ({needed / _GB:.0f} GB)" for way, needed in ways)
    yield (
        f"gpu_memory: a step needs {parts['total'] / _GB:.0f} GB per GPU ({_breakdown(parts)}), but the GPU has "
        f"{available / _GB:.0f} GB: try {helps or 'a smaller area or fewer frames'}"
    )


def _breakdown(parts: dict[str, int]) -> str:
    totals = ("total", "update", "loading")
    return ", ".join(f"{name} {size / _GB:.1f}" for name, size in parts.items() if name not in totals and size)


def _too_little_host_memory(parts: dict[str, int], available: int) -> Iterator[str]:
    if parts["total"] > available:
        ways = [
            way
            for way, part in (
                ("asynchronous_checkpoints off", "checkpoint_copy"),
                ("offload_activations off", "offloaded_activations"),
                ("offload_optimizer off", "offloaded_optimizer"),
            )
            if parts[part]
        ]
        yield (
            f"host_memory: {parts['total'] / _GB:.0f} GB are needed ({_breakdown(parts)}), but this machine has "
            f"{available / _GB:.0f} GB: try {', '.join([*ways, 'machines with more memory (--address)'])}"
        )


def _gpu_bytes(address: str | None, gpu_memory_gb: float | None) -> int | None:
    import torch

    if gpu_memory_gb is not None:
        return int(gpu_memory_gb * _GB)
    if address is None and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return None
