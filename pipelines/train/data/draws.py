"""Random draws of a training sample: pure functions of (seed, step, position in the global batch).

A sample gets the same noise, σ, dropouts and pose simulation on any rank, at any world size, and after any number of
interruptions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from ....datasets.sampler import StepSampler, batch_digest, draw_seed
from ....models.flow_matching import shift_sigma
from ..config import TrainConfig


@dataclass(frozen=True)
class SampleDraws:
    """All random draws of one sample of one step.

    Attributes:
        key: key of the sample in the latents folder.
        sigma: flow time in [0, 1); 0 = data, 1 = noise.
        noise_seed: seed of the sample's noise (`noise`).
        text_dropped: whether the empty prompt replaces the text.
        pose_dropped: whether the null pose (a black clip) replaces the pose.
        pose_target: T* of pose simulation; None leaves the pose unchanged.
        alignment_seed: seed of the alignment unit's attention dropout.
    """

    key: str
    sigma: float
    noise_seed: int
    text_dropped: bool = False
    pose_dropped: bool = False
    pose_target: int | None = None
    alignment_seed: int = 0


def uniform(seed: int, step: int, position: int, purpose: str) -> float:
    """Draw a number with 53 random bits in [0, 1) for one purpose."""
    return (draw_seed(seed, step, position, purpose) >> 10) / 2**53


def draw_batch(config: TrainConfig, step: int, keys: Sequence[str]) -> list[SampleDraws]:
    """Return the draws of a whole global batch, whose samples are `keys` in this order."""
    return [_draw_sample(config, step, position, key) for position, key in enumerate(keys)]


def _draw_sample(config: TrainConfig, step: int, position: int, key: str) -> SampleDraws:
    def u(purpose: str) -> float:
        return uniform(config.seed, step, position, purpose)

    return SampleDraws(
        key=key,
        sigma=shift_sigma(u("sigma"), config.flow_shift),
        noise_seed=draw_seed(config.seed, step, position, "noise"),
        text_dropped=u("text dropout") < config.text_dropout,
        pose_dropped=u("pose dropout") < config.pose_dropout,
        pose_target=_draw_pose_target(config, step, position),
        alignment_seed=draw_seed(config.seed, step, position, "alignment dropout"),
    )


def draw_evaluation(config: TrainConfig, keys: Sequence[str]) -> list[SampleDraws]:
    """Return the fixed draws of the loss before and after a stage: nothing dropped, σ at even quantiles."""
    count = config.evaluation_samples
    return [
        SampleDraws(
            key=keys[i % len(keys)],
            sigma=shift_sigma((i + 0.5) / count, config.flow_shift),
            noise_seed=draw_seed(config.seed, 0, i, "evaluation noise"),
            pose_target=_draw_pose_target(config, 0, i, "evaluation "),
        )
        for i in range(count)
    ]


def draw_validation(config: TrainConfig, keys: Sequence[str]) -> list[SampleDraws]:
    """Return the fixed draws of the validation loss: some of `keys`, each with one noise at every validation σ.

    Nothing is dropped and no pose is simulated, so that stages can be compared.
    """
    chosen = sorted(keys, key=lambda key: draw_seed(config.seed, 0, 0, f"validation/{key}"))[: config.validation_clips]
    return [
        SampleDraws(key, sigma, noise_seed=draw_seed(config.seed, 0, i, "validation noise"))
        for i, key in enumerate(chosen)
        for sigma in config.validation_sigmas
    ]


def simulated_poses(config: TrainConfig, sampler: StepSampler, keys: Sequence[str]) -> set[tuple[str, int]]:
    """Return (key, T*) of every pose that a stage will simulate; with unit "frame" each is encoded and stored.

    Args:
        config: the stage.
        sampler: the order of its samples.
        keys: keys of its training samples.
    """
    drawn = (
        (key, _draw_pose_target(config, step, position))
        for step in range(config.steps if config.stage == 3 else 0)
        for position, key in enumerate(sampler.batch(step))
    )
    fixed = ((row.key, row.pose_target) for row in draw_evaluation(config, keys))
    return {(key, target) for key, target in (*drawn, *fixed) if target is not None}


def _draw_pose_target(config: TrainConfig, step: int, position: int, purpose: str = "") -> int | None:
    """Draw T* uniformly from the configured targets, with the configured probability; None outside stage 3."""
    if config.stage != 3:
        return None
    if uniform(config.seed, step, position, f"{purpose}pose simulation") >= config.pose_simulation_probability:
        return None
    targets = config.pose_simulation_targets
    u = uniform(config.seed, step, position, f"{purpose}pose simulation target")
    return targets[int(u * len(targets))]


def noise(draws: SampleDraws, shape: Sequence[int]) -> torch.Tensor:
    """Draw standard normal float32 noise for a sample, on the CPU so that it is the same for every device."""
    generator = torch.Generator("cpu").manual_seed(draws.noise_seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)


def digest(draws: Sequence[SampleDraws]) -> str:
    """Return the hex digest of a global batch: keys and all draws, in order."""
    return batch_digest(json.dumps(asdict(row), sort_keys=True) for row in draws)
