import fnmatch
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

from steadydancer.models.checkpoints.folders import missing_parts, part_digest, resolve_folder
from steadydancer.models.checkpoints.key_maps import to_official
from steadydancer.models.components import (
    NAMES,
    ComponentsError,
    byte_tokenizer,
    load_components,
    save_components,
    tiny_components,
)
from steadydancer.models.encoders import encode_image, encode_prompt, encode_video
from steadydancer.models.image_encoder import OpenCLIPImageEncoder


@pytest.fixture(scope="module")
def components() -> dict[str, Any]:
    return tiny_components(seed=1)


def test_same_seed_same_weights_and_the_global_random_state_is_left_alone(components: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    again, other = tiny_components(seed=1), tiny_components(seed=2)
    assert torch.equal(before, torch.get_rng_state())
    for name in ("transformer", "vae", "text_encoder", "image_encoder"):
        states = [parts[name].state_dict() for parts in (components, again, other)]
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items()), name
        assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items()), name
    assert again["vae"].config.latents_std == components["vae"].config.latents_std


def test_parts_fit_together(components: dict[str, Any]) -> None:
    transformer, frames = components["transformer"], np.zeros((5, 32, 32, 3), np.uint8)
    latents = encode_video(components["vae"], frames)
    assert latents.shape == (16, 2, 4, 4)
    image = encode_image(components["image_encoder"], frames[0])
    assert image.shape == (257, transformer.config.image_dim)
    (text,) = encode_prompt(components["text_encoder"], components["tokenizer"], ["she dances"])
    with torch.no_grad():
        velocity = transformer(
            hidden_states=torch.cat([latents, latents[:4], latents])[None],
            timestep=torch.tensor([500]),
            encoder_hidden_states=torch.nn.functional.pad(text, (0, 0, 0, 512 - len(text)))[None],
            encoder_hidden_states_image=image[None],
        ).sample
    assert velocity.shape == (1, 16, 2, 4, 4)
    assert velocity.std() > 0.05


def test_latents_have_unit_scale_on_other_pictures_than_those_measured(components: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    frames = coarse.repeat(8, axis=1).repeat(8, axis=2)
    for clip in (frames, np.full_like(frames, 127), np.zeros_like(frames)):
        latents = encode_video(components["vae"], clip)
        assert latents.abs().max() < 30
    assert 0.2 < encode_video(components["vae"], frames).std() < 3


def test_sizes_can_be_replaced() -> None:
    parts = tiny_components(image_encoder={"width": 16}, transformer={"num_layers": 1, "num_attention_heads": 2})
    config = parts["transformer"].config
    assert (config.num_layers, config.image_dim, config.added_kv_proj_dim) == (1, 16, 64)


def test_what_is_saved_is_loaded(components: dict[str, Any], tmp_path: Path) -> None:
    save_components(components, tmp_path)
    loaded = load_components(tmp_path)
    for name in ("transformer", "vae", "text_encoder", "image_encoder"):
        assert type(loaded[name]) is type(components[name])
        saved, state = components[name].state_dict(), loaded[name].state_dict()
        assert saved.keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in saved.items())
        assert not loaded[name].training
    assert loaded["vae"].config.latents_mean == components["vae"].config.latents_mean
    assert loaded["tokenizer"]("a é").input_ids == components["tokenizer"]("a é").input_ids
    assert loaded["scheduler"].config.flow_shift == 5.0
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert {"_class_name", "_diffusers_version", *NAMES} == set(index)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_only_the_autoencoder_stays_float32(components: dict[str, Any], tmp_path: Path) -> None:
    names = ("vae", "text_encoder", "image_encoder")
    save_components({name: components[name] for name in names}, tmp_path)
    loaded = load_components(tmp_path, names, dtype=torch.bfloat16)
    assert [loaded[name].dtype for name in names] == [torch.float32, torch.bfloat16, torch.bfloat16]


def test_transformers_clip_becomes_the_same_tower(components: dict[str, Any], tmp_path: Path) -> None:
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=2,
        patch_size=14,
        hidden_act="gelu",
    )
    theirs = CLIPVisionModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    theirs.save_pretrained(tmp_path / "image_encoder")
    ours = load_components(tmp_path, ["image_encoder"])["image_encoder"]
    assert isinstance(ours, OpenCLIPImageEncoder)
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(ours(pixels), expected, atol=1e-5, rtol=1e-5)


def test_quick_gelu_towers_are_refused() -> None:
    config = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    with pytest.raises(ValueError, match="quick_gelu"):
        OpenCLIPImageEncoder.from_clip_vision_model(CLIPVisionModel(config))


