"""The forecast against torch's memory tracker, over the same phases with fake CUDA tensors."""

import dataclasses

import pytest
import torch

from steadydancer.models.preflight import traces
from steadydancer.models.preflight.rendering import Savings, rendering_memory
from steadydancer.models.preflight.sizes import Clip, Sizes

# Wan's widths with two blocks: a trace takes the same time whatever the sizes of its tensors.
SHALLOW = Sizes(
    transformer={"num_layers": 2},
    text_encoder={"num_layers": 2},
    image_encoder={"num_layers": 3},
)
CLIP = Clip(9, 512, 288)


def phases(sizes, clip, dtype=torch.bfloat16):
    """Forecasts with only the weights that a phase uses, as a trace has them."""
    return rendering_memory(sizes, clip, dtype, Savings(resident=()))


def within_ten_percent(forecast, traced):
    return forecast == pytest.approx(traced, rel=0.1)


def check_all_phases(sizes, clip):
    forecast = phases(sizes, clip)
    for phase, traced in (
        ("encode_text", traces.trace_text_encoder(sizes)),
        ("encode_image", traces.trace_image_encoder(sizes)),
        ("encode_video", traces.trace_encoding(sizes, clip)),
        ("decode_video", traces.trace_decoding(sizes, clip)),
        ("denoise", traces.trace_denoising(sizes, clip)),
    ):
        assert within_ten_percent(forecast[phase], traced), (phase, forecast[phase], traced)


def test_every_phase_takes_what_torchs_tracker_counts():
    check_all_phases(SHALLOW, CLIP)


def test_float16_and_parked_projections_take_what_torchs_tracker_counts():
    half = phases(SHALLOW, CLIP, torch.float16)["denoise"]
    assert within_ten_percent(half, traces.trace_denoising(SHALLOW, CLIP, torch.float16))
    parked = rendering_memory(SHALLOW, CLIP, savings=Savings(parked_projections=True, resident=()))["denoise"]
    assert within_ten_percent(parked, traces.trace_denoising(SHALLOW, CLIP, parked=True))
    assert parked < phases(SHALLOW, CLIP)["denoise"]


def test_what_is_known_of_the_released_networks():
    memory = rendering_memory(Sizes(), Clip())
    assert memory["transformer_weights"] == pytest.approx(2 * 16_396_718_736, rel=0.005)
    assert memory["text_encoder_weights"] == pytest.approx(2 * 5_680_910_336, rel=0.001)
    assert memory["vae_weights"] == pytest.approx(4 * 126_892_531, rel=1e-6)
    weights = sum(value for name, value in memory.items() if name.endswith("_weights"))
    assert memory["total"] > memory["denoise"] > weights  # the decoder takes more than a forward pass
    alone = rendering_memory(Sizes(), Clip(), savings=Savings(resident=("transformer",)))
    assert memory["denoise"] - alone["denoise"] == weights - memory["transformer_weights"]
    # The keys and values of two prompts in 40 blocks, and the projections that make them: 26 % of the network.
    parked = rendering_memory(Sizes(), Clip(), savings=Savings(parked_projections=True))
    assert memory["transformer_weights"] - parked["transformer_weights"] == pytest.approx(0.256 * 32.8e9, rel=0.01)


def test_each_saving_saves_and_a_batch_of_branches_costs():
    default = Savings(resident=("transformer",))

    def denoising(**changes):
        return rendering_memory(Sizes(), Clip(), savings=dataclasses.replace(default, **changes))["denoise"]

    assert denoising(storage_dtype=torch.float8_e4m3fn) < 0.65 * denoising()
    assert denoising(blocks_on_gpu=2) < denoising(blocks_on_gpu=20) < denoising(blocks_on_gpu=40) == denoising()
    assert denoising(batched_branches=3) > denoising()
    larger = rendering_memory(Sizes(), Clip(81, 1280, 720), savings=default)
    assert larger["denoise"] > denoising()


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_the_released_networks_take_what_torchs_tracker_counts():
    """81 frames of 1024 × 576 through all 40 blocks; minutes of fake kernels."""
    check_all_phases(Sizes(), Clip())
    forward = traces.trace_forward(Sizes(), Clip())
    assert forward < phases(Sizes(), Clip())["denoise"]
