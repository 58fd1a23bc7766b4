"""The fast iteration is Muon's: as torch's to its bfloat16, and as the plain recurrence to float32."""

import pytest
import torch

from steadydancer.models.newton_schulz import COEFFICIENTS, NUM_ITERATIONS, muon_update, orthogonalise

SHAPES = [(6, 20), (20, 6), (8, 8), (1, 5), (64, 1728)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_iteration_is_the_plain_recurrence(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = matrix.double() if shape[0] <= shape[1] else matrix.double().T
    x = x / x.norm()
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    expected = x if shape[0] <= shape[1] else x.T
    torch.testing.assert_close(orthogonalise(matrix).double(), expected, rtol=1e-3, atol=1e-4)
    assert torch.linalg.svdvals(orthogonalise(matrix)).min() > 0.6 and torch.linalg.svdvals(expected).max() < 1.3


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_is_that_of_torch(shape: tuple[int, int]) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    weight = torch.nn.Parameter(torch.zeros(shape))
    weight.grad = gradient.clone()
    muon = torch.optim.Muon(
        [weight], lr=0.1, weight_decay=0.0, momentum=0.0, nesterov=False, adjust_lr_fn="match_rms_adamw"
    )
    muon.step()
    ours = -muon_update(gradient, 0.1)
    assert (ours - weight.detach()).norm() < 0.04 * ours.norm()  # torch's has 8 bits


def test_a_zero_gradient_moves_nothing() -> None:
    assert torch.equal(muon_update(torch.zeros(3, 4), 1.0), torch.zeros(3, 4))
