"""Sampling that is watched and stopped, and frames in the kind that was asked for."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steadydancer.models import pipeline
from steadydancer.models.conditions import Conditions
from steadydancer.models.pipeline import SteadyDancerPipeline
from steadydancer.models.sampling import denoise

GUIDANCE: dict[str, Any] = {
    "num_inference_steps": 5, "flow_shift": 5.0, "guidance_scale": 4.0, "pose_guidance_scale": 1.0,
}  # fmt: skip


class Counted(SteadyDancerPipeline):
    """With a velocity of its own and a progress bar that counts; interrupted after so many steps."""

    config: Any = SimpleNamespace()

    def __init__(self, stop_after: int | None = None) -> None:
        self.updates, self.total, self.stop_after = 0, 0, stop_after
        self.vae, self.transformer = "vae", None

    @property
    def interrupt(self) -> bool:
        return self.updates == self.stop_after

    @contextmanager
    def progress_bar(self, total: int) -> Any:
        self.total = total
        yield SimpleNamespace(update=self._update)

    def _update(self) -> None:
        self.updates += 1


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "branch_velocity", lambda transformer, branches, **_: velocity)


def velocity(latents: torch.Tensor, timestep: torch.Tensor, branch: str) -> torch.Tensor:
    return torch.tanh(latents) + 0.1 * len(branch) * (timestep.view(-1, 1, 1, 1, 1) > 500)


def sample(pipe: Counted, noise: torch.Tensor, **settings: Any) -> torch.Tensor:
    pose = torch.zeros(1, 16, 2, 2, 2)
    some = Conditions(pose, pose, *torch.zeros(3, 1, 1, 1))
    return pipe.denoise(noise, [some], torch.zeros(1, 1, 1), [[pose]], **GUIDANCE | settings)


def test_every_step_is_told_and_counted() -> None:
    pipe, noise, reported = Counted(), torch.randn(1, 16, 2, 2, 2), []
    out = sample(pipe, noise, callback=lambda *step: reported.append(step), flow_shift=3.0)
    assert torch.equal(out, denoise(velocity, noise, **GUIDANCE | {"flow_shift": 3.0}))
    assert (pipe.total, pipe.updates, pipe.num_timesteps) == (5, 5, 5)
    assert [step for step, _, _ in reported] == [0, 1, 2, 3, 4] and torch.equal(reported[-1][2], out)
    assert torch.equal(sample(pipe, noise, flow_shift=3.0), out)


@pytest.mark.parametrize(
    "settings",
    [
        {"pose_guidance_unit": "timestep"}, {"solver": "dpm++"}, {"pose_guidance_interval": (0.0, 1.0)},
        {"guidance_scale": 1.0}, {"pose_guidance_scale": 0.0},
    ],
)  # fmt: skip
def test_it_is_the_loop_of_denoise_with_every_setting(settings: dict[str, Any]) -> None:
    noise = torch.randn(1, 16, 2, 2, 2)
    out = sample(Counted(), noise, **settings)
    assert torch.equal(out, denoise(velocity, noise, **GUIDANCE | settings))
    assert not torch.equal(out, denoise(velocity, noise, **GUIDANCE))


def test_interrupted_it_returns_what_it_has() -> None:
    noise, reported = torch.randn(1, 16, 2, 2, 2), []
    denoise(velocity, noise, **GUIDANCE, callback=lambda *step: reported.append(step))
    pipe = Counted(stop_after=2)
    out = sample(pipe, noise)
    assert pipe.updates == 2
    assert torch.equal(out, reported[1][2])


def test_frames_come_in_the_kind_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.linspace(-1, 1, 3 * 5 * 2 * 4).reshape(3, 5, 2, 4)

    def decode_chunks(vae: Any, latents: torch.Tensor) -> Any:
        assert vae == "vae" and latents.tolist() == [7.0]
        yield from pixels.split([1, 4], dim=1)

    monkeypatch.setattr(pipeline, "decode_chunks", decode_chunks)
    latents, pipe = torch.tensor([[7.0], [7.0]]), Counted()
    assert pipe.decode_latents(latents, "latent") is latents
    floats, bytes_, videos = (pipe.decode_latents(latents, kind) for kind in ("np", "uint8", "pil"))
    expected = (pixels.permute(1, 2, 3, 0).numpy() + 1) / 2
    assert floats.dtype == np.float32 and floats.shape == (2, 5, 2, 4, 3)
    np.testing.assert_allclose(floats[0], expected, atol=1e-6)
    np.testing.assert_array_equal(bytes_[1], np.round(expected * 255).astype(np.uint8))
    assert bytes_.dtype == np.uint8
    for images in videos:
        assert len(images) == 5 and images[0].mode == "RGB"
        np.testing.assert_array_equal(np.stack(images), bytes_[0])
