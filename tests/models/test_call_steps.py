"""Sampling that is watched and stopped, and frames in the kind that was asked for."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steadydancer.models import call_steps
from steadydancer.models.call_steps import decode_as, sample
from steadydancer.models.sampling import denoise


class Pipeline:
    """With a progress bar that counts, interrupted after so many steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.updates, self.total, self.stop_after = 0, 0, stop_after

    @property
    def interrupt(self) -> bool:
        return self.updates == self.stop_after

    @contextmanager
    def progress_bar(self, total: int) -> Any:
        self.total = total
        yield SimpleNamespace(update=self._update)

    def _update(self) -> None:
        self.updates += 1


def velocity(latents: torch.Tensor, timestep: torch.Tensor, branch: str) -> torch.Tensor:
    return torch.tanh(latents) + 0.1 * len(branch)


def test_every_step_is_told_and_counted() -> None:
    pipeline, noise, told = Pipeline(), torch.randn(1, 16, 2, 2, 2), []
    out = sample(pipeline, velocity, noise, lambda *step: told.append(step), num_inference_steps=5, flow_shift=3.0)
    assert torch.equal(out, denoise(velocity, noise, num_inference_steps=5, flow_shift=3.0))
    assert (pipeline.total, pipeline.updates) == (5, 5)
    assert [step for step, _, _ in told] == [0, 1, 2, 3, 4] and torch.equal(told[-1][2], out)
    assert torch.equal(sample(pipeline, velocity, noise, None, num_inference_steps=5, flow_shift=3.0), out)


def test_interrupted_it_returns_what_it_has() -> None:
    noise, told = torch.randn(1, 16, 2, 2, 2), []
    denoise(velocity, noise, num_inference_steps=5, callback=lambda *step: told.append(step))
    pipeline = Pipeline(stop_after=2)
    out = sample(pipeline, velocity, noise, None, num_inference_steps=5)
    assert pipeline.updates == 2
    assert torch.equal(out, told[1][2])


def test_frames_come_in_the_kind_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.linspace(-1, 1, 3 * 5 * 2 * 4).reshape(3, 5, 2, 4)

    def decode_chunks(vae: Any, latents: torch.Tensor) -> Any:
        assert vae == "vae" and latents.tolist() == [7.0]
        yield from pixels.split([1, 4], dim=1)

    monkeypatch.setattr(call_steps, "decode_chunks", decode_chunks)
    latents: Any = torch.tensor([[7.0]])
    vae: Any = "vae"
    assert decode_as("latent", vae, latents) is latents
    floats, bytes_, (images,) = (decode_as(kind, vae, latents) for kind in ("np", "uint8", "pil"))
    expected = (pixels.permute(1, 2, 3, 0).numpy() + 1) / 2
    assert floats.dtype == np.float32 and floats.shape == (1, 5, 2, 4, 3)
    np.testing.assert_allclose(floats[0], expected, atol=1e-6)
    np.testing.assert_array_equal(bytes_[0], np.round(expected * 255).astype(np.uint8))
    assert bytes_.dtype == np.uint8
    assert len(images) == 5 and images[0].mode == "RGB"
    np.testing.assert_array_equal(np.stack(images), bytes_[0])
