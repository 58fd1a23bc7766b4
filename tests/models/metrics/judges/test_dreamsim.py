"""DreamSim's ensemble: PEFT's own LoRA layers, in files that PEFT writes, are the twin."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from steadydancer.models.metrics import preprocess
from steadydancer.models.metrics.judges import vision_transformer
from steadydancer.models.metrics.judges.dreamsim import DreamSim
from steadydancer.models.metrics.judges.vision_transformer import class_tokens, vit_base
from steadydancer.models.weights import WeightsError

IMAGENET = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
CLIP = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])


class Extractor(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Holder(nn.Module):
    """The modules of DreamSim's package by their names, from which PEFT makes the names of the adapters."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.extractor_list = nn.ModuleList([Extractor(network) for network in networks])

    def forward(self, pictures: torch.Tensor, projections: list[torch.Tensor]) -> torch.Tensor:
        first, *rest = (extractor.model for extractor in self.extractor_list)
        mean, std = (value[:, None, None] for value in IMAGENET)
        out = [class_tokens(first, (pictures - mean) / std, final_norm=False)]
        mean, std = (value[:, None, None] for value in CLIP)
        for network, projection in zip(rest, projections, strict=True):
            out.append(class_tokens(network, (pictures - mean) / std) @ projection)
        return torch.cat(out, 1)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[nn.Module, list[torch.Tensor], Path]]:
    """The adapted ensemble with one block a network, its projections, and the folder of its published files."""
    folder = tmp_path_factory.mktemp("dreamsim")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision_transformer, "DEPTH", 1)
        networks = [vit_base(), vit_base(clip=True, quick_gelu=True), vit_base(clip=True)]
        (folder / "checkpoints").mkdir()
        torch.save(networks[0].state_dict(), folder / "checkpoints/dino_vitbase16_pretrain.pth")
        projections = [torch.randn(768, 512) / 768**0.5 for _ in "ab"]
        for name, network, projection in zip(("clip", "open_clip"), networks[1:], projections, strict=True):
            state = {**network.state_dict(), "proj": nn.Parameter(projection)}
            torch.save({"state_dict": state}, folder / f"{name}_vitb16_pretrain.pth.tar")
        config = LoraConfig(r=4, lora_alpha=0.5, lora_dropout=0.3, bias="none", target_modules=["qkv"])
        adapted = get_peft_model(Holder(networks), config).eval()
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                nn.init.normal_(value, std=1.0)
        adapted.save_pretrained(folder / "ensemble_lora")
        yield adapted, projections, folder


def random_frames(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)


def test_features_are_those_of_the_adapted_ensemble(published: tuple[nn.Module, list[torch.Tensor], Path]) -> None:
    adapted, projections, folder = published
    frames = random_frames(2, 90, 60)
    judge = DreamSim(folder)
    with torch.inference_mode():
        expected = adapted(torch.from_numpy(preprocess(frames, "i2v_dreamsim_frames")), projections).numpy()
        image = adapted(torch.from_numpy(preprocess(frames[:1], "i2v_dreamsim_image")), projections).numpy()[0]
        with adapted.disable_adapter():
            bare = adapted(torch.from_numpy(preprocess(frames, "i2v_dreamsim_frames")), projections).numpy()
    features = judge.frames(frames)
    assert features.shape == (2, 1792) and features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-4)
    np.testing.assert_allclose(judge.image(frames[0]), image, atol=1e-4)
    with torch.inference_mode():
        older = adapted(torch.from_numpy(preprocess(frames[:1], "i2v_dreamsim_frames_no_aa")), projections).numpy()
    np.testing.assert_allclose(judge.frames(frames[:1], antialias=False), older, atol=1e-4)
    np.testing.assert_allclose(judge.frames(frames[1:]), features[1:], atol=1e-4)
    for part in (slice(768), slice(768, 1280), slice(1280, None)):  # every network is adapted, and sees the picture
        assert np.abs(expected - bare)[:, part].max() > 0.02 and np.ptp(expected[:, part], axis=0).max() > 0.02


def test_incomplete_or_other_files_are_refused(
    published: tuple[nn.Module, list[torch.Tensor], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path / "weights"))
    folder = tmp_path / "dreamsim"
    shutil.copytree(published[2], folder)
    dino_file = folder / "checkpoints/dino_vitbase16_pretrain.pth"
    dino_file.rename(tmp_path / dino_file.name)
    with pytest.raises(WeightsError, match=r"DreamSim needs DINO's parameters too.*weights fetch dino"):
        DreamSim(folder)
    (tmp_path / "weights/dino").mkdir(parents=True)
    shutil.copy(tmp_path / dino_file.name, tmp_path / "weights/dino" / dino_file.name)
    frames = random_frames(1, 40, 40)
    np.testing.assert_array_equal(DreamSim(folder).frames(frames), DreamSim(folder, "cpu", tmp_path).frames(frames))

    adapter, config = (folder / "ensemble_lora" / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    state, settings = load_file(adapter), json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "use_dora": True}))
    with pytest.raises(WeightsError, match="is not plain LoRA \\(use_dora\\)"):
        DreamSim(folder)
    config.write_text(json.dumps({**settings, "r": 8}))
    with pytest.raises(WeightsError, match="is not of rank 8"):
        DreamSim(folder)
    config.write_text(json.dumps(settings))
    save_file({name: value for name, value in state.items() if "extractor_list.1" not in name}, adapter)
    with pytest.raises(WeightsError, match=r"does not adapt exactly .* \(at .*extractor_list\.1.* and 1 more\)"):
        DreamSim(folder)
    adapter.unlink()
    with pytest.raises(WeightsError, match=r"ensemble_lora has none of adapter_model\.safetensors, adapter_model\.bin"):
        DreamSim(folder)
    file = folder / "clip_vitb16_pretrain.pth.tar"
    parameters = torch.load(file, weights_only=True)["state_dict"]
    del parameters["proj"]
    torch.save({"state_dict": parameters}, file)
    with pytest.raises(WeightsError, match="has no projection `proj`"):
        DreamSim(folder)


def test_older_adapters_are_pickles(published: tuple[nn.Module, list[torch.Tensor], Path], tmp_path: Path) -> None:
    folder = tmp_path / "dreamsim"
    shutil.copytree(published[2], folder)
    adapter = folder / "ensemble_lora/adapter_model.safetensors"
    torch.save(load_file(adapter), adapter.with_name("adapter_model.bin"))
    adapter.unlink()
    frames = random_frames(1, 40, 40)
    np.testing.assert_array_equal(DreamSim(folder).frames(frames), DreamSim(published[2]).frames(frames))
