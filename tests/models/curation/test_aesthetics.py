"""The head is LAION's, and the score is a function of the embedding's direction alone."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from steadydancer.models.curation.aesthetics import ACTIONS, Aesthetics, aesthetic_head

TINY = {
    "embed_dim": 768,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-aesthetic.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    # As the official file names them.
    head = {f"layers.{name}": value for name, value in aesthetic_head().state_dict().items()}
    save_file(head, folder / "head.safetensors")
    torch.save(head, folder / "head.pth")
    return folder


def test_the_head_has_the_official_layers_and_nothing_between_them() -> None:
    head = aesthetic_head().eval()
    shapes = {name: tuple(value.shape) for name, value in head.state_dict().items() if name.endswith("weight")}
    assert shapes == {
        "0.weight": (1024, 768),
        "2.weight": (128, 1024),
        "4.weight": (64, 128),
        "6.weight": (16, 64),
        "7.weight": (1, 16),
    }
    one, other = torch.randn(2, 1, 768)
    with torch.inference_mode():  # affine: the middle's score is the middle of the scores
        assert torch.allclose(head((one + other) / 2), (head(one) + head(other)) / 2, atol=1e-6)


def test_pictures_get_scores_and_actions_whatever_the_heads_file(tiny: Path) -> None:
    torch.manual_seed(1)
    by_pickle = Aesthetics(None, tiny / "head.pth", "tiny-aesthetic")
    torch.manual_seed(1)
    by_safetensors = Aesthetics(None, tiny / "head.safetensors", "tiny-aesthetic")
    frames = np.random.default_rng(0).integers(0, 255, (3, 40, 30, 3), dtype=np.uint8)
    scores, probabilities = by_pickle(frames)
    np.testing.assert_array_equal(scores, by_safetensors(frames)[0])
    assert scores.shape == (3,) and len(set(scores.tolist())) == 3
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    summary = by_pickle.summary(frames)
    assert summary["aesthetic_score"] == pytest.approx(scores.mean()) and summary["action_type"] in ACTIONS
    assert summary["extreme_action"] == pytest.approx(probabilities[:, -1].mean())
    # Twice the picture is the same picture.
    np.testing.assert_allclose(by_pickle(frames[[0, 0]])[0], scores[[0, 0]], rtol=1e-5)
