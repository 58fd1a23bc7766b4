import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from steadydancer.models.pose_modulation import (
    FrameWiseAttentionAlignmentUnit,
    PoseModulation,
    SpatialStructureAdaptiveExtractor,
    TemporalMotionCoherenceModule,
)
from steadydancer.models.state_dict import from_official

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
PREFIX = "pose_modulation."


@pytest.fixture(params=[1, 2])
def golden(request):
    path = GOLDEN / f"model_{request.param}.safetensors"
    if not path.exists():
        pytest.skip(f"the parity fixture {path.name} is not on this machine (looked in {GOLDEN})")
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["config"])["in_dim_c"] == 16
        official = {n[3:]: file.get_tensor(n).float() for n in file.keys() if n.startswith("sd.condition_embedding")}  # noqa: SIM118
        values = {n: file.get_tensor(n).float()[None] for n in file.keys() if n[:4] in ("mid.", "in.x", "in.c")}  # noqa: SIM118
    modulation = PoseModulation()
    modulation.load_state_dict({name.removeprefix(PREFIX): t for name, t in from_official(official).items()})
    return modulation, values


@torch.no_grad()
def test_every_module_equals_the_released_code(golden):
    modulation, values = golden
    x, p = values["in.x"], values["in.condition"]
    fused, aligned = modulation(x, p)
    for got, name in [
        (modulation.spatial(p), "condition_spatial"),
        (modulation.temporal(p), "condition_temporal"),
        (fused, "condition_fused"),
        (aligned, "condition_aligned"),
    ]:
        torch.testing.assert_close(got, values[f"mid.{name}"], atol=2e-5, rtol=0)


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
def test_aggregation_is_a_plain_sum_of_the_pose_alone():
    torch.manual_seed(0)
    modulation = PoseModulation()
    x, p = torch.randn(2, 2, 16, 3, 4, 5)
    fused, aligned = modulation(x, p)
    torch.testing.assert_close(fused, p + modulation.spatial(p) + modulation.temporal(p))
    assert torch.equal(fused, modulation.fuse(p))
    assert torch.equal(aligned, modulation.align(x, fused))


def test_an_unknown_axis_is_refused():
    with pytest.raises(ValueError, match="'temporal' or 'spatial'"):
        FrameWiseAttentionAlignmentUnit(alignment_axis="frames")
