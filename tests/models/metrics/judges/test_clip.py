"""CLIP's embeddings: open_clip's whole model with QuickGELU is the twin, in both published forms."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from steadydancer.models.metrics import aesthetic_quality, preprocess
from steadydancer.models.metrics.judges import clip
from steadydancer.models.metrics.judges.clip import ClipImage, aesthetic_head
from steadydancer.models.weights import WeightsError

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 224, "layers": 2, "width": 64, "head_width": 32, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


class ImageOnly(nn.Module):
    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.visual(pictures)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """open_clip's model, and its parameters in float16 in both published forms."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-judge.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-judge", force_quick_gelu=True).eval()
    for value in model.parameters():
        value.data = value.data.half().float()
    save_file(
        {name: value.half() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    traced = torch.jit.trace(ImageOnly(model.visual), torch.zeros(1, 3, 224, 224), check_trace=False)
    traced.half().save(folder / "tiny-judge.pt")
    model.float()
    return model, folder


def random_frames(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)


def test_embeddings_are_those_of_the_whole_model(
    published: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = published
    frames = random_frames(3, 120, 90)
    with torch.inference_mode():
        expected = model.encode_image(torch.from_numpy(preprocess(frames, "clip_frames"))).numpy()
    for file in (folder / "open_clip_model.safetensors", folder / "tiny-judge.pt", folder):
        judge = ClipImage(file, "tiny-judge")
        np.testing.assert_allclose(judge.embed(frames), expected, atol=1e-5)
    assert judge.name == "clip-tiny-judge" and np.ptp(expected, axis=0).mean() > 1e-2
    monkeypatch.setattr(clip, "_BATCH", 2)
    np.testing.assert_allclose(judge.embed(frames), expected, atol=1e-5)
    assert judge.embed(frames[:0]).shape == (0, 24)


def test_another_model_is_refused(published: tuple[nn.Module, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"open_clip_model\.safetensors does not contain CLIP ViT-B-32's parameters"):
        ClipImage(published[1] / "open_clip_model.safetensors", "ViT-B-32")
    with pytest.raises(ValueError, match="no model 'ViT-B-33'"):
        ClipImage(None, "ViT-B-33")


def test_the_two_networks_of_vbench_have_the_published_sizes() -> None:
    with torch.device("meta"):
        for model, width, num_parameters in (("ViT-B-32", 512, 87_849_216), ("ViT-L-14", 768, 303_966_208)):
            network, out = clip._image_encoder(model)
            assert out == width and sum(value.numel() for value in network.parameters()) == num_parameters


def test_the_head_scores_a_direction(tmp_path: Path) -> None:
    weight, bias = torch.zeros(1, 768), torch.tensor([5.0])
    weight[0, 3] = 2
    torch.save({"weight": weight, "bias": bias}, tmp_path / "sa_0_4_vit_l_14_linear.pth")
    embeddings = np.zeros((2, 768), np.float32)
    embeddings[0, 3], embeddings[1, 4] = 7, 9
    assert aesthetic_quality(embeddings, *aesthetic_head(tmp_path)) == pytest.approx((7 + 5) / 2 / 10)
    torch.save({"layers.0.weight": weight, "bias": bias}, tmp_path / "improved.pth")
    with pytest.raises(WeightsError, match=r"improved\.pth does not contain VBench's aesthetic head"):
        aesthetic_head(tmp_path / "improved.pth")
