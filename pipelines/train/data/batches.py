"""Training batches from a latents folder: read samples, apply their random draws, stack them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from ....datasets.artifact import ArtifactError
from ....datasets.sampler import StepSampler, rank_slice
from ....datasets.shards import Bucket, ShardDataset, null_path
from ....datasets.storage import Location
from ....models.cached_conditions import tensors_of
from ....models.conditions import Conditions, NullConditions, stack_prompt_embeds, with_frame_mask
from ....models.objectives import TrainingBatch
from ..config import TrainConfig
from ..run_folder import NonFiniteError
from .draws import SampleDraws, draw_batch, draw_evaluation, draw_validation, noise
from .pose_simulation import PoseSimulation, latent_shape
from .split import split


@dataclass(frozen=True)
class StepBatch:
    """One worker's share of a step: draws of the whole global batch, and the worker's micro-batches on the CPU."""

    draws: list[SampleDraws]
    micro_batches: list[tuple[list[SampleDraws], TrainingBatch]]


class TrainingData:
    """The samples of a stage, by step.

    Args:
        latents: a finished latents folder.
        config: the stage.
        pose_simulation: simulates the pose of the samples drawn for it; needed by stage 3 only.
    """

    def __init__(self, latents: Location, config: TrainConfig, pose_simulation: PoseSimulation | None = None) -> None:
        self.shards = ShardDataset(latents, reuse_memory=True)
        self._config = config
        self.split = split(self.shards, config)
        buckets = {key: self.shards.bucket[key] for key in self.split.training}
        self.sampler = StepSampler(buckets, config.global_batch_size, config.seed)
        self._pose_simulation = pose_simulation
        self._checked: set[str] = set()
        self._null = lru_cache(maxsize=16)(self._read_null)

    def draws(self, step: int) -> list[SampleDraws]:
        """Return the global batch of a step: its samples with all their random draws."""
        return draw_batch(self._config, step, self.sampler.batch(step))

    def evaluation_draws(self) -> list[SampleDraws]:
        """Return the fixed samples on which the objective is measured before and after the stage."""
        return draw_evaluation(self._config, self.split.training)

    def validation_draws(self) -> list[SampleDraws]:
        """Return the fixed samples of the validation loss; empty if no source is held out."""
        return draw_validation(self._config, self.split.validation)

    def share(self, step: int, rank: int, world_size: int) -> StepBatch:
        """Load one worker's share of a step's global batch, split into micro-batches for gradient accumulation."""
        draws = self.draws(step)
        mine, size = rank_slice(draws, rank, world_size), self._config.micro_batch_size
        pieces = [mine[i : i + size] for i in range(0, len(mine), size)]
        return StepBatch(draws, [(rows, self.load(rows, torch.device("cpu"))) for rows in pieces])

    def load(self, draws: Sequence[SampleDraws], device: torch.device) -> TrainingBatch:
        """Load samples of one bucket with their draws applied, float32 on `device`.

        Args:
            draws: B samples.
            device: device of the returned tensors.

        Returns:
            Latents and noise [B,16,T,H,W], conditions after dropout, null conditions, sigma [B].
        """
        samples = [self._read(row) for row in draws]

        def stack(name: str) -> torch.Tensor:
            return torch.stack([sample[name] for sample in samples])

        null = self._stack_null([self.shards.bucket[row.key] for row in draws])
        conditions = Conditions(
            image_latents=with_frame_mask(stack("image_latents")),
            pose_latents=stack("pose_latents"),
            image_embeds=stack("image_embeds"),
            pose_image_embeds=stack("pose_image_embeds"),
            prompt_embeds=stack_prompt_embeds([sample["prompt_embeds"] for sample in samples]),
        ).with_dropout(
            null,
            text=torch.tensor([row.text_dropped for row in draws]),
            pose=torch.tensor([row.pose_dropped for row in draws]),
        )
        latents = stack("latents")
        return TrainingBatch(
            latents=latents.to(device),
            conditions=conditions.to(device),
            null=null.to(device),
            noise=torch.stack([noise(row, latents.shape[1:]) for row in draws]).to(device),
            sigma=torch.tensor([row.sigma for row in draws], dtype=torch.float32, device=device),
        )

    def _read(self, row: SampleDraws) -> dict[str, torch.Tensor]:
        """Read the tensors of one sample as float32, with its pose simulated if drawn.

        Raises:
            ArtifactError: the sample is missing, damaged, or does not match the index.
            NonFiniteError: it has values that are not finite.
        """
        sample, bucket = self.shards.read(row.key), self.shards.bucket[row.key]
        tensors = self._tensors(row.key, bucket, sample["conditions"])
        if row.pose_target is not None:
            if self._pose_simulation is None:
                raise ValueError(f"pose simulation was drawn for sample {row.key}, but `pose_simulation` is None")
            tensors["pose_latents"] = self._pose_simulation(
                row.key, row.pose_target, sample, tensors["pose_latents"], bucket
            )
        return {name: tensor.float() for name, tensor in tensors.items()}

    def _tensors(self, key: str, bucket: Bucket, conditions: bytes | memoryview) -> dict[str, torch.Tensor]:
        """Read a sample's cached tensors; shapes and values are checked on the first read."""
        where = f"{self.shards.shard(key)}: sample {key}"
        try:
            tensors = tensors_of(conditions)
        except ValueError as error:
            raise ArtifactError(f"{where}: {error}") from None
        if key not in self._checked:
            for name, wanted in self._shapes(bucket).items():
                shape = tuple(tensors[name].shape) if name in tensors else None
                if shape is None or not _fits(shape, wanted):
                    raise ArtifactError(
                        f"{where}: {name} has shape {shape}, expected {wanted} from its index and null conditions"
                    )
            for name, tensor in tensors.items():
                if not tensor.isfinite().all():
                    raise NonFiniteError(f"{where}: {name} has values that are not finite")
            self._checked.add(key)
        return tensors

    def _shapes(self, bucket: Bucket) -> dict[str, tuple[int | None, ...]]:
        """Return the expected shapes of a sample's tensors (None: any length), from its bucket and null conditions."""
        null, clip = self._null(bucket), latent_shape(bucket)
        image, text = tuple(null["pose_image_embeds"].shape), (None, null["prompt_embeds"].shape[-1])
        return {
            **dict.fromkeys(("latents", "image_latents", "pose_latents"), clip),
            **dict.fromkeys(("image_embeds", "pose_image_embeds"), image),
            "prompt_embeds": text,
        }

    def _read_null(self, bucket: Bucket) -> dict[str, torch.Tensor]:
        null = {name: tensor.float() for name, tensor in tensors_of(self.shards.null(bucket)).items()}
        where = null_path(self.shards.path, bucket)
        for name in ("pose_latents", "pose_image_embeds", "prompt_embeds"):
            if name not in null or not null[name].isfinite().all():
                raise ArtifactError(f"{where}: {name} is missing or not finite: cache the clips again")
        if tuple(null["pose_latents"].shape) != latent_shape(bucket):
            raise ArtifactError(
                f"{where}: pose_latents has shape {tuple(null['pose_latents'].shape)}, expected {latent_shape(bucket)}"
            )
        return null

    def _stack_null(self, buckets: Sequence[Bucket]) -> NullConditions:
        nulls = [self._null(bucket) for bucket in buckets]
        return NullConditions(
            pose_latents=torch.stack([null["pose_latents"] for null in nulls]),
            pose_image_embeds=torch.stack([null["pose_image_embeds"] for null in nulls]),
            prompt_embeds=stack_prompt_embeds([null["prompt_embeds"] for null in nulls]),
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(b in (None, a) for a, b in zip(shape, wanted, strict=True))
