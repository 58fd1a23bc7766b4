"""RAFT: the published names, padding, batches, and VBench's dynamic_degree."""

from pathlib import Path

import numpy as np
import pytest
import torch

from steadydancer.models import metrics
from steadydancer.models.metrics.judges import raft
from steadydancer.models.metrics.judges.raft import Raft, translated
from steadydancer.models.weights import WeightsError

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 131, 128, 3), np.uint8)


def test_published_names_are_torchvisions() -> None:
    names = {
        "fnet.conv1.weight": "feature_encoder.convnormrelu.0.weight",
        "cnet.norm1.running_mean": "context_encoder.convnormrelu.1.running_mean",
        "cnet.layer2.0.conv1.bias": "context_encoder.layer2.0.convnormrelu1.0.bias",
        "cnet.layer3.1.norm2.bias": "context_encoder.layer3.1.convnormrelu2.1.bias",
        "cnet.layer3.0.downsample.1.weight": "context_encoder.layer3.0.downsample.1.weight",
        "fnet.conv2.bias": "feature_encoder.conv.bias",
        "update_block.encoder.convc2.weight": "update_block.motion_encoder.convcorr2.0.weight",
        "update_block.encoder.convf1.weight": "update_block.motion_encoder.convflow1.0.weight",
        "update_block.encoder.conv.bias": "update_block.motion_encoder.conv.0.bias",
        "update_block.gru.convz1.weight": "update_block.recurrent_block.convgru1.convz.weight",
        "update_block.gru.convq2.bias": "update_block.recurrent_block.convgru2.convq.bias",
        "update_block.flow_head.conv2.weight": "update_block.flow_head.conv2.weight",
        "update_block.mask.0.weight": "mask_predictor.convrelu.0.weight",
        "update_block.mask.2.bias": "mask_predictor.conv.bias",
    }
    assert {name: translated(name) for name in names} == names
    assert set(names.values()) <= set(Raft(None)._network.state_dict())


def test_flow_of_any_batch_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    judge = Raft(None)
    monkeypatch.setattr(raft, "NUM_ITERATIONS", 2)
    flow = judge.flow(FRAMES)
    assert flow.shape == (2, 2, 131, 128) and flow.dtype == np.float32 and flow.std() > 0
    monkeypatch.setattr(raft, "_MAX_CORRELATIONS", 1)
    np.testing.assert_allclose(judge.flow(FRAMES), flow, atol=1e-4)
    # 131 rows are padded to 136: two above, three below, and VBench counts them.
    padded = np.pad(FRAMES, ((0, 0), (2, 3), (0, 0), (0, 0)), mode="edge")
    np.testing.assert_allclose(judge.flow(padded)[:, :, 2:133], flow, atol=1e-4)
    largest = [metrics.largest_flow(one) for one in judge.flow(padded)]
    np.testing.assert_allclose(judge.largest_flows(FRAMES), largest, rtol=1e-4)
    assert judge.flow(FRAMES[:1]).shape == (0, 2, 131, 128) and judge.largest_flows(FRAMES[:1]).shape == (0,)
    with pytest.raises(ValueError, match="at least 128 pixels, got 131 × 120"):
        judge.flow(FRAMES[:, :, :120])


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"fnet.conv1.weight": torch.zeros(32, 3, 7, 7)}, tmp_path / "raft-things.pth")
    with pytest.raises(WeightsError, match=r"RAFT's parameters: .*missing.*convnormrelu\.0\.weight \(32, 3, 7, 7\)"):
        Raft(tmp_path)


def test_dynamic_degree_counts_large_steps() -> None:
    flow = np.zeros((2, 10, 20))
    flow[0, :1, :10], flow[1, :1, :10] = 3, 4  # 5 % of the picture, of length 5
    assert metrics.largest_flow(flow) == 5 and np.isnan(metrics.largest_flow(np.zeros((2, 3, 3))))
    # 17 frames of 512 × 896: more than 12 px in round(17 / 4) = 4 steps.
    steps = np.full(16, 11.9)
    assert metrics.dynamic_degree(steps, 512, 896) == 0
    steps[:3] = 12.1
    assert metrics.dynamic_degree(steps, 896, 512) == 0
    steps[-1] = 12.1
    assert metrics.dynamic_degree(steps, 896, 512) == 1
    assert metrics.dynamic_degree(np.full(9, [12.1] + [0.0] * 8), 512, 512) == 0  # 10 frames: round(2.5) = 2
    assert metrics.dynamic_degree(np.zeros(1), 256, 256) == 1  # as VBench: none is needed
    assert np.isnan(metrics.dynamic_degree(np.zeros(0), 256, 256))
    assert np.isnan(metrics.dynamic_degree(np.array([np.nan, 20.0]), 256, 256))
    assert [metrics.flow_stride(fps) for fps in (4, 8, 16, 24, 25, 30)] == [1, 1, 2, 3, 3, 4]
