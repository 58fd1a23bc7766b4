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


@pytest.mark.parametrize("changes", [
    {"branch_evaluation": "sequential"}, {"branch_evaluation": "batched"}, {"keeps_keys_values": False},
])  # fmt: skip
def test_ways_of_evaluating_branches_take_what_torchs_tracker_counts(changes):
    forecast = rendering_memory(SHALLOW, CLIP, savings=Savings(resident=(), **changes))["denoise"]
    assert within_ten_percent(forecast, traces.trace_denoising(SHALLOW, CLIP, **changes))


def test_tiles_take_what_torchs_tracker_counts():
    clip = Clip(9, 320, 384)
    forecast = rendering_memory(SHALLOW, clip, savings=Savings(resident=(), tiled=True))
    assert within_ten_percent(forecast["encode_video"], traces.trace_encoding(SHALLOW, clip, tiled=True))
    assert within_ten_percent(forecast["decode_video"], traces.trace_decoding(SHALLOW, clip, tiled=True))
    small = Clip(9, 256, 256)  # no side is above a tile's
    whole = rendering_memory(SHALLOW, small, savings=Savings(resident=()))
    assert rendering_memory(SHALLOW, small, savings=Savings(resident=(), tiled=True)) == whole


def test_layers_of_an_encoder_that_are_loaded_one_by_one_are_counted_alone():
    layerwise = rendering_memory(Sizes(), Clip(), savings=Savings(resident=(), layerwise=("text_encoder",)))
    vocabulary = 256_384 * 4096 * 2
    assert vocabulary < layerwise["text_encoder_weights"] < 1.1 * vocabulary
    assert layerwise["image_encoder_weights"] == rendering_memory(Sizes(), Clip())["image_encoder_weights"]


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
    tokens = 23 * 64 * 36 * 5120 * 2  # of one branch, bfloat16
    one_by_one = denoising(branch_evaluation="sequential")
    two, twenty, all_blocks = (denoising(branch_evaluation="sequential", blocks_on_gpu=n) for n in (2, 20, 40))
    assert two < twenty < all_blocks == one_by_one
    assert denoising(branch_evaluation="batched") > denoising() > one_by_one
    assert denoising() - one_by_one == pytest.approx(tokens, rel=0.1)
    loaded = {"blocks_on_gpu": 2}
    all_three = denoising(**loaded) - denoising(branch_evaluation="sequential", **loaded)
    assert all_three == pytest.approx(2 * tokens, rel=0.1)
    assert denoising(num_branches=1) < one_by_one  # no keys and values of a negative prompt
    keys_values = (257 + 512) * 5120 * 2 * 2
    assert denoising() - denoising(keeps_keys_values=False) == pytest.approx(2 * 40 * keys_values, rel=0.05)
    larger = rendering_memory(Sizes(), Clip(81, 1280, 720), savings=default)
    assert larger["denoise"] > denoising()


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_the_released_networks_take_what_torchs_tracker_counts():
    """81 frames of 1024 × 576 through all 40 blocks; minutes of fake kernels."""
    check_all_phases(Sizes(), Clip())
    forward = traces.trace_forward(Sizes(), Clip())
    assert forward < phases(Sizes(), Clip())["denoise"]
