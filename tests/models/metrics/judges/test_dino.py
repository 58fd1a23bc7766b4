"""DINO's tokens: timm's network is the twin at 224 × 224, the formula of its position embedding elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steadydancer.models.metrics.judges import dino, vision_transformer
from steadydancer.models.metrics.judges.dino import Dino
from steadydancer.models.metrics.judges.vision_transformer import class_tokens, position_embedding, vit_base
from steadydancer.models.metrics.preprocessing import preprocess
from steadydancer.models.weights import WeightsError


@pytest.fixture(scope="module")
def shallow() -> Iterator[None]:
    """One block instead of twelve."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision_transformer, "DEPTH", 1)
        yield


@pytest.fixture(scope="module")
def weights(shallow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    torch.save(vit_base().state_dict(), folder / "dino_vitbase16_pretrain.pth")
    return folder


@pytest.fixture(scope="module")
def judge(weights: Path) -> Dino:
    return Dino(weights)


def random_frames(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)


def test_a_square_picture_gets_the_token_that_timm_computes(shallow: None) -> None:
    torch.manual_seed(0)
    network, pictures = vit_base().eval(), torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(class_tokens(network, pictures), network(pictures), rtol=1e-5, atol=1e-5)
        before_norm = class_tokens(network, pictures, final_norm=False)
        torch.testing.assert_close(network.norm(before_norm), class_tokens(network, pictures))


def cubic_matrix(count: int, side: int = 14) -> np.ndarray:
    """[count, side]: cubic convolution with a = −0.75 at (i + ½) · side / (count + 0.1) − ½, clamped to the border."""
    matrix, a = np.zeros((count, side)), -0.75
    for i in range(count):
        place = (i + 0.5) * side / (count + 0.1) - 0.5
        for tap in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            x = abs(place - tap)
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            matrix[i, min(max(tap, 0), side - 1)] += near if x <= 1 else far
    return matrix


@pytest.mark.parametrize(("height", "width"), [(224, 398), (398, 224), (224, 230), (320, 320)])
def test_positions_are_read_where_the_grid_with_a_tenth_more_has_them(height: int, width: int) -> None:
    trained = torch.randn(1, 197, 3, generator=torch.Generator().manual_seed(0))
    out = position_embedding(trained, height, width)
    grid = trained[0, 1:].reshape(14, 14, 3).double().numpy()
    expected = np.einsum("ri,cj,ijd->rcd", cubic_matrix(height // 16), cubic_matrix(width // 16), grid)
    np.testing.assert_allclose(out[0, 1:].numpy(), expected.reshape(-1, 3), atol=1e-5)
    torch.testing.assert_close(out[0, 0], trained[0, 0])
    assert position_embedding(trained, 224, 224) is trained


def test_pixels_beyond_the_last_whole_patch_are_not_seen(judge: Dino) -> None:
    # The shorter side 224 is 14 patches; of 224 × 238 the last 14 columns are no whole patch.
    frames = random_frames(3, 224, 238)
    frames[1] = frames[2] = frames[0]
    frames[1, :, 224:] = 0
    frames[2, :, 223:] = 0
    tokens = judge.frames(frames)
    np.testing.assert_array_equal(tokens[1], tokens[0])
    assert np.abs(tokens[2] - tokens[0]).max() > 1e-3


def test_frames_do_not_depend_on_their_batch(judge: Dino, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = random_frames(3, 240, 130)
    together = judge.frames(frames)
    assert together.shape == (3, 768) and together.dtype == np.float32 and np.ptp(together, axis=0).mean() > 1e-2
    monkeypatch.setattr(dino, "_BATCH", 2)
    np.testing.assert_allclose(judge.frames(frames), together, atol=1e-5)
    assert judge.frames(frames[:0]).shape == (0, 768)


def test_each_input_is_prepared_as_its_dimension_wants(judge: Dino, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(dino, "preprocess", lambda frames, name: asked.append(name) or preprocess(frames, name))
    frames = random_frames(1, 300, 200)
    seen = judge.frames(frames)[0], judge.i2v_frames(frames)[0], judge.i2v_image(frames[0])
    assert asked == ["dino_frames", "i2v_dino_frames", "i2v_dino_image"]
    assert all(token.shape == (768,) for token in seen)
    judge.i2v_frames(frames, antialias=False)
    assert asked[3:] == ["i2v_dino_frames_no_aa"]
    # Both are cropped and antialiased, but PIL rounds to 8 bits.
    assert 0 < np.abs(seen[1] - seen[2]).max() < 0.2 * np.abs(seen[1] - seen[0]).max()


def test_the_published_file_is_needed(weights: Path, judge: Dino, tmp_path: Path) -> None:
    state = torch.load(weights / "dino_vitbase16_pretrain.pth", weights_only=True)
    save_file(state, tmp_path / "dino_vitbase16_pretrain.safetensors")
    frames = random_frames(1, 100, 100)
    np.testing.assert_array_equal(Dino(tmp_path).frames(frames), judge.frames(frames))
    state["head.weight"] = state.pop("norm.weight")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(
        WeightsError, match=r"other\.pth does not contain DINO.*1 missing \(norm\.weight\); 1 unexpected"
    ):
        Dino(tmp_path / "other.pth")
    assert Dino(None).name == "dino-vitb16"
