import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from steadydancer.models import pose_modulation
from steadydancer.models.checkpoints.key_maps import from_official
from steadydancer.models.pose_modulation import (
    FrameWiseAttentionAlignmentUnit,
    PoseModulation,
    SpatialStructureAdaptiveExtractor,
    TemporalMotionCoherenceModule,
)

PREFIX = "pose_modulation."


# Three times what was measured, or how far the released code's own float32 run is from its float64 run: whichever is
# more. The outputs' standard deviations are 1.5 to 3.3.
RELEASED_TOLERANCE = {"spatial": 3e-6, "temporal": 1e-5, "fused": 1e-5, "aligned": 2e-5}


@torch.no_grad()
def test_every_module_equals_the_released_code(golden_modules):
    config, golden = golden_modules
    assert config["in_dim_c"] == 16
    official = {name[3:]: t.float() for name, t in golden.items() if name.startswith("sd.condition_embedding")}
    modulation = PoseModulation()
    modulation.load_state_dict({name.removeprefix(PREFIX): t for name, t in from_official(official).items()})
    x, p = (golden[name].float()[None] for name in ("in.x", "in.condition"))
    fused, aligned = modulation(x, p)
    got = {"spatial": modulation.spatial(p), "temporal": modulation.temporal(p), "fused": fused, "aligned": aligned}
    for name, tolerance in RELEASED_TOLERANCE.items():
        torch.testing.assert_close(got[name][0], golden[f"mid.condition_{name}"], atol=tolerance, rtol=0)


def double(module):
    """Random weights and biases, norms included, as float64 arrays by name; the module is float64 too."""
    torch.manual_seed(0)
    module.double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def sigmoid_linear(a):
    return a / (1 + np.exp(-a))


