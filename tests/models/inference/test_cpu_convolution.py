"""oneDNN's convolutions of one clip are PyTorch's."""

import copy

import pytest
import torch
from torch import nn

from steadydancer.models.components import load_components, save_components, tiny_components
from steadydancer.models.encoders import decode_pixels, encode_video
from steadydancer.models.inference.cpu_convolution import use_onednn


@pytest.mark.parametrize("options", [{}, {"stride": (2, 1, 1)}, {"padding": 1}, {"bias": False}, {"dilation": 2}])
def test_a_layer_gives_the_same_numbers(options):
    torch.manual_seed(0)
    layer = nn.Conv3d(3, 5, 3, **options)
    x = torch.randn(1, 3, 9, 8, 7)
    expected = layer(x).detach()
    use_onednn(layer)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer(x.double().float()), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    layer(x).sum().backward()  # with gradients: PyTorch's
    assert layer.weight.grad is not None


def test_the_backend_is_onednn(monkeypatch):
    called = []
    monkeypatch.setattr(torch, "mkldnn_convolution", lambda x, *rest: called.append(x.shape) or x)
    layer = use_onednn(nn.Conv3d(2, 2, 1))
    with torch.no_grad():
        layer(torch.zeros(1, 2, 3, 4, 5))
        layer.double()(torch.zeros(1, 2, 3, 4, 5, dtype=torch.float64))
    assert called == [(1, 2, 3, 4, 5)]


def test_a_loaded_autoencoder_uses_it(tmp_path):
    vae = tiny_components()["vae"]
    save_components({"vae": vae}, tmp_path)
    loaded = load_components(str(tmp_path), ["vae"])["vae"]
    assert all("_conv_forward" in vars(layer) for layer in loaded.modules() if isinstance(layer, nn.Conv3d))
    clip = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    latents = encode_video(vae, clip)
    torch.testing.assert_close(encode_video(loaded, clip), latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decode_pixels(loaded, latents), decode_pixels(vae, latents), rtol=1e-4, atol=1e-5)
