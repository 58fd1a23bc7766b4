from itertools import pairwise

import numpy as np
import pytest
import torch

from steadydancer.models.flow_matching import (
    add_noise,
    shift_sigma,
    sigma_grid,
    timestep_of,
    unshifted_sigmas,
    velocity_target,
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 16, 3, 4, 4, generator=generator, dtype=torch.float64)


def test_the_path_ends_in_data_and_in_noise(pair):
    latents, noise = pair
    assert torch.equal(add_noise(latents, noise, torch.zeros(2)), latents)
    assert torch.equal(add_noise(latents, noise, torch.ones(2)), noise)


def test_the_velocity_is_the_derivative_of_the_path(pair):
    latents, noise = pair
    sigma, h = torch.tensor([0.2, 0.9], dtype=torch.float64), 1e-4
    slope = (add_noise(latents, noise, sigma + h) - add_noise(latents, noise, sigma - h)) / (2 * h)
    torch.testing.assert_close(slope, velocity_target(latents, noise), atol=1e-9, rtol=1e-9)


def test_each_sample_has_its_own_sigma(pair):
    latents, noise = pair
    mixed = add_noise(latents, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(mixed[0], latents[0])
    assert torch.equal(mixed[1], noise[1])


def test_following_the_true_velocity_integrates_exactly(pair):
    latents, noise = pair
    x, v, sigmas = noise, velocity_target(latents, noise), sigma_grid(7, 3.0).double()
    x = add_noise(latents, noise, sigmas[:1])
    for sigma, following in pairwise(sigmas):
        x = x + (following - sigma) * v
    torch.testing.assert_close(x, latents)


def test_the_shift_keeps_the_ends_and_moves_the_middle_towards_noise():
    u = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(shift_sigma(u, 5.0), torch.tensor([0.0, 5 / 6, 1.0], dtype=torch.float64))
    assert torch.equal(shift_sigma(u, 1.0), u)
    assert [shift_sigma(one, 5.0) for one in u.tolist()] == shift_sigma(u, 5.0).tolist()  # a number as a tensor


def test_the_released_grid():
    grid = sigma_grid(40, 5.0)
    assert grid.dtype == torch.float32
    assert len(grid) == 41
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()
    assert grid[0].item() == pytest.approx(5 * 0.999 / (1 + 4 * 0.999), abs=1e-7)
    # The pose-guided steps, as published: σ from 0.972 down to 0.893.
    assert [round(grid[step].item(), 3) for step in (5, 15)] == [0.972, 0.893]


@pytest.mark.parametrize(("num_steps", "shift"), [(40, 5.0), (5, 3.0), (1, 1.0)])
def test_the_grid_is_its_formula(num_steps, shift):
    even = [float(np.float32(0.999)) * (1 - step / num_steps) for step in range(num_steps)]
    expected = [shift * u / (1 + (shift - 1) * u) for u in even] + [0.0]
    # To float32's last digit, which timesteps do not see: they are cut to whole numbers.
    assert sigma_grid(num_steps, shift).tolist() == pytest.approx(expected, abs=1.2e-7)
    unshifted = unshifted_sigmas(num_steps)
    assert unshifted.tolist() == pytest.approx(even, abs=1.2e-7)
    assert unshifted[0] == np.float32(0.999)
    assert [int(1000 * sigma) for sigma in sigma_grid(num_steps, shift).tolist()] == [int(1000 * s) for s in expected]


def test_timesteps_are_a_thousand_sigmas_and_not_rounded():
    sigmas = torch.tensor([0.0, 0.25, 0.50050, 1.0])
    assert timestep_of(sigmas).tolist() == pytest.approx([0.0, 250.0, 500.5, 1000.0], abs=1e-4)