@pytest.mark.parametrize(("channels", "inner", "squeezed"), [(16, 4, 4), (9, 3, 4), (81, 9, 5)])
@torch.no_grad()
def test_the_spatial_extractor_is_its_formula(channels, inner, squeezed):
    module = SpatialStructureAdaptiveExtractor(channels)
    w = double(module)
    p = np.random.default_rng(0).normal(0.3, 1.0, (2, channels, 3, 4, 5))

    def gate(a):  # 0 to 2
        return np.minimum(np.maximum(a + 3, 0), 6) / 3

    def instance_norm(u, name):
        centred = u - u.mean(axis=(1, 2), keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=(1, 2), keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]

    def pointwise(name, x):
        return np.einsum("oc,chw->ohw", w[f"{name}.weight"][:, :, 0, 0], x)

    expected = np.empty_like(p)
    for sample in range(2):
        for t in range(3):
            frame = p[sample, :, t]
            s = w["squeeze.weight"] @ frame.mean(axis=(1, 2))
            assert s.shape == (squeezed,)
            s = s * gate(w["gate.weight"] @ s)
            u = instance_norm(pointwise("conv_q", frame), "norm_1")
            kernel = (w["to_kernel.weight"] @ s).reshape(inner, inner)
            answer = instance_norm(np.einsum("ij,jhw->ihw", kernel, u), "norm_2") + u
            scale = gate(w["to_scale.weight"] @ s)[:, None, None]
            expected[sample, :, t] = pointwise("conv_p", answer) + scale * pointwise("conv", frame)
    np.testing.assert_allclose(module(torch.from_numpy(p)).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("size", [3, 1])
@torch.no_grad()
def test_the_temporal_module_is_its_formula(size):
    channels, blocks = 3, 2
    module = TemporalMotionCoherenceModule(channels, blocks, size)
    w = double(module)
    x = np.random.default_rng(1).normal(size=(2, channels, 4, 3, 5))
    got = module(torch.from_numpy(x)).numpy()
    for block in range(blocks):
        padded = np.pad(x, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)))
        kernel = w[f"{block}.spatial.weight"][:, 0, 0]  # [C, 3, 3]: every channel its own
        x = sigmoid_linear(
            sum(
                padded[..., i : i + 3, j : j + 5] * kernel[:, i, j][:, None, None, None]
                for i in range(3)
                for j in range(3)
            )
        )
        padded = np.pad(x, ((0, 0), (0, 0), (size // 2, size // 2), (0, 0), (0, 0)))
        mixing = w[f"{block}.temporal.weight"][..., 0, 0]  # [C, C, size]: all channels of so many frames
        x = sum(np.einsum("oc,bcthw->bothw", mixing[:, :, k], padded[:, :, k : k + 4]) for k in range(size))
        x = sigmoid_linear(x + w[f"{block}.temporal.bias"][:, None, None, None])
    np.testing.assert_allclose(got, x, atol=1e-10)


def test_by_default_there_are_three_blocks_sixteen_channels_and_all_modules():
    modulation = PoseModulation()
    assert len(modulation.temporal) == 3
    assert modulation.temporal[2].temporal.weight.shape == (16, 16, 3, 1, 1)
    assert modulation.spatial.conv.weight.shape == (16, 16, 1, 1)
    assert modulation.alignment.to_out.weight.shape == (128, 128)
    assert modulation.alignment.num_attention_heads == 8
    assert (modulation.alignment.alignment_axis, modulation.alignment.dropout) == ("temporal", 0.0)
    assert modulation.out_channels == 32
    assert PoseModulation(modules=("spatial",)).out_channels == 16
    spatial = PoseModulation(8, "spatial", ("alignment",), 0.25)
    assert (spatial.alignment.alignment_axis, spatial.alignment.dropout, spatial.out_channels) == ("spatial", 0.25, 16)
    assert spatial.alignment.proj_pose.in_features == spatial.alignment.proj_out.out_features == 8
    # As `nn.MultiheadAttention` begins: no biases, and weights of one packed matrix.
    assert not modulation.alignment.to_qkv.bias.any() and not modulation.alignment.to_out.bias.any()
    bound = (6 / (384 + 128)) ** 0.5
    assert 0.98 * bound < modulation.alignment.to_qkv.weight.abs().max() <= bound


@torch.no_grad()
def test_latents_of_another_float_type_meet_the_modules_in_theirs():
    torch.manual_seed(0)
    modulation = PoseModulation().double()
    assert modulation.dtype == torch.float64
    x, p = torch.randn(2, 1, 16, 3, 4, 5).bfloat16()
    fused, aligned = modulation(x, p)
    assert (fused.dtype, aligned.dtype) == (torch.float64, torch.float64)
    expected = modulation(x.double(), p.double())
    assert torch.equal(fused, expected[0]) and torch.equal(aligned, expected[1])
    nothing = PoseModulation(modules=())
    assert nothing.dtype is None and nothing.fuse(p).dtype == torch.bfloat16


def changed(module, inputs, which, where):
    """Where the output moves, [T,H,W], if one (t,h,w) of one input is touched."""
    before = module(*inputs)
    touched = [x.clone() for x in inputs]
    touched[which][0, :, *where] += 1.0
    return (module(*touched) - before).abs().amax(dim=(0, 1)) > 1e-6


@pytest.mark.parametrize("axis", ["temporal", "spatial"])
@torch.no_grad()
def test_the_alignment_unit_attends_along_its_axis_only(axis):
    torch.manual_seed(0)
    unit = FrameWiseAttentionAlignmentUnit(alignment_axis=axis)
    inputs = [torch.randn(1, 16, 4, 5, 6), torch.randn(1, 16, 4, 5, 6)]
    at = (2, 3, 1)
    by_pose, by_noise = torch.zeros(2, 4, 5, 6, dtype=torch.bool)
    if axis == "temporal":
        by_pose[:, 3, 1] = True
    else:
        by_pose[2] = True
    by_noise[at] = True
    assert torch.equal(changed(unit, inputs, 1, at), by_pose)
    assert torch.equal(changed(unit, inputs, 0, at), by_noise)


@pytest.mark.parametrize("axis", ["temporal", "spatial"])
@torch.no_grad()
def test_the_alignment_unit_equals_torch_attention_written_out(axis):
    torch.manual_seed(0)
    unit = FrameWiseAttentionAlignmentUnit(alignment_axis=axis).double()
    torch.nn.init.normal_(unit.to_qkv.bias)
    x, p = torch.randn(2, 2, 16, 3, 4, 5, dtype=torch.float64)
    twin = torch.nn.MultiheadAttention(128, 8, batch_first=True, dtype=torch.float64)
    twin.load_state_dict(
        {
            "in_proj_weight": unit.to_qkv.weight,
            "in_proj_bias": unit.to_qkv.bias,
            "out_proj.weight": unit.to_out.weight,
            "out_proj.bias": unit.to_out.bias,
        }
    )
    expected = torch.empty_like(x)
    sites = [(b, h, w) for b in range(2) for h in range(4) for w in range(5)]
    if axis == "temporal":
        cuts = [(b, slice(None), slice(None), h, w) for b, h, w in sites]
    else:
        cuts = [(b, slice(None), t) for b in range(2) for t in range(3)]
    for cut in cuts:
        query, pose = (s[cut].flatten(1).T[None] for s in (x, p))
        pose = unit.proj_pose(pose)
        a = unit.norm_1(twin(unit.proj_query(query), pose, pose)[0])
        out = unit.proj_out(unit.norm_2(a + unit.ffn(a)))
        expected[cut] = out[0].T.reshape(expected[cut].shape)
    torch.testing.assert_close(unit(x, p), expected)


@torch.no_grad()
def test_the_spatial_extractor_sees_one_frame_at_a_time():
    torch.manual_seed(0)
    p = torch.randn(1, 16, 4, 5, 6)
    moved = changed(SpatialStructureAdaptiveExtractor(), [p], 0, (2, 3, 1))
    assert torch.equal(moved.flatten(1).any(1), torch.tensor([False, False, True, False]))
    assert moved[2].all()  # its kernel is made from the whole frame


@torch.no_grad()
def test_the_temporal_module_reaches_three_steps_each_way():
    torch.manual_seed(0)
    p = torch.randn(1, 16, 9, 9, 9)
    moved = changed(TemporalMotionCoherenceModule(), [p], 0, (4, 4, 4))
    expected = torch.zeros(9, 9, 9, dtype=torch.bool)
    expected[1:8, 1:8, 1:8] = True
    # Three 3-wide convolutions, in space and in time; SiLU may hide the faintest outer changes, never add one.
    assert not (moved & ~expected).any()
    assert moved[1].any() and moved[7].any()


@torch.no_grad()
def test_a_pointwise_temporal_convolution_keeps_frames_apart():
    torch.manual_seed(0)
    p = torch.randn(1, 16, 5, 9, 9)
    module = PoseModulation(modules=("temporal",), temporal_kernel_size=1).temporal
    moved = changed(module, [p], 0, (2, 4, 4))
    assert torch.equal(moved.flatten(1).any(1), torch.tensor([False, False, True, False, False]))
    # It is the released module whose kernels are zero beside the middle frame.
    released = TemporalMotionCoherenceModule()
    state = module.state_dict()
    padded = {name: torch.nn.functional.pad(t, (0, 0, 0, 0, 1, 1)) for name, t in state.items() if t.ndim == 5}
    released.load_state_dict(state | {name: t for name, t in padded.items() if "temporal" in name})
    torch.testing.assert_close(module(p), released(p))


@torch.no_grad()
def test_aggregation_is_a_plain_sum_of_the_pose_alone():
    torch.manual_seed(0)
    modulation = PoseModulation()
    x, p = torch.randn(2, 2, 16, 3, 4, 5)
    fused, aligned = modulation(x, p)
    torch.testing.assert_close(fused, p + modulation.spatial(p) + modulation.temporal(p))
    assert torch.equal(fused, modulation.fuse(p))
    assert torch.equal(aligned, modulation.align(x, fused))


@pytest.mark.parametrize("modules", [(), ("spatial",), ("temporal",), ("alignment",), ("spatial", "temporal")])
@torch.no_grad()
def test_a_module_that_is_not_there_is_missing_from_the_sum(modules):
    torch.manual_seed(0)
    modulation = PoseModulation(modules=modules)
    x, p = torch.randn(2, 2, 16, 3, 4, 5)
    terms = [getattr(modulation, name)(p) for name in ("spatial", "temporal") if name in modules]
    fused, aligned = modulation(x, p)
    torch.testing.assert_close(fused, sum(terms, p))
    assert (aligned is None) == ("alignment" not in modules)
    assert {name.split(".")[0] for name, _ in modulation.named_parameters()} == set(modules)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("axis", ["temporal", "spatial"])
def test_attention_in_pieces_has_the_bits_of_attention_at_once(axis, dropout, monkeypatch):
    torch.manual_seed(0)
    unit = FrameWiseAttentionAlignmentUnit(alignment_axis=axis, dropout=dropout)
    x, p = torch.randn(2, 2, 16, 3, 4, 5)
    results = []
    for limit in (65_535, 8 * 3, 1):  # blocks: all sequences at once, three of them, one by one
        monkeypatch.setattr(pose_modulation, "MAX_CUDA_BLOCKS", limit)
        unit.zero_grad()
        out = unit(x, p, dropout_seeds=(1, 2))
        out.square().sum().backward()
        results.append([out.detach(), *(parameter.grad.clone() for parameter in unit.parameters())])
    for other in results[1:]:
        assert all(torch.equal(got, expected) for got, expected in zip(other, results[0], strict=True))


def dropping_unit(dropout, axis="temporal", **changes):
    torch.manual_seed(0)
    return FrameWiseAttentionAlignmentUnit(alignment_axis=axis, dropout=dropout, **changes)


@pytest.mark.parametrize("axis", ["temporal", "spatial"])
@torch.no_grad()
def test_dropout_belongs_to_the_sample_and_its_seed_however_the_batch_is_split(axis):
    unit = dropping_unit(0.3, axis)
    x, p = torch.randn(2, 4, 16, 3, 4, 5)
    seeds = (11, 22, 33, 22)
    together = unit(x, p, seeds)
    for cut in (slice(0, 1), slice(1, 4), slice(2, 4)):
        torch.testing.assert_close(together[cut], unit(x[cut], p[cut], seeds[cut]), atol=1e-6, rtol=1e-6)
    again = unit(x[[1, 1]], p[[1, 1]], (22, 23))
    torch.testing.assert_close(again[0], together[1], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(again[1], together[1], atol=1e-3)


@pytest.mark.parametrize("axis", ["temporal", "spatial"])
@torch.no_grad()
def test_dropout_leaves_out_its_share_and_keeps_the_expectation(axis):
    unit = dropping_unit(0.3, axis, inner_dim=32, num_attention_heads=2)
    answers = []
    unit.to_out.register_forward_pre_hook(lambda module, given: answers.append(given[0]))
    x, p = torch.randn(2, 1, 16, 4, 2, 2)
    num = 4000
    unit(x.expand(num, -1, -1, -1, -1), p.expand(num, -1, -1, -1, -1), range(num))
    unit.eval()(x, p)
    drawn, plain = answers[0].unflatten(0, (num, -1)), answers[1]
    error = drawn.std(dim=0) / num**0.5
    assert error.min() > 0
    assert ((drawn.mean(dim=0) - plain).abs() / error).max() < 5
    kept = unit._dropout_mask(torch.empty(len(plain) * num, 2, plain.shape[1], 16), range(num))
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("axis", ["temporal", "spatial"])
@torch.no_grad()
def test_dropout_that_leaves_nothing_out_is_plain_attention(axis):
    unit = dropping_unit(1e-12, axis)
    x, p = torch.randn(2, 2, 16, 3, 4, 5)
    trained = unit(x, p, (1, 2))
    assert unit._dropout_mask(torch.empty(40, 8, 3, 16), (1, 2)).all()
    torch.testing.assert_close(trained, unit.eval()(x, p), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_dropout_is_at_work_in_training_alone_and_wants_a_seed_a_sample():
    unit, x, p = dropping_unit(0.3), *torch.randn(2, 2, 16, 3, 4, 5)
    plain = dropping_unit(0.0)
    assert torch.equal(unit.eval()(x, p), plain.train()(x, p))
    assert torch.equal(unit.eval()(x, p, (1, 2)), plain(x, p, (1, 2)))
    unit.train()
    for seeds in (None, (1, 2, 3)):
        with pytest.raises(ValueError, match="one seed per sample"):
            unit(x, p, seeds)


def test_a_recomputed_forward_leaves_out_the_same():
    unit, x, p = dropping_unit(0.3), *torch.randn(2, 1, 16, 3, 4, 5)
    gradients = []
    for run in (unit, lambda *given: checkpoint(unit, *given, use_reentrant=False, preserve_rng_state=False)):
        unit.zero_grad()
        run(x, p, (7,)).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in unit.parameters()])
    assert all(torch.equal(got, expected) for got, expected in zip(*gradients, strict=True))


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="alignment_axis must be 'temporal' or 'spatial', not 'frames'"):
        FrameWiseAttentionAlignmentUnit(alignment_axis="frames")
    for dropout in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"dropout must be at least 0 and below 1, not {dropout}"):
            FrameWiseAttentionAlignmentUnit(dropout=dropout)
    with pytest.raises(ValueError, match=r"unknown pose modules \['pose', 'time'\]: choose from spatial, temporal, a"):
        PoseModulation(modules=("time", "spatial", "pose"))
