import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from steadydancer.models.inference.encoder_memory import encoding_bytes, encoding_flops

WEIGHTS = 126_892_531


def test_the_encoder_is_counted_whole_and_its_tensors_grow_with_the_picture_and_not_with_the_clip():
    small, large = (encoding_bytes(9, side, side) - WEIGHTS * 4 for side in (128, 256))
    assert 3.9 < large / small < 4.1
    longer = encoding_bytes(41, 128, 128) - WEIGHTS * 4
    assert longer - small < 2 * (41 - 9) * 128 * 128 * 3 * 4  # the clip itself, and its pieces


@pytest.mark.acceptance
def test_what_encoding_takes_is_what_torch_takes():
    """The count on the meta device against torch's own record of a real pass, with its kernels' work space in it."""
    clip = (5, 96, 96)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded, torch.no_grad():
        with torch.device("meta"):
            vae = AutoencoderKLWan()
        vae.to_empty(device="cpu").encode(torch.zeros(1, 3, *clip))
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    assert 0.95 * held.max() < encoding_bytes(*clip) <= held.max()


PATCHED = {"base_dim": 8, "dim_mult": [1, 1, 2], "num_res_blocks": 1, "temperal_downsample": [True, True],
           "patch_size": 2, "in_channels": 12, "out_channels": 12}  # fmt: skip


def test_an_autoencoder_with_patches_is_counted_with_its_own_sizes():
    clip = (9, 64, 96)
    vae = AutoencoderKLWan(**PATCHED)
    weights = 4 * sum(weight.numel() for weight in vae.parameters())
    # The clip, its patches, and three tensors of a block: four frames of 8 channels at half the size.
    least = weights + 4 * (2 * 3 * 9 * 64 * 96 + 3 * 4 * 8 * 32 * 48)
    assert least < encoding_bytes(*clip, PATCHED) < 2 * least
    for num_frames in (1, 5, 13):
        with FlopCounterMode(display=False) as counted, torch.no_grad():
            vae.encode(torch.zeros(1, 3, num_frames, 64, 96))
        assert encoding_flops(num_frames, 64, 96, PATCHED) == counted.get_total_flops() > 0


def test_wans_encoder_needs_the_operations_that_the_price_of_a_cache_is_computed_with():
    assert encoding_flops(81, 640, 640) / 1e12 == pytest.approx(167, rel=0.01)
