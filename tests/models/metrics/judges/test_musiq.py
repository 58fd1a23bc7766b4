"""MUSIQ's patches and positions by hand, and what its filters and scores do not depend on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from steadydancer.models.metrics.judges import musiq
from steadydancer.models.metrics.judges.musiq import MultiScaleQuality, Musiq
from steadydancer.models.weights import WeightsError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("musiq")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(musiq, "_LAYERS", 1)
        torch.manual_seed(0)
        torch.save(MultiScaleQuality().state_dict(), folder / "musiq_spaq_ckpt-358bb6af.pth")
        yield folder


def random_frames(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)


def test_patches_are_cut_row_by_row_and_padded_on_both_sides() -> None:
    picture = torch.arange(40 * 70.0).reshape(1, 1, 40, 70).repeat(1, 3, 1, 1) + 1
    patches, positions, scales = musiq._patches(picture, 2)
    assert patches.shape == (1, 6, 3, 32, 32) and scales.tolist() == [2] * 6
    # 64 × 96 in all: 12 rows above and below, 13 columns on either side.
    assert (patches[0, 0, 0, :12] == 0).all() and (patches[0, 0, 0, :, :13] == 0).all()
    assert patches[0, 0, 0, 12, 13] == 1 and patches[0, 1, 0, 12, 0] == 1 + 19
    assert patches[0, 5, 0, 32 - 13, 32 - 14] == 40 * 70 and patches[0, 5, 0, 32 - 12 :].sum() == 0
    # Two rows and three columns share a grid of 10 × 10.
    assert positions.tolist() == [10 * row + column for row in (0, 5) for column in (0, 3, 6)]


def test_an_odd_padding_goes_right_and_below() -> None:
    padded = musiq._pad_same(torch.ones(1, 1, 32, 31), 7, 2)
    assert padded.shape[2:] == (37, 37)  # (16 − 1) · 2 + 7
    assert padded[0, 0, 2:34, 3:34].all() and padded.sum() == 32 * 31


def test_a_filter_is_known_by_its_shape_alone() -> None:
    torch.manual_seed(0)
    layer, values = musiq._StandardisedConv(3, 4, 3), torch.randn(1, 3, 6, 6)
    with torch.inference_mode():
        before = layer(values)
        layer.weight.mul_(5).add_(0.7)
        torch.testing.assert_close(layer(values), before, rtol=1e-3, atol=1e-3)
        assert before.std() > 0.5


def test_scores_do_not_depend_on_the_batch_and_large_frames_are_scaled_down(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, frames = Musiq(weights), random_frames(3, 70, 41)
    scores = judge.scores(frames)
    assert scores.shape == (3,) and scores.dtype == np.float32 and np.ptp(scores) > 1e-4
    monkeypatch.setattr(musiq, "_BATCH", 2)
    np.testing.assert_allclose(judge.scores(frames), scores, atol=1e-5)
    assert judge.scores(frames[:0]).shape == (0,)
    tokens = []
    judge._network.embedding.register_forward_hook(lambda _, __, out: tokens.append(len(out)))
    judge.scores(random_frames(1, 90, 1024))  # 20 × 224, 34 × 384 and 45 × 512
    assert tokens == [1 * 7 + 2 * 12 + 2 * 16]


def test_a_file_of_another_training_is_refused(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights / "musiq_spaq_ckpt-358bb6af.pth", weights_only=True)
    state["head.0.weight"], state["head.0.bias"] = torch.zeros(10, 384), torch.zeros(10)
    del state["head.weight"], state["head.bias"]
    torch.save(state, tmp_path / "musiq_ava_ckpt-e8d3f067.pth")
    with pytest.raises(
        WeightsError, match=r"musiq_ava.* does not contain MUSIQ-SPAQ's parameters: 2 missing \(head\.bias"
    ):
        Musiq(tmp_path / "musiq_ava_ckpt-e8d3f067.pth")
