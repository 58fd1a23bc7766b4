"""The same gradients and the same memory as torch's autograd engine, where both can run: on the CPU."""

import pytest
import torch

from steadydancer.models.preflight.fake_backward import backward
from steadydancer.models.preflight.fake_gpu import TotalTracker
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

SIZES = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 64, "num_layers": 3, "text_dim": 16,
         "freq_dim": 16, "image_dim": 8}  # fmt: skip
GRID = (3, 4, 6)


def loss_of(model):
    def normal(*shape):
        return torch.randn(1, *shape, generator=torch.Generator().manual_seed(sum(shape)))

    latents, timestep = normal(16, *GRID), torch.tensor([500])
    features = normal(20, 16), normal(257, 8), normal(257, 8)
    out = model(latents, timestep, *features, normal(20, *GRID), normal(16, *GRID), return_dict=False)[0]
    return out.square().mean()


@pytest.fixture(params=[False, True], ids=["all saved", "checkpointed"])
def model(request):
    torch.manual_seed(0)
    network = SteadyDancerTransformer3DModel(**SIZES).train()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    if request.param:
        network.enable_gradient_checkpointing()
    return network


def gradients(model, backward_pass):
    model.zero_grad()
    backward_pass(loss_of(model))
    return {name: weight.grad for name, weight in model.named_parameters()}


def test_gradients_have_the_bits_of_torchs_engine(model):
    by_engine, by_us = gradients(model, torch.Tensor.backward), gradients(model, backward)
    assert by_engine.keys() == by_us.keys()
    assert any(gradient is not None for gradient in by_us.values())
    for name, expected in by_engine.items():
        assert expected is None if by_us[name] is None else torch.equal(by_us[name], expected), name


def test_tensors_are_freed_when_torchs_engine_frees_them(model):
    peaks = []
    for backward_pass in (torch.Tensor.backward, backward):
        model.zero_grad()
        tracker = TotalTracker()
        tracker.track_external(model)
        with tracker:
            backward_pass(loss_of(model))
        peaks.append(tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"])
    assert peaks[1] == pytest.approx(peaks[0], rel=0.02)


def test_gradients_accumulate(model):
    once = gradients(model, backward)["proj_out.weight"].clone()
    backward(loss_of(model))
    assert torch.equal(model.proj_out.weight.grad, 2 * once)
