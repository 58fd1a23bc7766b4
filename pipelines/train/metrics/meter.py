"""Measure the time of a step and its parts, memory, and the use of the GPU's peak rate (MFU)."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .. import flops
from ..config import TrainConfig
from ..metrics_file import PARTS

# Vendor's peak for dense bfloat16 matrix products, operations per second, by torch's full device name. A prefix of the
# name is not enough: an H100 NVL, or a slice of an H100, is slower than an H100.
_PEAK_FLOPS = {
    "NVIDIA B200": 2250e12,
    "NVIDIA GH200 120GB": 989e12,
    "NVIDIA GH200 480GB": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H800": 989e12,
    "NVIDIA H800 PCIe": 756e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA A800-SXM4-40GB": 312e12,
    "NVIDIA A800-SXM4-80GB": 312e12,
    "NVIDIA A800 80GB PCIe": 312e12,
    "NVIDIA L40S": 362e12,
}


class Meter:
    """Timer of the parts of a step.

    Args:
        config: the stage; with `profile` a part on a GPU ends when its work is done, not when it is queued.
        device: device of the training.
        transformer_config: constructor arguments of the network.
    """

    def __init__(self, config: TrainConfig, device: torch.device, transformer_config: Any) -> None:
        self._config, self._device = config, device
        self._waits = config.profile and device.type == "cuda"
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._began = 0.0
        self._peak = _peak_flops(device) if config.dtype == "bfloat16" else None
        self._network = flops.count(config, transformer_config) if self._peak else None

    def begin(self) -> None:
        """Start a new step."""
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._began = time.perf_counter()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Measure the time of the block as time of a part."""
        began = time.perf_counter()
        yield
        if self._waits:
            torch.cuda.synchronize(self._device)
        self._seconds[part] += time.perf_counter() - began

    def end(self, bucket: tuple[int, int, int]) -> dict[str, float | int | None]:
        """Return the measurements of the step.

        Returns:
            seconds; data_share and so on, fractions of it, None where only the queueing on a GPU was timed;
            samples_per_second of all workers; memory_bytes, the peak so far of this worker (of its GPU, or on CPU of
            the process); mfu, the share of the GPU's peak rate that the network needs, None if the peak is unknown.
        """
        seconds = time.perf_counter() - self._began
        mfu = None
        if self._network is not None and self._peak is not None:
            clips_a_worker = self._config.global_batch_size / max(self._config.num_workers, 1)
            step_flops = flops.step_flops(self._config, self._network, bucket).model * clips_a_worker
            mfu = step_flops / seconds / self._peak
        return {
            "seconds": seconds,
            **{
                f"{part}_share": spent / seconds if self._is_whole(part) else None
                for part, spent in self._seconds.items()
            },
            "samples_per_second": self._config.global_batch_size / seconds,
            "memory_bytes": _peak_memory(self._device),
            "mfu": mfu,
        }

    def _is_whole(self, part: str) -> bool:
        """Return whether the measured time of a part includes its GPU work.

        It does on CPU, with `profile`, and for `data`: the loop synchronises at the end of a step, so nothing is queued
        while a batch is loaded.
        """
        return part == "data" or self._waits or self._device.type != "cuda"


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _peak_flops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if name not in _PEAK_FLOPS:
        logging.getLogger(__name__).warning("the peak FLOP/s of %s are unknown, so mfu is null in the metrics", name)
    return _PEAK_FLOPS.get(name)
