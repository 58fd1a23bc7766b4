"""Whole clips at once are what diffusers computes in chunks, in both directions and for gradients."""

import pytest
import torch

from steadydancer.models.toydance.autoencoder import new_autoencoder
from steadydancer.models.toydance.whole_clips import allow_whole_clips, decode, posterior_of


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_whole_clips_equal_chunks(frames: int) -> None:
    pixels = torch.rand(2, 3, frames, 32, 16, generator=torch.Generator().manual_seed(frames)) * 2 - 1
    vae = new_autoencoder(seed=1).eval()
    with torch.no_grad():
        in_chunks = vae.encode(pixels).latent_dist.parameters
        decoded_in_chunks = vae.decode(in_chunks[:, :16]).sample
        allow_whole_clips(vae)
        parameters = posterior_of(vae, pixels).parameters
        decoded = decode(vae, parameters[:, :16])
        again = vae.encode(pixels).latent_dist.parameters
    assert in_chunks.std() > 0.05 and in_chunks.shape[2] == (frames + 3) // 4
    torch.testing.assert_close(parameters, in_chunks, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoded.clamp(-1, 1), decoded_in_chunks, rtol=1e-4, atol=1e-5)
    assert torch.equal(again, in_chunks)  # chunks work as before


def test_pixels_outside_the_range_keep_their_gradient() -> None:
    vae = allow_whole_clips(new_autoencoder())
    decoded = decode(vae, 50 * torch.randn(1, 16, 2, 2, 2, generator=torch.Generator().manual_seed(0)))
    assert decoded.abs().max() > 1
    outside = decoded[decoded.abs() > 1].sum()
    outside.backward()
    assert vae.decoder.conv_out.weight.grad.abs().sum() > 0
