"""Windows cover a video once, begin with the same noise, and meet where their weights say."""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from steadydancer.models.flow_matching import sigma_grid
from steadydancer.models.long_video import FusedVelocity, Window, free_noise, plan_windows, window_key
from steadydancer.models.pipeline_inputs import InputError
from steadydancer.models.sampling import denoise


def rise(window: Window, before: Window | None, frame: int) -> Fraction:
    """What a window takes of a frame from those before it, by hand: a line over the frames that it shares."""
    if before is None:
        return Fraction(1)
    if frame == 0:
        return Fraction(0)
    num_shared = before.stop - window.start
    return min(Fraction(1), Fraction(frame - window.start + 1, num_shared + 1))


def shares(windows: Sequence[Window]) -> list[list[Fraction]]:
    """Each window's share of each of its latent frames: what it takes, times what all later ones leave of it."""
    rows = []
    for index, window in enumerate(windows):
        row = []
        for frame in window.latent_frames.tolist():
            share = Fraction(1)
            for later in range(index, len(windows)):
                if frame in windows[later].latent_frames:
                    taken = rise(windows[later], windows[later - 1] if later else None, frame)
                    share *= taken if later == index else 1 - taken
            row.append(share)
        rows.append(row)
    return rows


@pytest.mark.parametrize(("window", "overlap"), [(81, 20), (81, 76), (41, 16), (9, 4), (5, 0)])
def test_windows_are_whole_and_cover_every_latent_frame_with_weight_one(window: int, overlap: int) -> None:
    for num_frames in [*range(1, 120, 12), 161, 197, 401]:
        windows = plan_windows(num_frames, window, overlap)
        total = torch.zeros(num_frames // 4 + 1)
        for each in windows:
            total[each.latent_frames] += each.weights
            assert len(each.pixel_frames) == min(window, num_frames)
            assert each.weights.dtype == torch.float32
            # Latent frame 0 is one picture and every other one four.
            latent_frames = set(each.latent_frames.tolist())
            assert each.pixel_frames == [pixel for pixel in range(num_frames) if -(-pixel // 4) in latent_frames]
        assert torch.equal(total, torch.ones_like(total)), num_frames
        assert all(before.stop - after.start >= overlap // 4 for before, after in pairwise(windows))
        length, motion = min(window, num_frames) // 4, num_frames // 4
        assert len(windows) == 1 + max(0, math.ceil((motion - length) / max(1, length - overlap // 4)))
        assert (windows[0].start, windows[-1].stop) == (1, motion + 1)
        steps = [after.start - before.start for before, after in pairwise(windows)]
        assert not steps or max(steps) - min(steps) <= 1, "not evenly spaced"


@pytest.mark.parametrize(("window", "overlap"), [(81, 20), (81, 76), (41, 16), (9, 4), (5, 0)])
def test_every_weight_is_the_share_that_the_windows_lines_leave(window: int, overlap: int) -> None:
    """A sum of one is not enough: what cutting the weights leaves over is given away, however much it is."""
    for num_frames in (5, 37, 97, 141):
        windows = plan_windows(num_frames, window, overlap)
        for each, expected in zip(windows, shares(windows), strict=True):
            assert each.weights.tolist() == pytest.approx([float(share) for share in expected], abs=2e-5)
            assert each.weights.min() >= 0


@pytest.mark.parametrize(
    ("window", "overlap", "message"),
    [
        (80, 20, "window_frames must be 4k [+] 1 and at least 5, such as 81, not 80"),
        (83, 20, "window_frames .* not 83"),
        (1, 0, "window_frames .* not 1"),
        (-3, 0, "window_frames .* not -3"),
        (81, 6, "window_overlap must be a multiple of 4 from 0 to below 80, not 6"),
        (81, 80, "window_overlap .* not 80"),
        (81, -4, "window_overlap .* not -4"),
    ],
)
def test_other_sizes_are_refused(window: int, overlap: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
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
    # What a window adds is what it leaves behind: the frames between its start and that of the one before it.
    before, after = windows[4], windows[5]
    left = noise[0, 0, before.start : after.start, 0, 0].tolist()
    assert sorted(noise[0, 0, before.stop : after.stop, 0, 0].tolist()) == sorted(left)


def test_without_a_generator_the_noise_is_shuffled_by_torchs_own() -> None:
    windows, first = plan_windows(37, 21, 8), torch.randn(2, 16, 6, 1, 1)
    torch.manual_seed(5)
    noise = free_noise(first, windows, None)
    torch.manual_seed(5)
    assert torch.equal(free_noise(first, windows, None), noise)
    assert sorted(noise[1, 3, 6:, 0, 0].tolist()) == sorted(noise[1, 3, 1:5, 0, 0].tolist())


def test_one_window_asks_the_generator_for_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    noise = torch.randn(1, 16, 3, 2, 2)
    assert free_noise(noise, plan_windows(9), generator) is noise
    assert torch.equal(generator.get_state(), before)


def test_velocities_are_fused_in_float32_each_frame_by_its_own_weights() -> None:
    windows = plan_windows(21, 13, 4)  # latent frames 0, 1, 2, 3 and 0, 3, 4, 5; they share frame 3 by halves
    latents = torch.arange(2 * 16 * 6.0).reshape(2, 16, 6, 1, 1).bfloat16()
    times, seen = torch.tensor([7.0, 7.0]), []

    def velocity(given: Tensor, timestep: Tensor, key: Any) -> Tensor:
        assert timestep is times
        seen.append((key, given))
        return torch.full_like(given, 10.0 if key == "negative_pose" else 1 / 3)

    fused = FusedVelocity(velocity, windows)(latents, times, "negative_pose")
    third = torch.tensor(1 / 3).bfloat16().item()
    expected = torch.tensor([10, 10, 10, 5 + third / 2, third, third])
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, expected.view(1, 1, 6, 1, 1).expand(2, 16, 6, 1, 1))
    (first, of_first), (second, of_second) = seen
    assert (first, second) == ("negative_pose", "negative_pose of window 1")
    assert torch.equal(of_first, latents[:, :, [0, 1, 2, 3]])
    assert torch.equal(of_second, latents[:, :, [0, 3, 4, 5]])


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
