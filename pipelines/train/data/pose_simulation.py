"""Stage 3's change of the pose: its first movement takes the pace of a larger one (motion discontinuity mitigation)."""

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

_STALE_AFTER_S = 3600.0  # nobody writes one pose for an hour


class PoseSimulation:
    """Pose latents with the first frame after the reference replaced.

    unit "frame": p̃1 = p0 + (p_T* − p0) / T* on the keypoints of pixel frames, drawn and encoded by the VAE on first
    use, then read from `folder`. unit "latent": z̃1 = z0 + (z_T* − z0) / T* on the latents themselves.

    What lies in `folder` does not change: every later reading, in this run or after an interruption, gives the same
    bits. Workers that want a pose at once all encode it, and all take what was first in its place. None waits for
    another: its VAE's work may stand in the GPU's queue behind a collective that waits for the one who waits.

    Args:
        config: the stage.
        vae: the VAE that made the latents; None with unit "latent".
        folder: where encoded poses are kept, `KEY-T.safetensors`, seen by all workers.
    """

    def __init__(self, config: TrainConfig, vae: Any, folder: Path) -> None:
        self._unit = config.pose_simulation_unit
        self._vae = vae
        self._folder = folder
        for left in folder.glob(".*.tmp"):  # by a worker that was killed while it wrote
            with contextlib.suppress(FileNotFoundError):
                if time.time() - left.stat().st_mtime > _STALE_AFTER_S:
                    left.unlink()

    def __call__(
        self, key: str, target: int, sample: dict[str, Any], pose_latents: torch.Tensor, bucket: Bucket
    ) -> torch.Tensor:
        """Simulated pose latents of one sample.

        Args:
            key: of the sample.
            target: T*, in frames of the configured unit.
            sample: its `meta` and `pose` (keypoints), as the shard holds them.
            pose_latents: latents of the unchanged pose [16,T,H,W], as the shard holds them.
            bucket: (pixel frames, height, width) of the sample.

        Returns:
            float32 [16,T,H,W] on the CPU; what was encoded here is rounded as the shard's tensors are.

        Raises:
            NonFiniteError: the VAE gave such values; nothing of it is kept.
            ArtifactError: a kept pose is damaged.
        """
        if self._unit == "latent":
            return simulate_first_latent_motion(pose_latents.float()[None], torch.tensor([target]))[0]
        file = self._folder / f"{key}-{target}.safetensors"
        if not file.exists():
            pose = simulate_first_motion(PoseSequence.from_bytes(sample["pose"]), target)
            encoded = self._encode(pose, sample["meta"], bucket)
            if not encoded.isfinite().all():
                raise NonFiniteError(f"pose_latents of sample {key}, simulated with T* = {target}: not finite")
            write_once(file, save({"pose_latents": encoded.to(pose_latents.dtype).contiguous()}))
        return _read(file, pose_latents.shape)

    def _encode(self, pose: PoseSequence, meta: dict[str, Any], bucket: Bucket) -> torch.Tensor:
        """Drawn and encoded exactly as the pose that is not simulated was for the cache."""
        from ....models.encoders import encode_video
        from ....models.pose_condition import draw_pose_condition

        _, height, width = bucket
        frames = draw_pose_condition(pose, meta["image_height"], meta["image_width"], meta["drawing_area_px"])
        return encode_video(self._vae, frames, height, width).cpu()


def simulated_pose_bytes(config: TrainConfig, poses: Iterable[tuple[str, int]], shards: ShardDataset) -> int:
    """What the poses that a stage encodes will weigh in the end, in its run's folder.

    Args:
        config: the stage.
        poses: (key, T*), see `draws.simulated_poses`.
        shards: the cache they come from.
    """
    if config.pose_simulation_unit == "latent":
        return 0
    values = sum(math.prod(latent_shape(shards.bucket[key])) for key, _ in poses)
    if not values:
        return 0
    stored = tensors_of(shards.read(shards.keys[0])["conditions"])["pose_latents"]  # they are rounded as this is
    return values * stored.element_size()


def latent_shape(bucket: Bucket) -> tuple[int, int, int, int]:
    """[16,T,H,W] of a clip of (pixel frames, height, width): Wan's VAE takes 4 frames and 8 x 8 pixels at a time."""
    num_frames, height, width = bucket
    return 16, (num_frames - 1) // 4 + 1, height // 8, width // 8


def _read(file: Path, shape: torch.Size) -> torch.Tensor:
    try:
        tensor = load_file(file)["pose_latents"]
        if tensor.shape != shape:
            raise ValueError(f"it holds {tuple(tensor.shape)}, wanted are {tuple(shape)}")
    except (SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{file} holds no simulated pose ({error}): delete it, the same command encodes it anew"
        ) from None
    return tensor.float()
