"""Estimate the duration of a stage, and its memory with different settings."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ....datasets.shards import Bucket
from .. import flops
from ..config import TrainConfig
from ..metrics_file import read_rows
from . import footprint

_MEASURED_STEPS = 50  # the measured rate is the median of this many last steps

# Ways to save activations for the backward pass.
_ACTIVATIONS: dict[str, dict[str, bool]] = {
    "everything": {"gradient_checkpointing": False},
    "block inputs and attention": {"gradient_checkpointing": True, "keep_attention_outputs": True},
    "block inputs": {"gradient_checkpointing": True},
    "block inputs, on the host": {"gradient_checkpointing": True, "offload_activations": True},
}
_ALL_SAVED = {"gradient_checkpointing": False, "keep_attention_outputs": False, "offload_activations": False}


def mean_step_flops(config: TrainConfig, network: flops.Network, buckets: list[Bucket]) -> flops.Flops:
    """Compute the FLOPs of one optimizer step over all workers, averaged over clips of these sizes."""
    each = {bucket: flops.step_flops(config, network, bucket) for bucket in set(buckets)}
    clips = config.global_batch_size
    return flops.Flops(
        model=clips * statistics.fmean(each[bucket].model for bucket in buckets),
        hardware=clips * statistics.fmean(each[bucket].hardware for bucket in buckets),
    )


def seconds_a_step(
    config: TrainConfig,
    network: flops.Network,
    buckets: list[Bucket],
    *,
    out: Path,
    fork: Path | None = None,
    tflops: float | None = None,
) -> tuple[float | None, str | None]:
    """Estimate (seconds per step, source of the estimate); (None, None) if it is unknown.

    `given`: operations divided by `tflops` per worker. `measured`: median of the newest steps in `out`. `measured in
    the fork`: median of those in `fork`, scaled by operations and workers.
    """
    step_flops = mean_step_flops(config, network, buckets).hardware
    workers = max(config.num_workers, 1)
    if tflops is not None:
        return step_flops / (workers * tflops * 1e12), "given"
    if taken := _measured(out):
        return taken, "measured"
    if fork is not None and (taken := _measured(fork)):
        begun = json.loads((fork / "start.json").read_text())["config"]
        known = {name: value for name, value in begun.items() if name in TrainConfig.model_fields}
        other = TrainConfig.model_validate({**config.model_dump(mode="json"), **known})
        fork_flops = mean_step_flops(other, network, buckets).hardware / max(other.num_workers, 1)
        return taken * (step_flops / workers) / fork_flops, "measured in the forked run"
    return None, None


def _measured(out: Path) -> float | None:
    seconds = [row["seconds"] for row in read_rows(out)[-_MEASURED_STEPS:]]
    return statistics.median(seconds) if seconds else None


def memory_by_setting(config: TrainConfig, network: flops.Network, bucket: Bucket) -> list[dict[str, Any]]:
    """Compute GPU memory, host memory and FLOPs for all memory settings of the same step.

    The settings are the ZeRO stage, the place of the optimizer, and the activations saved for the backward pass;
    `is_set` marks the current configuration.
    """
    rows = []
    for zero_stage, offload, (name, saving) in product((2, 3), (False, True), _ACTIVATIONS.items()):
        way = with_settings(config, zero_stage=zero_stage, offload_optimizer=offload, **{**_ALL_SAVED, **saving})
        if way is not None:
            rows.append({
                "zero_stage": zero_stage,
                "offload_optimizer": offload,
                "kept_for_backward": name,
                "is_set": way == config,
                "gpu_memory_bytes": footprint.gpu_memory(way, network, bucket)["total"],
                "host_memory_bytes": footprint.host_memory(way, network, bucket)["total"],
                "hardware_flops_a_clip": flops.step_flops(way, network, bucket).hardware,
            })  # fmt: skip
    return rows


def memory_by_size(config: TrainConfig, network: flops.Network, buckets: list[Bucket]) -> list[dict[str, Any]]:
    """Compute clips, tokens, GPU memory and FLOPs for every clip size in the cache, the largest first."""
    return [
        {
            "num_frames": bucket[0],
            "height": bucket[1],
            "width": bucket[2],
            "clips": buckets.count(bucket),
            "tokens": flops.num_tokens(network, bucket),
            "gpu_memory_bytes": footprint.gpu_memory(config, network, bucket)["total"],
            "hardware_flops_a_clip": flops.step_flops(config, network, bucket).hardware,
        }
        for bucket in sorted(set(buckets), key=lambda size: -flops.num_tokens(network, size))
    ]


def memory_reductions(config: TrainConfig, network: flops.Network, bucket: Bucket) -> Iterator[tuple[str, int]]:
    """Find single changes that need less GPU memory; yield (setting, bytes of a GPU with it)."""
    now = footprint.gpu_memory(config, network, bucket)["total"]
    micro_batches = config.global_batch_size // max(config.num_workers, 1)
    changes: dict[str, dict[str, Any]] = {
        "gradient_checkpointing": {"gradient_checkpointing": True},
        "keep_attention_outputs off": {"keep_attention_outputs": False},
        "offload_activations": {"offload_activations": True},
        f"gradient_accumulation {micro_batches}": {"gradient_accumulation": micro_batches},
        "zero_stage 3": {"zero_stage": 3},
        "offload_optimizer": {"offload_optimizer": True},
        "shard_teacher": {"shard_teacher": True},
        "twice the workers": {
            "num_workers": 2 * config.num_workers,
            "global_batch_size": max(config.global_batch_size, 2 * config.num_workers * config.gradient_accumulation),
        },
    }
    for way, change in changes.items():
        other = with_settings(config, **change)
        if other is not None and (less := footprint.gpu_memory(other, network, bucket)["total"]) < now:
            yield way, less


def with_settings(config: TrainConfig, **changes: Any) -> TrainConfig | None:
    """Return the configuration with different settings; None if the result is not valid."""
    try:
        return TrainConfig.model_validate({**config.model_dump(), **changes})
    except ValidationError:
        return None
