"""Define a custom training objective, and evaluate it on one sample of a latent cache.

    python examples/objective.py runs/tutorial/latents runs/tutorial/stage1/checkpoint

An objective maps (velocity, batch) to loss terms. Noise and sigma are already drawn in the batch, so an objective is
deterministic. `velocity` is the network as a function of noisy latents, timestep and conditions.
"""

import sys

import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn.functional import huber_loss

from steadydancer.datasets.shards import ShardDataset
from steadydancer.models import SteadyDancerTransformer3DModel
from steadydancer.models.conditions import Conditions, NullConditions, with_frame_mask
from steadydancer.models.flow_matching import add_noise, timestep_of, velocity_target
from steadydancer.models.objectives import Objective, TrainingBatch, Velocity, steadydancer_velocity


def huber_supervision(delta: float = 0.5) -> Objective:
    """Return the objective of stage 1 with a Huber loss: velocity errors above `delta` count linearly."""

    def objective(velocity: Velocity, batch: TrainingBatch) -> dict[str, Tensor]:
        latents = add_noise(batch.latents, batch.noise, batch.sigma)
        predicted = velocity(latents, timestep_of(batch.sigma), batch.conditions)
        loss = huber_loss(predicted.float(), velocity_target(batch.latents, batch.noise), delta=delta)
        return {"loss": loss, "huber": loss.detach()}

    return objective


def cached_batch(latents: str, sigma: float = 0.7, seed: int = 0) -> TrainingBatch:
    """Read the first sample of a cache as a batch of one."""
    shards = ShardDataset(latents)
    key = shards.keys[0]
    sample = {name: tensor.float()[None] for name, tensor in load(shards.read(key)["conditions"]).items()}
    null = {name: tensor.float()[None] for name, tensor in load(shards.null(shards.bucket[key])).items()}
    clean = sample.pop("latents")
    sample["image_latents"] = with_frame_mask(sample["image_latents"])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return TrainingBatch(clean, Conditions(**sample), NullConditions(**null), noise, torch.tensor([sigma]))


def main(latents: str, checkpoint: str) -> dict[str, float]:
    """Return the loss terms of the sample, after one backward pass."""
    transformer = SteadyDancerTransformer3DModel.from_pretrained(checkpoint, subfolder="transformer")
    terms = huber_supervision()(steadydancer_velocity(transformer), cached_batch(latents))
    terms["loss"].backward()
    return {name: term.item() for name, term in terms.items()}


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
