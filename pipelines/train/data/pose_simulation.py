"""Pose simulation of stage 3 (motion discontinuity mitigation): the first pose after the reference is replaced."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from ....datasets.artifact import ArtifactError
from ....datasets.shards import Bucket, ShardDataset
from ....datasets.skeleton import PoseSequence, simulate_first_motion
from ....datasets.storage.atomic import write_once
from ....models.cached_conditions import tensors_of
from ....models.objectives import simulate_first_latent_motion
from ..config import TrainConfig
from ..run_folder import NonFiniteError

_STALE_AFTER_S = 3600.0  # writing one pose never takes this long


class PoseSimulation:
    """Replace the first frame after the reference in pose latents.

    unit "frame": p̃1 = p0 + (p_T* − p0) / T* on the keypoints of pixel frames, drawn and encoded by the VAE on first
    use, then read from `folder`. unit "latent": z̃1 = z0 + (z_T* − z0) / T* on the latents themselves.

    Files in `folder` never change: every later read, in this run or after an interruption, gives the same bits. Workers
    that need the same pose at the same time all encode it, and all use the file that was written first. They do not
    wait for each other: that could deadlock, because the VAE may be queued on the GPU behind a collective.

    Args:
        config: the stage.
        vae: the VAE that made the latents; None with unit "latent".
        folder: folder of the encoded poses, `KEY-T.safetensors`, shared by all workers.
    """

    def __init__(self, config: TrainConfig, vae: Any, folder: Path) -> None:
        self._unit = config.pose_simulation_unit
        self._vae = vae
        self._folder = folder
        for leftover in folder.glob(".*.tmp"):  # of a worker that was killed while writing
            with contextlib.suppress(FileNotFoundError):
                if time.time() - leftover.stat().st_mtime > _STALE_AFTER_S:
                    leftover.unlink()

    def __call__(
        self, key: str, target: int, sample: dict[str, Any], pose_latents: torch.Tensor, bucket: Bucket
    ) -> torch.Tensor:
        """Return the simulated pose latents of one sample.

        Args:
            key: key of the sample.
            target: T*, in frames of the configured unit.
            sample: its `meta` and `pose` (keypoints) from the shard.
            pose_latents: latents of the unchanged pose [16,T,H,W] from the shard.
            bucket: (pixel frames, height, width) of the sample.

        Returns:
            float32 [16,T,H,W] on the CPU; encoded latents are rounded to the dtype of the shard.

        Raises:
            NonFiniteError: the VAE returned values that are not finite; nothing is stored.
            ArtifactError: a stored pose is damaged.
        """
        if self._unit == "latent":
            return simulate_first_latent_motion(pose_latents.float()[None], torch.tensor([target]))[0]
        file = self._folder / f"{key}-{target}.safetensors"
        if not file.exists():
            pose = simulate_first_motion(PoseSequence.from_bytes(sample["pose"]), target)
            encoded = self._encode(pose, sample["meta"], bucket)
            if not encoded.isfinite().all():
                raise NonFiniteError(f"pose_latents of sample {key}, simulated with T* = {target}, are not finite")
            write_once(file, save({"pose_latents": encoded.to(pose_latents.dtype).contiguous()}))
        return _read(file, pose_latents.shape)

    def _encode(self, pose: PoseSequence, meta: dict[str, Any], bucket: Bucket) -> torch.Tensor:
        """Draw and encode a pose exactly as the cache did with the unchanged pose."""
        from ....models.encoders import encode_video
        from ....models.pose_condition import draw_pose_condition

        _, height, width = bucket
        frames = draw_pose_condition(pose, meta["image_height"], meta["image_width"], meta["drawing_area_px"])
        return encode_video(self._vae, frames, height, width).cpu()


def simulated_pose_bytes(config: TrainConfig, poses: Iterable[tuple[str, int]], shards: ShardDataset) -> int:
    """Compute the bytes of all simulated poses that a stage will store in its run's folder.

    Args:
        config: the stage.
        poses: (key, T*), see `draws.simulated_poses`.
        shards: the latents folder.
    """
    if config.pose_simulation_unit == "latent":
        return 0
    values = sum(math.prod(latent_shape(shards.bucket[key])) for key, _ in poses)
    if not values:
        return 0
    stored = tensors_of(shards.read(shards.keys[0])["conditions"])["pose_latents"]  # same dtype as the cache
    return values * stored.element_size()


def latent_shape(bucket: Bucket) -> tuple[int, int, int, int]:
    """Return [16,T,H,W] of a (pixel frames, height, width) clip: Wan's VAE compresses 4 frames and 8 × 8 pixels."""
    num_frames, height, width = bucket
    return 16, (num_frames - 1) // 4 + 1, height // 8, width // 8


def _read(file: Path, shape: torch.Size) -> torch.Tensor:
    try:
        tensor = load_file(file)["pose_latents"]
        if tensor.shape != shape:
            raise ValueError(f"its shape is {tuple(tensor.shape)}, expected {tuple(shape)}")
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{file} is not a simulated pose ({error}): delete it; the same command encodes it again"
        ) from None
    return tensor.float()
