"""Flow matching: the straight path between data and noise, and the sampling grid.

One convention everywhere: σ in [0,1], 0 = data, 1 = noise; velocity = noise − data; timestep = 1000 σ.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

NUM_TRAIN_TIMESTEPS = 1000
Sigma = TypeVar("Sigma", float, Tensor)
SIGMA_MAX = np.float32(0.999)  # the released grid starts here, rounded to float32 (diffusers' own starts at 1)


def add_noise(latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return the point on the path x = (1 − σ) x0 + σ ε.

    x0 -> `latents` and ε -> `noise`, both [B,C,T,H,W]; σ -> `sigma` [B] in [0,1].
    """
    sigma = sigma.view(-1, *[1] * (latents.ndim - 1))
    return (1 - sigma) * latents + sigma * noise


def velocity_target(latents: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity v = ε − x0, the derivative of `noisy` by σ. It is the same at every σ.

    x0 -> `latents` and ε -> `noise`, of one shape.
    """
    return noise - latents


def shift_sigma(u: Sigma, shift: float) -> Sigma:
    """Shift u in [0,1] to σ = s u / (1 + (s − 1) u): towards noise for s > 1; keeps 0 and 1.

    u -> `u`, s -> `shift`.
    """
    return shift * u / (1 + (shift - 1) * u)


def timestep_of(sigma: Tensor) -> Tensor:
    """Return t = 1000 σ, the input of the time embedding; not rounded (the sampler's grid truncates)."""
    return NUM_TRAIN_TIMESTEPS * sigma


def unshifted_sigmas(num_inference_steps: int) -> np.ndarray:
    """Return the released grid before the shift: float32 [num_inference_steps], from 0.999 towards 0 (excluded)."""
    return np.linspace(SIGMA_MAX, 0, num_inference_steps + 1)[:-1]


def sigma_grid(num_inference_steps: int, shift: float) -> Tensor:
    """Return the released sampling grid: float32 [num_inference_steps + 1], decreasing, the last one is 0."""
    sigmas = shift_sigma(torch.from_numpy(unshifted_sigmas(num_inference_steps)), shift)
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()
