"""Disk space that a stage needs in its run's folder, checked before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ....datasets.sampler import StepSampler
from ..config import TrainConfig
from ..data.draws import simulated_poses
from ..data.pose_simulation import simulated_pose_bytes
from ..flops import Network
from ..frozen_components import bundle_bytes
from . import footprint
from .inputs import StageInputs

_GB = 1e9


def needed_bytes(
    config: TrainConfig, inputs: StageInputs, network: Network, sampler: StepSampler, keys: Sequence[str]
) -> dict[str, int]:
    """Compute the maximum bytes on disk by content: training states, checkpoint, gallery weights, simulated poses.

    Args:
        config: the stage.
        inputs: its checked inputs.
        network: its parameter counts.
        sampler: the order of its samples.
        keys: keys of its training samples.
    """
    return {
        # While a state is written, all kept ones still exist.
        "engine_states": footprint.training_state_bytes(config, network) * (config.keep_checkpoints + 1),
        "checkpoint": footprint.checkpoint_bytes(config, network)
        + bundle_bytes(config, inputs.record["components"]["path"]),
        "gallery_weights": footprint.gallery_bytes(config, network),
        "simulated_poses": simulated_pose_bytes(config, simulated_poses(config, sampler, keys), inputs.shards),
    }


def space_refusals(needed: dict[str, int], out: Path) -> Iterator[str]:
    """Yield a refusal if the disk is too small; gallery weights do not count: they are skipped on a full disk."""
    wanted = sum(size for name, size in needed.items() if name != "gallery_weights")
    kept = (file for name in ("state", "pose_simulation") for file in (out / name).rglob("*"))
    missing, free = wanted - sum(file.stat().st_size for file in kept if file.is_file()), free_bytes(out)
    if missing > free:
        yield (
            f"disk: {out} needs {missing / _GB:.1f} GB more for training states and the checkpoint, but "
            f"{free / _GB:.1f} GB are free: free disk space, choose another --out, or lower keep_checkpoints"
        )


def free_bytes(out: Path) -> int:
    """Return the free bytes on the disk of a folder that may not exist yet."""
    return shutil.disk_usage(next(parent for parent in (out, *out.parents) if parent.exists())).free
