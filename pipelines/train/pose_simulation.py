"""Stage 3's change of the pose: its first movement takes the pace of a larger one (motion discontinuity mitigation)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ...datasets.artifact import written_aside
from ...datasets.shards import Bucket
from ...datasets.skeleton import PoseSequence, simulate_first_motion
from ...models.encoders import encode_video
from ...models.objectives import simulate_first_latent_motion
from ...models.pose_condition import draw_pose_condition
from .config import TrainConfig


class PoseSimulation:
    """Pose latents with the first frame after the reference replaced.

    unit "frame": p̃1 = p0 + (p_T* − p0) / T* on the keypoints of pixel frames, drawn and encoded by the VAE on first
    use, then read from `folder`. unit "latent": z̃1 = z0 + (z_T* − z0) / T* on the latents themselves.

    Args:
        config: the stage.
        vae: the VAE that made the latents; None with unit "latent".
        folder: where encoded poses are kept, `KEY-T.safetensors`.
    """

    def __init__(self, config: TrainConfig, vae: Any, folder: Path) -> None:
        self._unit = config.pose_simulation_unit
        self._vae = vae
        self._folder = folder

    def __call__(
        self, key: str, target: int, sample: dict[str, Any], pose_latents: torch.Tensor, bucket: Bucket
    ) -> torch.Tensor:
        """Simulated pose latents of one sample.

        Args:
            key: of the sample.
            target: T*, in frames of the configured unit.
            sample: its `meta` and `pose` (keypoints), as the shard holds them.
            pose_latents: latents of the unchanged pose, float32 [16,T,H,W].
            bucket: (pixel frames, height, width) of the sample.

        Returns:
            float32 [16,T,H,W] on the CPU.
        """
        if self._unit == "latent":
            return simulate_first_latent_motion(pose_latents[None], torch.tensor([target]))[0]
        file = self._folder / f"{key}-{target}.safetensors"
        if not file.exists():
            pose = simulate_first_motion(PoseSequence.from_bytes(sample["pose"]), target)
            encoded = self._encode(pose, sample["meta"], bucket)
            with written_aside(file) as aside:
                save_file({"pose_latents": encoded.contiguous()}, aside)
        return load_file(file)["pose_latents"].float()

    def _encode(self, pose: PoseSequence, meta: dict[str, Any], bucket: Bucket) -> torch.Tensor:
        """Drawn and encoded exactly as the pose that is not simulated was for the cache."""
        _, height, width = bucket
        frames = draw_pose_condition(pose, meta["image_height"], meta["image_width"], meta["drawing_area_px"])
        return encode_video(self._vae, frames, height, width).cpu()
