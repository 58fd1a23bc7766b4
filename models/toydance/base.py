"""Fit the small base: a plain Wan image-to-video transformer that continues a first frame, without any pose.

It reads the shards that `steadydancer cache` writes with the preset `toydance`, as the three stages do.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from ...datasets.shards import ShardDataset, null_path
from ..cached_conditions import tensors_of
from ..conditions import Conditions, NullConditions, stack_prompt_embeds, with_frame_mask
from ..flow_matching import shift_sigma
from ..inference.text_padding import merge_text_padding
from ..objectives import TrainingBatch, action_supervision, wan_velocity
from .fitting import fit

SIZES: dict[str, Any] = {
    "in_channels": 36,
    "num_attention_heads": 5,
    "attention_head_dim": 32,
    "ffn_dim": 480,
    "num_layers": 6,
    "added_kv_proj_dim": 160,
}
BATCH_SIZE = 16
FLOW_SHIFT = 3.0
TEXT_DROPOUT = 0.1
VALIDATION_SHARE = 0.02


def new_base(image_dim: int, text_dim: int, seed: int = 0) -> WanTransformer3DModel:
    """Build the transformer with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WanTransformer3DModel(**SIZES, image_dim=image_dim, text_dim=text_dim)


def fit_base(
    folder: Path, latents: Path, *, steps: int, learning_rate: float, minutes: float
) -> WanTransformer3DModel | None:
    """Fit the base in `folder` on the shards of `latents`; return it, or None if time ran out."""
    data = CachedClips(latents)
    base = new_base(data.image_dim, data.text_dim)
    merge_text_padding(base)
    velocity, objective = wan_velocity(base), action_supervision()

    def loss(_: int, rng: np.random.Generator) -> dict[str, Tensor]:
        chosen = rng.choice(data.training, BATCH_SIZE, replace=len(data.training) < BATCH_SIZE)
        return objective(velocity, data.batch(chosen, rng))

    def evaluate(_: Any) -> dict[str, float]:
        errors = {}
        for sigma in (0.3, 0.6, 0.9):
            rng = np.random.default_rng(int(100 * sigma))
            batch = data.batch(data.validation[:32], rng, sigma=sigma, text_dropout=0.0)
            errors[f"loss_{sigma}"] = objective(velocity, batch)["loss"].item()
        return errors

    finished = fit(
        base,
        loss,
        folder,
        steps=steps,
        learning_rate=learning_rate,
        elementwise=[*base.patch_embedding.parameters(), *base.proj_out.parameters()],
        evaluate=evaluate,
        minutes=minutes,
    )
    return base if finished else None


class CachedClips:
    """The samples of a latents folder, read into memory as float16; some sources are held out.

    Clips of another size than most are left out: those that curation has cropped, because a dark edge looked like a
    border.

    Args:
        latents: a finished latents folder.
    """

    def __init__(self, latents: Path) -> None:
        shards = ShardDataset(latents)
        bucket = Counter(shards.bucket.values()).most_common(1)[0][0]
        keys = sorted(key for key, size in shards.bucket.items() if size == bucket)
        self._samples = [tensors_of(shards.read(key)["conditions"]) for key in keys]
        null = tensors_of(null_path(shards.path, bucket).read_bytes())
        self._null = NullConditions(**{name: tensor.float()[None] for name, tensor in null.items()})
        held_out = np.random.default_rng(0).permutation(len(keys))[: max(32, round(VALIDATION_SHARE * len(keys)))]
        self.validation = np.sort(held_out)
        self.training = np.setdiff1d(np.arange(len(keys)), held_out)
        self.image_dim = self._samples[0]["image_embeds"].shape[-1]
        self.text_dim = self._samples[0]["prompt_embeds"].shape[-1]

    def batch(
        self,
        indices: np.ndarray,
        rng: np.random.Generator,
        sigma: float | None = None,
        text_dropout: float = TEXT_DROPOUT,
    ) -> TrainingBatch:
        """Stack samples with noise, σ (uniform and shifted, unless given) and dropped text."""
        samples = [self._samples[index] for index in indices]

        def stack(name: str) -> Tensor:
            return torch.stack([sample[name].float() for sample in samples])

        latents = stack("latents")
        count = len(samples)
        null = NullConditions(
            pose_latents=self._null.pose_latents.expand(count, -1, -1, -1, -1),
            pose_image_embeds=self._null.pose_image_embeds.expand(count, -1, -1),
            prompt_embeds=None if self._null.prompt_embeds is None else self._null.prompt_embeds.expand(count, -1, -1),
        )
        conditions = Conditions(
            image_latents=with_frame_mask(stack("image_latents")),
            pose_latents=null.pose_latents,
            image_embeds=stack("image_embeds"),
            pose_image_embeds=null.pose_image_embeds,
            prompt_embeds=stack_prompt_embeds([sample["prompt_embeds"].float() for sample in samples]),
        )
        dropped = torch.from_numpy(rng.random(count) < text_dropout)
        uniform = torch.from_numpy(rng.random(count))
        levels = shift_sigma(uniform, FLOW_SHIFT) if sigma is None else torch.full((count,), sigma)
        return TrainingBatch(
            latents=latents,
            conditions=conditions.with_dropout(null, text=dropped, pose=torch.zeros(count, dtype=torch.bool)),
            null=null,
            noise=torch.from_numpy(rng.standard_normal(latents.shape, np.float32)),
            sigma=levels.float(),
        )
