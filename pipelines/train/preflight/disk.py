"""Room on the disk that a stage takes, in its run's folder, said before it begins."""

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
    """What a run will hold at most, by what it is: engine states, the checkpoint, and what only some runs keep.

    Args:
        config: the stage.
        inputs: its checked inputs.
        network: its parameters, counted.
        sampler: its order.
        keys: of its training samples.
    """
    return {
        # While a state is written, the ones that stay are still there.
        "engine_states": footprint.training_state_bytes(config, network) * (config.keep_checkpoints + 1),
        "checkpoint": footprint.checkpoint_bytes(config, network)
        + bundle_bytes(config, inputs.record["components"]["path"]),
        "gallery_weights": footprint.gallery_bytes(config, network),
        "simulated_poses": simulated_pose_bytes(config, simulated_poses(config, sampler, keys), inputs.shards),
    }


def refuse_too_little(needed: dict[str, int], out: Path) -> Iterator[str]:
    """A sentence, if a run's folder will not find the room; galleries are left out where they find none."""
    wanted = sum(size for name, size in needed.items() if name != "gallery_weights")
    kept = (file for name in ("state", "pose_simulation") for file in (out / name).rglob("*"))
    missing, free = wanted - sum(file.stat().st_size for file in kept if file.is_file()), free_bytes(out)
    if missing > free:
        yield (
            f"disk: {out} needs {missing / _GB:.1f} GB more for engine states and the checkpoint, and "
            f"{free / _GB:.1f} GB are free: make room, choose another --out, or lower keep_checkpoints"
        )


def free_bytes(out: Path) -> int:
    """Free bytes where a folder is, or would be made."""
    return shutil.disk_usage(next(parent for parent in (out, *out.parents) if parent.exists())).free
