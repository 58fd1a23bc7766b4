"""Which weights are the base's, which are zero, and which are drawn. What they do together: test_ablations."""

import pytest
import torch

from steadydancer.models.pose_modulation import PoseModulation
from steadydancer.models.transformer import SteadyDancerTransformer3DModel


def test_the_fused_embedding_begins_as_the_bases_and_the_pose_at_zero(plain_wan):
    base = plain_wan()
    torch.manual_seed(4)
    model = SteadyDancerTransformer3DModel.from_wan(base)
    fused, reference = model.patch_embedding_fuse, model.patch_embedding_ref_c
    assert torch.equal(fused.weight[:, :36], base.patch_embedding.weight)
    assert torch.equal(fused.bias, base.patch_embedding.bias)
    assert fused.weight.shape[1] == 68 and not fused.weight[:, 36:].any()
    assert not reference.weight.any() and not reference.bias.any()
    # Two zeros in a row would never learn: what comes before is drawn, as the modules begin by themselves.
    usual = PoseModulation().state_dict()
    for name, tensor in model.pose_modulation.state_dict().items():
        assert tensor.any() == usual[name].any(), name
        if tensor.numel() > 100:
            assert tensor.std().item() == pytest.approx(usual[name].std().item(), rel=0.3, abs=1e-6), name
    torch.manual_seed(4)
    again = SteadyDancerTransformer3DModel.from_wan(base).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    kept = dict(model.named_parameters())
    assert all(torch.equal(kept[name], parameter) for name, parameter in base.named_parameters())


def test_an_adapter_draws_its_embedding_and_injects_nothing(plain_wan):
    model = SteadyDancerTransformer3DModel.from_wan(plain_wan(), pose_fusion="adapter")
    embedding = model.pose_adapter.patch_embedding
    bound = (32 * 4) ** -0.5  # as any convolution of 32 channels over 2 × 2 begins
    for parameter in (embedding.weight, embedding.bias):
        assert 0.8 * bound < parameter.abs().max() <= bound
    assert not any(injection.weight.any() for injection in model.pose_adapter.injections)


@pytest.mark.parametrize("copy", [True, False])
def test_weights_are_copied_or_shared(plain_wan, copy):
    base = plain_wan()
    model = SteadyDancerTransformer3DModel.from_wan(base, copy=copy)
    ours = dict(model.named_parameters())
    shared = {name for name, tensor in base.named_parameters() if ours[name].data_ptr() == tensor.data_ptr()}
    assert shared == (set() if copy else {name for name, _ in base.named_parameters()})
    assert model.patch_embedding_fuse.bias.data_ptr() != base.patch_embedding.bias.data_ptr()
