import pytest
import torch
from torch import nn

from steadydancer.models.preflight.fake_backward import backward
from steadydancer.models.preflight.fake_gpu import CUDA, fake_gpu


def test_live_bytes_and_their_peak_are_those_of_the_tensors():
    with fake_gpu() as gpu:
        first = gpu.normal(1024, 1024)
        second = first + 1
        assert gpu.bytes == 2 * 4 * 1024**2
        del second
        third = first.to(torch.bfloat16)
        assert third.device == CUDA
        assert (gpu.bytes, gpu.peak_bytes) == (6 * 1024**2, 8 * 1024**2)


def test_a_tensor_on_the_wrong_device_or_of_the_wrong_dtype_raises_as_on_a_gpu():
    with fake_gpu() as gpu:
        layer = gpu.network(lambda: nn.Linear(8, 8), torch.bfloat16)
        assert layer(gpu.normal(2, 8, dtype=torch.bfloat16)).dtype is torch.bfloat16
        with pytest.raises(RuntimeError, match="dtype"):
            layer(gpu.normal(2, 8))
        with pytest.raises(RuntimeError, match="dtype"):
            layer.weight @ gpu.normal(8, 2)
        with pytest.raises(RuntimeError, match="device"):
            layer(torch.zeros(2, 8, dtype=torch.bfloat16))


def test_a_gradient_reaches_the_weights_on_the_fake_gpu():
    with fake_gpu() as gpu:
        layer = gpu.network(lambda: nn.Linear(8, 8), torch.float32)
        backward(layer(gpu.normal(2, 8)).square().mean())
        assert (layer.weight.grad.device, layer.weight.grad.shape) == (CUDA, (8, 8))


def test_what_only_the_host_sees_is_computed():
    with fake_gpu() as gpu:
        grid = torch.tensor([3.0, 1.0, 2.0])
        assert (grid == 2).nonzero().item() == 2
        assert gpu.bytes == 0
        assert grid.to(CUDA).device == CUDA and gpu.bytes > 0
        assert gpu.normal(4).isfinite().all()  # the only question that is asked of fake tensors


def test_attention_takes_no_table_of_all_pairs():
    with fake_gpu() as gpu, torch.no_grad():
        tokens = 10_000
        query = gpu.normal(1, 2, tokens, 64, dtype=torch.bfloat16)
        out = nn.functional.scaled_dot_product_attention(query, query, query)
        assert out.shape == query.shape
        assert gpu.peak_bytes < 3 * query.nbytes
        # Float32, and heads too wide for flash attention, as in the autoencoder.
        wide = gpu.normal(1, 1, tokens, 384)
        before = gpu.bytes
        assert nn.functional.scaled_dot_product_attention(wide, wide, wide).shape == wide.shape
        assert gpu.peak_bytes < before + 2 * wide.nbytes


def test_tied_weights_stay_tied_and_moved_ones_leave_the_gpu():
    def tied():
        layers = nn.Sequential(nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False))
        layers[1].weight = layers[0].weight
        return layers

    with fake_gpu() as gpu:
        layers = gpu.network(tied, torch.bfloat16)
        assert layers[0].weight is layers[1].weight
        assert gpu.bytes == 2 * 256 * 256
        layer = gpu.network(lambda: nn.Linear(256, 256, bias=False), torch.bfloat16)
        assert gpu.bytes == 2 * 2 * 256 * 256
        layer.to("cpu")
        assert layer.weight.device.type == "cpu" and gpu.bytes == 2 * 256 * 256
