"""The forecast of a training step against torch's memory tracker, over the same step with fake CUDA tensors."""

import pytest

from steadydancer.pipelines.train import flops
from steadydancer.pipelines.train.config import TrainConfig
from steadydancer.pipelines.train.preflight import footprint
from steadydancer.pipelines.train.preflight.trace import trace_step

RELEASED = (81, 640, 640)
# The engine's buffers and the encoder of simulated poses, which runs beside the step, are not in a traced step.
NOT_TRACED = ("buffers", "pose_encoder")


def forecast_and_trace(clip, num_layers, **settings):
    config = TrainConfig(num_workers=0, global_batch_size=1, **settings)
    network = flops.count(config, {"num_layers": num_layers})
    counted = footprint.gpu_memory(config, network, clip)
    passes = sum(size for name, size in counted.items() if name not in ("update", "loading", "total"))
    step = max(passes, counted["update"]) - sum(counted[name] for name in NOT_TRACED)
    return step, trace_step(config, network, clip)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_step_of_two_blocks_takes_what_torchs_tracker_counts(stage):
    forecast, traced = forecast_and_trace((81, 480, 480), 2, stage=stage)
    assert forecast == pytest.approx(traced.peak, rel=0.1)


@pytest.mark.acceptance
@pytest.mark.parametrize("settings", [{"stage": 3}, {"stage": 1, "keep_attention_outputs": True}], ids=str)
def test_other_steps_of_two_blocks_take_what_torchs_tracker_counts(settings):
    forecast, traced = forecast_and_trace((81, 480, 480), 2, **settings)
    assert forecast == pytest.approx(traced.peak, rel=0.1)


def test_without_checkpointing_all_activations_are_there():
    settings = {"stage": 1, "gradient_checkpointing": False}
    forecast, traced = forecast_and_trace((81, 320, 320), 3, **settings)
    assert forecast == pytest.approx(traced.peak, rel=0.1)


def test_the_update_of_a_large_network_on_small_clips_is_its_peak():
    """All weights of four blocks and hardly any activations: float32 gradients and AdamW's temporaries count."""
    forecast, traced = forecast_and_trace((5, 128, 128), 4, stage=2)
    assert traced.update > traced.forward_backward
    assert forecast == pytest.approx(traced.update, rel=0.1)


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_step_at_14b_takes_what_torchs_tracker_counts(stage):
    forecast, traced = forecast_and_trace(RELEASED, 40, stage=stage)
    assert forecast == pytest.approx(traced.peak, rel=0.1)