def test_tokenizer_spells_any_text_in_bytes() -> None:
    tokenizer = byte_tokenizer()
    text = "tanzt é 舞"
    ids = tokenizer(text).input_ids
    assert ids == [byte + 3 for byte in text.encode()] + [1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("").input_ids == [1]
    assert tokenizer(["a", "abc"], padding=True).attention_mask == [[1, 1, 0, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", "The folder .*does not exist.*weights check"),
        ("a/b/c", "The folder .*does not exist.*weights check"),
    ],
)
def test_a_missing_folder_is_one_sentence(source: str, message: str) -> None:
    with pytest.raises(ComponentsError, match=message):
        load_components(source)


def test_an_unreachable_repository_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path))

    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ComponentsError, match=r"be downloaded from the model hub \(ConnectionError\).*weights check"):
        load_components("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers")


def test_a_missing_or_damaged_part_is_named(components: dict[str, Any], tmp_path: Path) -> None:
    save_components({"vae": components["vae"]}, tmp_path)
    with pytest.raises(ComponentsError, match=r"no text_encoder/"):
        load_components(tmp_path, ["vae", "text_encoder"])
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ComponentsError, match="vae cannot be loaded"):
        load_components(tmp_path, ["vae"])


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, components: dict[str, Any]) -> Path:
    """A folder as Wan and SteadyDancer are released: safetensors, encoders in `.pth`, the tokenizer inside."""
    folder = tmp_path_factory.mktemp("release")
    state = {name: tensor.contiguous() for name, tensor in to_official(components["transformer"].state_dict()).items()}
    save_file(state, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanModel", "num_heads": 4}))
    components["tokenizer"].save_pretrained(folder / "google" / "umt5-xxl")
    text = {
        "shared.weight": "token_embedding.weight",
        "encoder.final_layer_norm.weight": "norm.weight",
        "layer.0.layer_norm": "norm1",
        "layer.1.layer_norm": "norm2",
        "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
        "layer.0.SelfAttention": "attn",
        "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
        "layer.1.DenseReluDense.wi_1": "ffn.fc1",
        "layer.1.DenseReluDense.wo": "ffn.fc2",
        "encoder.block": "blocks",
    }
    named = {}
    for name, tensor in components["text_encoder"].state_dict().items():
        if name != "encoder.embed_tokens.weight":
            for theirs, official in text.items():
                name = name.replace(theirs, official)
            named[name] = tensor
    torch.save(named, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    return folder


def test_a_released_folder_is_read_like_one_of_diffusers(components: dict[str, Any], release: Path) -> None:
    names = ("transformer", "text_encoder", "tokenizer", "scheduler")
    loaded = load_components(release, names, kind="wan")
    for name in names[:2]:
        saved, state = components[name].state_dict(), loaded[name].state_dict()
        assert all(torch.equal(value, state[key]) for key, value in saved.items()), name
    assert loaded["transformer"].config.num_attention_heads == 4
    assert loaded["tokenizer"]("a é").input_ids == components["tokenizer"]("a é").input_ids
    assert loaded["scheduler"].config.flow_shift == 5.0
    with pytest.raises(ComponentsError, match="has no vae/"):
        load_components(release, ["transformer", "vae"])
    with pytest.raises(ComponentsError, match="plain Wan 2.1 I2V checkpoint"):
        load_components(release, ["transformer"], kind="steadydancer")
    assert missing_parts(release) == ["vae", "image_encoder"]


def test_a_transformer_may_be_one_file(components: dict[str, Any], release: Path) -> None:
    file = release / "diffusion_pytorch_model.safetensors"
    (loaded,) = load_components(file, ["transformer"]).values()
    weight = components["transformer"].blocks[0].ffn.net[2].weight
    assert torch.equal(loaded.blocks[0].ffn.net[2].weight, weight)


def test_a_parts_digest_is_of_its_own_files(release: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(release, tmp_path / "copy"))
    digest = part_digest(release, "transformer")
    (copy / "models_t5_umt5-xxl-enc-bf16.pth").write_bytes(b"")
    assert part_digest(copy, "transformer") == digest
    assert part_digest(copy, "text_encoder") != part_digest(release, "text_encoder")
    (copy / "config.json").write_text("{}")
    assert part_digest(copy, "transformer") != digest


def test_the_hub_is_asked_for_the_wanted_parts_in_either_layout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def snapshot(repository: str, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setenv("STEADYDANCER_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    resolve_folder("MCG-NJU/SteadyDancer-14B", ["transformer", "vae", "tokenizer"])

    def wanted(file: str) -> bool:
        return any(fnmatch.fnmatch(file, pattern) for pattern in asked)

    assert wanted("diffusion_pytorch_model-00001-of-00007.safetensors") and wanted("config.json")
    assert wanted("Wan2.1_VAE.pth") and wanted("google/umt5-xxl/spiece.model") and wanted("vae/config.json")
    assert not wanted("models_t5_umt5-xxl-enc-bf16.pth") and not wanted("text_encoder/model.safetensors")
    assert not wanted("transformer/diffusion_pytorch_model.bin")
