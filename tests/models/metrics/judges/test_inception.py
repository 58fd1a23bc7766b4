"""FID's Inception: pooling that does not count the padding, batches, and files that are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import inception_v3

from steadydancer.models.metrics.judges import inception
from steadydancer.models.metrics.judges.inception import Inception, fid_inception
from steadydancer.models.weights import WeightsError

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 40, 31, 3), np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(fid_inception().state_dict(), file)
    return file


def test_a_frame_has_the_same_features_in_any_batch(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Inception(file.parent)
    together = judge.features(FRAMES)
    monkeypatch.setattr(inception, "_BATCH", 2)
    np.testing.assert_allclose(judge.features(FRAMES), together, atol=1e-5)
    assert together.shape == (3, 2048) and together.dtype == np.float32
    assert np.abs(together - judge.features(FRAMES, "torchfidelity_299")).max() > 1e-4
    assert judge.features(FRAMES[:0]).shape == (0, 2048)
    with pytest.raises(ValueError, match="pytorchfid_299"):
        judge.features(FRAMES, "pil_299")


def test_pictures_of_0_to_255_are_scaled_by_the_network(file: Path) -> None:
    """A grey picture has the same features however it is resized: 191.5 is (191.5 − 128) / 128, about 2 · 0.75 − 1."""
    grey = np.full((1, 299, 299, 3), 192, np.uint8)
    judge = Inception(file)
    one, other = judge.features(grey, "cleanfid_299"), judge.features(grey, "torchfidelity_299")
    np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(one, judge.features(grey, "pytorchfid_299"), rtol=0.05, atol=0.02)


@pytest.mark.parametrize(("name", "channels", "pooled"), [("Mixed_5b", 192, 32), ("Mixed_6b", 768, 192)])
def test_averages_do_not_count_the_padding(name: str, channels: int, pooled: int) -> None:
    block = getattr(fid_inception().eval(), name)
    with torch.inference_mode():
        out = block(torch.ones(1, channels, 9, 9))[0, -pooled:]
    torch.testing.assert_close(out, out[:, 4:5, 4:5].expand_as(out))
    theirs = getattr(inception_v3(aux_logits=False, init_weights=False).eval(), name)
    theirs.load_state_dict(block.state_dict())
    with torch.inference_mode():
        assert (theirs(torch.ones(1, channels, 9, 9))[0, -pooled:, 0, 0] - out[:, 0, 0]).abs().max() > 1e-4


@pytest.mark.parametrize(("name", "width", "share"), [("Mixed_7b", 1280, 1 / 9), ("Mixed_7c", 2048, 1.0)])
def test_the_last_block_takes_maxima(name: str, width: int, share: float) -> None:
    """A single one in nine places counts as a whole one, and as a ninth in the block before."""
    block = getattr(fid_inception().eval(), name)
    peak = torch.zeros(1, width, 5, 5)
    peak[..., 2, 2] = 1
    with torch.inference_mode():
        ones, out = (block(x)[0, -192:, 1:4, 1:4] for x in (torch.ones_like(peak), peak))
    torch.testing.assert_close(out, share * ones)
    assert ones.max() > 0.1


def test_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "inception_v3_google-0cc3c7bd.pth"
    torch.save(inception_v3(init_weights=False).state_dict(), other)
    with pytest.raises(WeightsError, match=r"FID's Inception's parameters: .*AuxLogits.*fc\.weight \(1000, 2048\)"):
        Inception(other)
    with pytest.raises(WeightsError, match=r"none of pt_inception-2015-12-05-6726825d\.pth"):
        Inception(tmp_path)
    old = {name: value for name, value in torch.load(file, weights_only=True).items() if "num_batches" not in name}
    torch.save(old, tmp_path / file.name)
    np.testing.assert_array_equal(Inception(tmp_path).features(FRAMES[:1]), Inception(file).features(FRAMES[:1]))
    (tmp_path / file.name).write_bytes(file.read_bytes()[:10_000])
    with pytest.raises(WeightsError, match="cannot be read"):
        Inception(tmp_path)
