"""Windows cover a video once, begin with the same noise, and meet where their weights say."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steadydancer.models import encoders
from steadydancer.models.components import tiny_components
from steadydancer.models.flow_matching import sigma_grid
from steadydancer.models.long_video import FusedVelocity, free_noise, plan_windows, window_key
from steadydancer.models.sampling import denoise


@pytest.mark.parametrize(("window", "overlap"), [(81, 20), (81, 76), (9, 4), (5, 0)])
def test_windows_are_whole_and_cover_every_latent_frame_with_weight_one(window: int, overlap: int) -> None:
    for num_frames in [*range(1, 120, 12), 161, 197, 401]:
        windows = plan_windows(num_frames, window, overlap)
        total = torch.zeros(num_frames // 4 + 1)
        for each in windows:
            total[each.latent_frames] += each.weights
            assert len(each.pixel_frames) == min(window, num_frames)
            # Latent frame 0 is one picture and every other one four.
            latent_frames = set(each.latent_frames.tolist())
            assert each.pixel_frames == [pixel for pixel in range(num_frames) if -(-pixel // 4) in latent_frames]
        assert torch.equal(total, torch.ones_like(total)), num_frames
        assert all(before.stop - after.start >= overlap // 4 for before, after in pairwise(windows))
        length, motion = min(window, num_frames) // 4, num_frames // 4
        assert len(windows) == 1 + max(0, math.ceil((motion - length) / max(1, length - overlap // 4)))


def test_a_window_rises_linearly_while_the_one_before_it_falls() -> None:
    first, second = plan_windows(21, 13, 4)  # 5 latent frames of motion in windows of 3, one shared
    assert (first.start, first.stop, second.start, second.stop) == (1, 4, 3, 6)
    assert first.weights.tolist() == [1, 1, 1, 0.5]
    assert second.weights.tolist() == [0, 0.5, 1, 1]
    wide = plan_windows(25, 17, 8)[1]  # 4 of motion, 2 shared
    torch.testing.assert_close(wide.weights, torch.tensor([0, 1 / 3, 2 / 3, 1, 1]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("window", "overlap", "message"), [(80, 20, "4k"), (1, 0, "4k"), (81, 6, "4"), (81, 80, "80")])
def test_other_sizes_are_refused(window: int, overlap: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_windows(161, window, overlap)


def test_every_window_sees_the_noise_of_the_first_in_another_order() -> None:
    windows = plan_windows(397, 41, 8)
    first = torch.randn(1, 16, 11, 2, 2, generator=torch.Generator().manual_seed(0))
    noise = free_noise(first, windows, torch.Generator().manual_seed(1))
    assert noise.shape == (1, 16, 100, 2, 2)
    assert torch.equal(noise[:, :, :11], first)

    def frames(window: Any) -> list[float]:
        return noise[0, 0, window.latent_frames, 0, 0].tolist()

    assert all(sorted(frames(window)) == sorted(frames(windows[0])) for window in windows)
    assert all(frames(window) != frames(windows[0]) for window in windows[1:])
    assert torch.equal(free_noise(first, windows, torch.Generator().manual_seed(1)), noise)
    assert not torch.equal(free_noise(first, windows, torch.Generator().manual_seed(2)), noise)


def test_one_window_asks_the_generator_for_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    noise = torch.randn(1, 16, 3, 2, 2)
    assert free_noise(noise, plan_windows(9), generator) is noise
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("num_steps", [1, 7])
def test_where_each_window_has_data_of_its_own_the_video_is_their_weighted_mean(num_steps: int) -> None:
    # A velocity from data to noise is followed exactly, so the result is known: the windows' data, fused.
    windows = plan_windows(49, 21, 8)
    draw = torch.Generator().manual_seed(0)
    data = [torch.randn(1, 16, 6, 2, 2, generator=draw) for _ in windows]
    noise = torch.randn(1, 16, 13, 2, 2, generator=draw)
    asked: list[Any] = []

    def velocity(latents: Tensor, timestep: Tensor, key: Any) -> Tensor:
        asked.append(key)
        index = [window_key("conditional", k) for k in range(len(windows))].index(key)
        assert latents.shape == data[index].shape
        return noise[:, :, windows[index].latent_frames] - data[index]

    settings: dict[str, Any] = {"num_inference_steps": num_steps, "guidance_scale": 1.0, "pose_guidance_scale": 0.0}
    out = denoise(FusedVelocity(velocity, windows), noise, **settings)
    expected = torch.zeros_like(noise)
    for window, each in zip(windows, data, strict=True):
        expected[:, :, window.latent_frames] += window.weights[:, None, None] * each
    start = sigma_grid(num_steps, 5.0)[0]
    torch.testing.assert_close(out, noise - start * (noise - expected), atol=2e-5, rtol=0)
    assert asked == ["conditional", *(f"conditional of window {k}" for k in range(1, len(windows)))] * num_steps


def test_one_window_fused_is_the_velocity_itself() -> None:
    def velocity(latents: Tensor, timestep: Tensor, branch: Any) -> Tensor:
        return torch.sin(latents * timestep)

    latents = torch.randn(1, 16, 6, 2, 2)
    time = torch.tensor([3.0])
    assert torch.equal(
        FusedVelocity(velocity, plan_windows(21))(latents, time, "conditional"), velocity(latents, time, 0)
    )


@pytest.fixture(scope="module")
def vae() -> Any:
    return tiny_components(seed=0)["vae"]


@pytest.mark.parametrize("chunk_frames", [1, 3, 4, 13])
def test_decoded_in_pieces_a_video_has_the_same_bits(vae: Any, chunk_frames: int) -> None:
    latents = torch.randn(16, 13, 4, 4, generator=torch.Generator().manual_seed(0))
    pieces = list(encoders.decode_chunks(vae, latents, chunk_frames))
    assert pieces[0].shape[1] == 4 * chunk_frames - 3
    assert torch.equal(torch.cat(pieces, dim=1), encoders.decode_pixels(vae, latents))


def test_pieces_are_seamless_because_the_decoder_remembers(vae: Any) -> None:
    latents = torch.randn(16, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    whole = encoders.decode_pixels(vae, latents)
    alone = encoders.decode_pixels(vae, latents[:, 4:])
    assert (alone[:, 1:] - whole[:, 17:]).abs().max() > 0.01  # what forgetting would cost
    # Something else may be encoded and decoded between two pieces, and nothing is left behind.
    pieces = encoders.decode_chunks(vae, latents)
    first = next(pieces)
    encoders.encode_video(vae, np.zeros((5, 32, 32, 3), np.uint8))
    encoders.decode_pixels(vae, latents[:, :1])
    assert torch.equal(torch.cat([first, *pieces], dim=1), whole)
    assert "clear_cache" not in vars(vae)


def test_a_tiled_decoder_gives_one_piece(vae: Any) -> None:
    latents = torch.randn(16, 6, 40, 4, generator=torch.Generator().manual_seed(0))
    vae.enable_tiling()
    try:
        (piece,) = encoders.decode_chunks(vae, latents)
        assert torch.equal(piece, encoders.decode_pixels(vae, latents))
    finally:
        vae.use_tiling = False
