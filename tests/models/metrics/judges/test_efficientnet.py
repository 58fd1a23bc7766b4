"""EfficientNet-Lite0: parameters by name, batches, and parity with the package that the weights were published for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from steadydancer.models.metrics import preprocess
from steadydancer.models.metrics.judges.efficientnet import WEIGHTS_FILE, EfficientNetLite0, timm_names
from steadydancer.models.weights import lookup


def pictures(count: int, height: int = 90, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def published_names() -> list[str]:
    """The parameters of the published file, in its order, which is that of the computation."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", *(f"_bn0.{part}" for part in norm)]
    for block in range(16):
        layers = [("_expand_conv", "_bn0")] if block else []
        for convolution, normalisation in [*layers, ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]:
            names += [f"_blocks.{block}.{convolution}.weight"]
            names += [f"_blocks.{block}.{normalisation}.{part}" for part in norm]
    return [*names, "_conv_head.weight", *(f"_bn1.{part}" for part in norm)]


def test_each_published_parameter_goes_to_the_place_of_its_turn() -> None:
    """Both sides list them in the order of the computation; only the names differ."""
    judge = EfficientNetLite0(None)
    ours = judge._network.state_dict()
    classifier = {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    published = {name: torch.tensor(turn) for turn, name in enumerate(published_names())} | classifier
    renamed = timm_names(published)
    assert len(renamed) == len(published) - 2
    assert {name: int(turn) for name, turn in renamed.items()} == {name: turn for turn, name in enumerate(ours)}


def test_features_do_not_depend_on_the_batch_and_change_with_the_picture() -> None:
    torch.manual_seed(0)
    judge = EfficientNetLite0(None)
    frames = pictures(18)
    found = judge.features(frames)
    assert found.shape == (18, 1280) and found.dtype == np.float32
    np.testing.assert_allclose(judge.features(frames[17:]), found[17:], atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-4
    assert judge.features(frames[:0]).shape == (0, 1280)
    assert np.abs(judge.features(frames[:1], "i2v_efficientnet_224") - found[:1]).max() > 1e-4


def test_the_input_is_the_whole_picture_or_its_middle_around_127() -> None:
    even = np.full((1, 40, 80, 3), 191, np.uint8)
    for name in ("efficientnet_224", "i2v_efficientnet_224"):
        given = preprocess(even, name)
        assert given.shape == (1, 3, 224, 224)
        np.testing.assert_allclose(given, 0.5, atol=1e-6)
    halves = np.zeros((1, 64, 128, 3), np.uint8)
    halves[:, :, 96:] = 255  # the right quarter: seen whole, and outside of the middle
    assert (preprocess(halves, "efficientnet_224") > 0.9).mean() == pytest.approx(0.25, abs=0.01)
    assert (preprocess(halves, "i2v_efficientnet_224") > 0.9).mean() < 0.01
    # With antialiasing, fine stripes are grey.
    stripes = np.zeros((1, 672, 672, 3), np.uint8)
    stripes[:, :, ::2] = 254
    assert np.abs(preprocess(stripes, "efficientnet_224")).max() < 0.35


def test_the_published_weights_give_these_numbers() -> None:
    """Numbers of the package that the weights were published for, on the same input."""
    folder = lookup.find(lookup.weight("efficientnet-lite0"))
    if folder is None:
        pytest.skip("the weights are not on this machine: `steadydancer weights fetch efficientnet-lite0`")
    y, x = np.mgrid[:224, :224]
    picture = np.stack([x, y, (x * y) % 256], axis=-1).astype(np.uint8)[None]
    (found,) = EfficientNetLite0(folder).features(picture)
    (same,) = EfficientNetLite0(folder / WEIGHTS_FILE).features(picture)
    np.testing.assert_array_equal(found, same)
    np.testing.assert_allclose(found[[0, 1, 2, 7]], [0.0911149, 0, 1.0861552, 0.3372697], atol=1e-4)
    np.testing.assert_allclose([found.mean(), found.std(), found.argmax()], [0.1719342, 0.4934, 1062], atol=1e-4)


@pytest.mark.acceptance
@pytest.mark.parametrize("weights", ["random", "published"])
def test_parity_with_the_published_package(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = "efficientnet-lite-pytorch==0.1.0"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), original]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"pip cannot install {original} here")
    monkeypatch.syspath_prepend(str(tmp_path))
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    if weights == "published":
        folder = lookup.find(lookup.weight("efficientnet-lite0"))
        if folder is None:
            pytest.skip("the weights are not on this machine: `steadydancer weights fetch efficientnet-lite0`")
        theirs.load_state_dict(torch.load(folder / WEIGHTS_FILE, weights_only=True))
    else:
        for name, value in theirs.state_dict().items():
            if "running" in name:
                value.uniform_(0.5, 2)
    ours = EfficientNetLite0(None)
    ours._network.load_state_dict(timm_names(theirs.state_dict()))
    frames = pictures(3, 200, 300)
    given = torch.from_numpy(preprocess(frames, "efficientnet_224"))
    with torch.inference_mode():
        expected = theirs.extract_features(given).mean(dim=(2, 3)).numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours.features(frames), expected, atol=1e-4)
