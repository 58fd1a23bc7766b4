"""The projection of a video from a few steps, with a clock that only the network moves."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from steadydancer.models.guidance import Branch, branch_velocity
from steadydancer.models.modes import get_mode
from steadydancer.models.preflight import timing
from steadydancer.models.preflight.random_rendering import (
    plain_velocity,
    random_autoencoder,
    random_inputs,
    random_transformer,
)
from steadydancer.models.preflight.sizes import Clip, Sizes
from steadydancer.models.sampling import denoise

NOISE = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
INTERVAL = (0.1, 0.4)
TINY = Sizes(
    transformer={"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "num_layers": 2, "text_dim": 16,
                 "freq_dim": 16, "image_dim": 8},
    vae={"base_dim": 8, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1},
)  # fmt: skip
SECONDS: dict[Branch, float] = {"conditional": 1.0, "negative_text": 2.0, "negative_pose": 4.0}
FIRST = 8.0  # more in the first evaluation of a branch, which computes what later ones read


class Clock:
    """A time that passes while a branch is evaluated."""

    def __init__(self) -> None:
        self.time, self.evaluations = 0.0, Counter[str]()

    def now(self, _: Any) -> float:
        return self.time

    def velocity(self, latents: Tensor, timestep: Tensor, branch: Branch) -> Tensor:
        self.time += SECONDS[branch] + FIRST * (branch not in self.evaluations)
        self.evaluations[branch] += 1
        return torch.zeros_like(latents)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that `timing` reads."""
    clock = Clock()
    monkeypatch.setattr(timing, "now", clock.now)
    return clock


def seconds_of_video(num_steps: int, **guidance: Any) -> float:
    """Return the seconds of all steps of a video, by a clock of their own."""
    own = Clock()
    denoise(own.velocity, NOISE, num_inference_steps=num_steps, **guidance)
    return own.time


@pytest.mark.parametrize("measured", [4, 8])
def test_four_steps_tell_the_seconds_of_forty(clock: Clock, measured: int) -> None:
    seconds, latents = timing.measure_steps(clock.velocity, NOISE, measured)
    assert clock.evaluations == {"conditional": measured, "negative_text": measured, "negative_pose": measured // 2}
    assert latents.shape == NOISE.shape
    expected = seconds_of_video(40, pose_guidance_interval=INTERVAL)
    assert seconds.project(*timing.count_steps(40, INTERVAL)) == pytest.approx(expected)
    plain, with_pose = timing.count_steps(40, INTERVAL)
    assert 2 * plain + 3 * with_pose == 91


def test_without_guidance_all_steps_are_of_one_kind(clock: Clock) -> None:
    seconds, _ = timing.measure_steps(clock.velocity, NOISE, 4, is_guided=False)
    assert clock.evaluations == {"conditional": 4}
    expected = seconds_of_video(7, guidance_scale=1.0, pose_guidance_scale=0.0)
    assert seconds.project(*timing.count_steps(7, INTERVAL, is_guided=False)) == pytest.approx(expected)


def test_a_warm_up_of_two_steps_is_enough_to_begin(clock: Clock) -> None:
    seconds, _ = timing.measure_steps(clock.velocity, NOISE, 2)
    assert seconds == timing.StepSeconds(19.0, 19.0, 15.0, 15.0)


def test_decoding_is_measured_to_its_last_piece(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    def decode_chunks(vae: Any, latents: Tensor) -> Any:
        for _ in range(3):
            clock.time += vae.seconds
            yield latents

    monkeypatch.setattr(timing, "decode_chunks", decode_chunks)
    assert timing.measure_decoding(SimpleNamespace(seconds=5.0), NOISE[0]) == 15.0


@pytest.mark.parametrize("mode", ["exact", "low_memory", "fast:1e-9", "eager"])
def test_random_networks_of_each_mode_sample_and_decode(mode: str) -> None:
    clip, is_plain = Clip(5, 32, 32), mode == "eager"
    chosen = get_mode("exact" if is_plain else mode)
    network = random_transformer(TINY, chosen, torch.float32, "cpu", is_plain)
    branches, noise = random_inputs(network, clip, torch.float32, "cpu")
    velocity = plain_velocity(network, branches) if is_plain else branch_velocity(network, branches)
    _, latents = timing.measure_steps(velocity, noise, 4)
    assert latents.isfinite().all() and not torch.equal(latents, noise)
    again, _ = random_inputs(network, clip, torch.float32, "cpu")
    assert all(torch.equal(again[name].image_latents, each.image_latents) for name, each in branches.items())
    vae = random_autoencoder(TINY, chosen, "cpu")
    assert vae.use_tiling == (mode == "low_memory")
    assert timing.measure_decoding(vae, latents[0]) > 0
