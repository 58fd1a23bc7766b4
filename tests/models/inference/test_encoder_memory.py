import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from torch.profiler import ProfilerActivity, profile

from steadydancer.models.inference.encoder_memory import encoding_bytes

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
