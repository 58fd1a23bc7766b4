"""LPIPS: 0 for equal frames, the formula of `lpips_distance`, and files that are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import alexnet

from steadydancer.models import metrics
from steadydancer.models.metrics.judges.lpips import Lpips
from steadydancer.models.weights import WeightsError

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (6, 71, 64, 3), np.uint8)
TRUTH = np.clip(FRAMES.astype(int) + RNG.integers(-20, 21, FRAMES.shape) * np.arange(6)[:, None, None, None], 0, 255)
TRUTH = TRUTH.astype(np.uint8)


@pytest.mark.parametrize("network", ["vgg", "alex"])
def test_the_distance_is_that_of_the_formula(network: Any) -> None:
    torch.manual_seed(0)
    judge = Lpips(None, network)
    values = judge.distances(FRAMES, TRUTH)
    assert values.shape == (6,) and values.dtype == np.float32 and values[0] == 0 and (np.diff(values) > 0).all()
    heads = [head.weight.detach().numpy().ravel() for head in judge._heads]
    with torch.inference_mode():
        one, other = (judge._activations(clip[3:4], False) for clip in (FRAMES, TRUTH))
    formula = metrics.lpips_distance([a[0].numpy() for a in one], [a[0].numpy() for a in other], heads)
    assert values[3] == pytest.approx(formula, rel=1e-5)
    single = [judge.distances(FRAMES[t : t + 1], TRUTH[t : t + 1])[0] for t in range(6)]
    np.testing.assert_allclose(single, values, rtol=1e-4, atol=1e-7)
    assert np.abs(judge.distances(FRAMES, TRUTH, zero_to_one=True)[1:] / values[1:] - 1).min() > 1e-3


def test_the_range_is_what_the_scaling_layer_is_given() -> None:
    judge = Lpips(None, "alex")
    grey = np.full((1, 64, 64, 3), 255, np.uint8)
    judge._layers = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())
    for zero_to_one, value in ((False, 1.0), (True, 1.0)):
        (given,) = judge._activations(grey, zero_to_one)
        np.testing.assert_allclose(given[0, :, 0, 0], [(value + 0.03) / 0.458, 1.088 / 0.448, 1.188 / 0.45], rtol=1e-6)
    (given,) = judge._activations(np.zeros_like(grey), False)
    np.testing.assert_allclose(given[0, 0, 0, 0], (-1 + 0.03) / 0.458, rtol=1e-6)
    (given,) = judge._activations(np.zeros_like(grey), True)
    np.testing.assert_allclose(given[0, 0, 0, 0], 0.03 / 0.458, rtol=1e-6)


def test_other_files_are_refused(tmp_path: Path) -> None:
    backbone, heads = tmp_path / "alexnet-owt-7be5be79.pth", tmp_path / "alex.pth"
    features = {f"features.{name}": value for name, value in alexnet().features.state_dict().items()}
    torch.save(features, backbone)
    with pytest.raises(WeightsError, match=r"none of alex\.pth"):
        Lpips(tmp_path, "alex")
    linear = {f"lin{k}.model.1.weight": torch.rand(1, n, 1, 1) for k, n in enumerate((64, 192, 384, 256, 256))}
    torch.save(linear, heads)
    judge = Lpips(tmp_path, "alex")
    torch.testing.assert_close(judge._heads[2].weight.data, linear["lin2.model.1.weight"])
    torch.testing.assert_close(judge._layers[10].weight.data, features["features.10.weight"])
    torch.save({name: value for name, value in features.items() if name != "features.3.bias"}, backbone)
    with pytest.raises(WeightsError, match=r"lpips-alex's backbone's parameters: 1 missing \(3\.bias\)"):
        Lpips(tmp_path, "alex")
    with pytest.raises(WeightsError, match=r"vgg16-397923af\.pth"):
        Lpips(tmp_path, "vgg")
    squeeze: Any = "squeeze"
    with pytest.raises(ValueError, match="vgg, alex"):
        Lpips(None, squeeze)
    with pytest.raises(ValueError, match="resize or trim"):
        judge.distances(FRAMES, TRUTH[:2])
