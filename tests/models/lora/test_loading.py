"""LoRA files of other programs load, each key used or reported; ours are read back to the same outputs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from steadydancer.models.checkpoints.files import CheckpointError
from steadydancer.models.checkpoints.key_maps import to_official
from steadydancer.models.conversion.convert import convert
from steadydancer.models.lora.adapters import add_lora, save_trained
from steadydancer.models.lora.export import LORA_FILES, export_lora
from steadydancer.models.lora.loading import load_lora
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

SIZES: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "image_dim": 16,
}
WIDTH, RANK = 32, 2
LINEAR = ("self_attn.q", "self_attn.o", "cross_attn.k", "cross_attn.v_img", "ffn.0", "ffn.2")


def network(seed: int = 0) -> SteadyDancerTransformer3DModel:
    torch.manual_seed(seed)
    model = SteadyDancerTransformer3DModel(**SIZES).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.2)
    return model


def answer(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        return model(  # type: ignore[no-any-return]
            random(1, 16, 2, 4, 4),
            torch.tensor([500.0]),
            random(1, 3, 16),
            random(1, 257, 16),
            random(1, 257, 16),
            random(1, 20, 2, 4, 4),
            random(1, 16, 2, 4, 4),
            return_dict=False,
        )[0]


def random_pairs(model: Any, modules: tuple[str, ...] = LINEAR) -> dict[str, tuple[Tensor, Tensor]]:
    """Official layer of block 0 and 1 to (A, B)."""
    generator = torch.Generator().manual_seed(2)
    official = to_official(model.state_dict())
    pairs = {}
    for layer in (f"blocks.{block}.{module}" for block in range(2) for module in modules):
        rows, columns = official[f"{layer}.weight"].shape
        pairs[layer] = (
            torch.randn(RANK, columns, generator=generator) * 0.3,
            torch.randn(rows, RANK, generator=generator) * 0.3,
        )
    return pairs


def merged(model: Any, pairs: dict[str, tuple[Tensor, Tensor]], strength: float, **deltas: Tensor) -> Any:
    """The answer that is to be met: W + strength · B A and W + delta, written into the official state."""
    state = to_official(model.state_dict())
    from steadydancer.models.checkpoints.key_maps import from_official

    for layer, (down, up) in pairs.items():
        state[f"{layer}.weight"] = state[f"{layer}.weight"] + strength * up @ down
    for name, delta in deltas.items():
        state[name.replace("__", ".")] = state[name.replace("__", ".")] + delta
    twin = SteadyDancerTransformer3DModel(**SIZES).eval()
    twin.load_state_dict(from_official(state))
    return twin


def lightx2v(pairs: dict[str, tuple[Tensor, Tensor]], alpha: float) -> dict[str, Tensor]:
    state = {}
    for layer, (down, up) in pairs.items():
        state[f"diffusion_model.{layer}.lora_down.weight"] = down
        state[f"diffusion_model.{layer}.lora_up.weight"] = up
        state[f"diffusion_model.{layer}.alpha"] = torch.tensor(alpha)
    return state


def peft(pairs: dict[str, tuple[Tensor, Tensor]], alpha: float) -> dict[str, Tensor]:
    return {
        f"diffusion_model.{layer}.lora_{side}.weight": tensor * (alpha / RANK if side == "B" else 1)
        for layer, pair in pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }


def musubi(pairs: dict[str, tuple[Tensor, Tensor]], alpha: float) -> dict[str, Tensor]:
    state = {}
    for layer, (down, up) in pairs.items():
        flat = f"lora_unet_{layer.replace('.', '_')}"  # lora_unet_blocks_0_cross_attn_k_img
        state |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(alpha)}
    return state


@pytest.mark.parametrize("layout", [lightx2v, peft, musubi])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_published_layouts_load_with_their_alpha(tmp_path: Path, layout: Callable[..., Any], scale: float) -> None:
    model = network()
    pairs, alpha = random_pairs(model), 6.0
    before, expected = answer(model), answer(merged(model, pairs, scale * alpha / RANK))
    file = tmp_path / "lora.safetensors"
    save_file(layout(pairs, alpha), file)
    found = load_lora(model, file, scale=scale)
    assert len(found.pairs) == len(pairs) and not found.deltas and not found.unused
    assert (answer(model) - expected).abs().max() <= 2e-5
    assert (expected - before).abs().max() > 0.1
    model.unload_lora()
    start = network().state_dict()
    assert all(torch.equal(weight, start[name]) for name, weight in model.state_dict().items())


def test_layers_agree_with_diffusers_own_converters(tmp_path: Path) -> None:
    model = network()
    attention = (f"{kind}_attn.{name}" for kind in ("self", "cross") for name in "qkvo")
    everything = (*attention, "cross_attn.k_img", "cross_attn.v_img", "ffn.0", "ffn.2")
    pairs = random_pairs(model, everything)
    for layout, theirs in (
        (peft, _convert_non_diffusers_wan_lora_to_diffusers),
        (musubi, _convert_musubi_wan_lora_to_diffusers),
    ):
        state = layout(pairs, 3.0)
        save_file(state, tmp_path / "lora.safetensors")
        found = load_lora(network(), tmp_path / "lora.safetensors").pairs
        wanted = theirs(dict(state))
        products = {
            name: wanted[f"transformer.{name}.lora_B.weight"] @ wanted[f"transformer.{name}.lora_A.weight"]
            for name in {key.removeprefix("transformer.").rsplit(".lora_", 1)[0] for key in wanted}
        }
        assert {f"{name}.weight" for name in products} == found.keys()
        for name, product in products.items():
            down, up, strength = found[f"{name}.weight"]
            torch.testing.assert_close(strength * up @ down, product)


def test_diffs_of_norms_biases_and_head_are_applied(tmp_path: Path) -> None:
    """As LightX2V's files have them; diffusers' own converter drops those of the norms."""
    model = network()
    pairs = random_pairs(model, ("self_attn.q",))
    deltas = {
        "blocks__0__norm3__weight": torch.randn(WIDTH),
        "blocks__0__norm3__bias": torch.randn(WIDTH),
        "blocks__1__self_attn__norm_q__weight": torch.randn(WIDTH),
        "blocks__1__ffn__2__bias": torch.randn(WIDTH),
        "head__head__weight": torch.randn(64, WIDTH) * 0.1,
        "head__head__bias": torch.randn(64),
        "blocks__0__modulation": torch.randn(1, 6, WIDTH) * 0.1,
        "patch_embedding__bias": torch.randn(WIDTH),
    }
    expected = answer(merged(model, pairs, 1.0, **deltas))
    state = lightx2v(pairs, RANK)
    for name, delta in deltas.items():
        name = name.replace("__", ".")
        kind = "diff_b" if name.endswith(".bias") else "diff"
        state[f"diffusion_model.{name.removesuffix('.weight').removesuffix('.bias')}.{kind}"] = delta
    state["diffusion_model.patch_embedding.diff"] = torch.zeros(WIDTH, 16, 1, 2, 2)  # of a text-to-video model
    state["diffusion_model.blocks.0.self_attn.norm_q.diff_b"] = torch.zeros(WIDTH)
    save_file(state, tmp_path / "lora.safetensors")
    found = load_lora(model, tmp_path / "lora.safetensors")
    assert len(found.deltas) == len(deltas)
    assert found.unused == {
        "patch_embedding.diff": "it belongs to a model with 16 input channels",
        "blocks.0.self_attn.norm_q.diff_b": "blocks.0.attn1.norm_q.weight has no bias",
    }
    assert (answer(model) - expected).abs().max() <= 2e-5


def test_pairs_of_a_convolution_are_added_to_it(tmp_path: Path) -> None:
    model = network()
    down, up = torch.randn(RANK, 36, 1, 2, 2), torch.randn(WIDTH, RANK, 1, 1, 1)
    before = model.patch_embedding.weight.clone()
    save_file({"diffusion_model.patch_embedding.alpha": torch.tensor(5.0),
               "diffusion_model.patch_embedding.lora_down.weight": down,
               "diffusion_model.patch_embedding.lora_up.weight": up}, tmp_path / "lora.safetensors")  # fmt: skip
    load_lora(model, tmp_path / "lora.safetensors", scale=0.5)
    product = torch.einsum("or,rithw->oithw", up[:, :, 0, 0, 0], down)
    torch.testing.assert_close(model.patch_embedding.weight, before + 0.5 * 5.0 / RANK * product)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffusion_model.blocks.7.self_attn.q.lora_down.weight": torch.zeros(2, WIDTH)}, "1 unexpected: blocks.7"),
        ({"diffusion_model.blocks.0.ffn.0.lora_up.weight": None}, r"1 missing: blocks\.0\.ffn\.0\.lora_up\.weight"),
        ({"diffusion_model.blocks.0.ffn.0.lora_down.weight": torch.zeros(2, 9)}, r"\[2, 9\] \(expected \[2, 32\]\)"),
        ({"diffusion_model.blocks.0.ffn.0.dora_scale": torch.zeros(1)}, "is a DoRA adapter .*only LoRA"),
    ],
)
def test_what_does_not_fit_changes_nothing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    model = network()
    before = answer(model)
    state = lightx2v(random_pairs(model), 2.0) | changes
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_lora(model, tmp_path / "lora.safetensors")
    assert torch.equal(answer(model), before)


def test_another_programs_lora_is_told(tmp_path: Path) -> None:
    save_file({"lora_te_text_model.lora_down.weight": torch.zeros(1, 1)}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match="is not a LoRA for this transformer"):
        load_lora(network(), tmp_path / "lora.safetensors")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """A checkpoint as stage 1 leaves it, alpha ≠ rank, pose modules trained too; and what the network answered."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = network()
    add_lora(model, rank=RANK, alpha=5, targets=("to_q", "to_out.0", "ffn.net.2"))
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    trained = answer(model)
    save_trained(model, model.state_dict(), folder / "transformer", folder / "lora", torch.float32)
    return folder, trained


@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
@pytest.mark.parametrize("by", ["function", "command"])
def test_ours_are_read_back_to_the_same_outputs(
    stage: tuple[Path, Tensor], tmp_path: Path, layout: Any, by: str
) -> None:
    """Onto the network that training began from: largest difference measured 1.2e-6, outputs of scale 1.3."""
    checkpoint, expected = stage
    if by == "function":
        export_lora(checkpoint, tmp_path / LORA_FILES[layout], layout)
    else:
        convert(checkpoint, tmp_path / "out", "lora", lora_layout=layout)
    file = (tmp_path if by == "function" else tmp_path / "out") / LORA_FILES[layout]
    again = network()
    found = load_lora(again, file.parent if layout == "diffusers" else file)
    assert found.replaced and found.pairs and not found.unused
    difference = (answer(again) - expected).abs().max()
    print(f"{layout}: {difference:.1e} at {expected.std():.2f}")
    assert difference <= 1e-5


def test_diffusers_and_its_pipelines_read_our_export(stage: tuple[Path, Tensor], tmp_path: Path) -> None:
    from diffusers.loaders import WanLoraLoaderMixin

    checkpoint, _ = stage
    file, pose = export_lora(checkpoint, tmp_path / LORA_FILES["diffusers"])
    state, metadata = WanLoraLoaderMixin.lora_state_dict(file, return_lora_metadata=True)
    assert all(key.startswith("transformer.blocks.") and ".lora_" in key for key in state)
    with_theirs, with_ours = network(), network()
    WanLoraLoaderMixin.load_lora_into_transformer(state, with_theirs, metadata=metadata)
    pose.unlink()
    load_lora(with_ours, tmp_path)
    assert (answer(with_theirs) - answer(with_ours)).abs().max() <= 1e-5
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["lora_adapter_metadata"])["transformer.lora_alpha"] == 5


def test_comfyui_names_are_the_official_layers(stage: tuple[Path, Tensor], tmp_path: Path) -> None:
    checkpoint, _ = stage
    (file,) = export_lora(checkpoint, tmp_path / "ours.safetensors", "comfyui")
    state = load_file(file)
    assert state["diffusion_model.blocks.1.self_attn.q.alpha"] == 5
    assert state["diffusion_model.blocks.1.ffn.2.lora_down.weight"].shape == (RANK, 32)
    assert state["diffusion_model.condition_embedding_align.proj_p.set_weight"].shape == (128, 16, 1, 1)
    assert state["diffusion_model.condition_embedding_align.proj_p.bias.set_weight"].shape == (128,)
    assert not [key for key in state if "pose_modulation" in key]


@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
def test_a_network_without_pose_modules_exports_its_adapter_alone(layout: Any, tmp_path: Path) -> None:
    """The paper's naive baseline, Eq. 2, has no parameter that Wan does not have."""
    naive = {"pose_fusion": "latent_addition", "pose_modulation_modules": (), "condition_augmentation": False}

    def baseline() -> SteadyDancerTransformer3DModel:
        torch.manual_seed(3)
        return SteadyDancerTransformer3DModel(**SIZES, **naive).eval()

    trained = baseline()
    add_lora(trained, RANK, 5, ("to_q", "ffn.net.2"))
    assert all("lora_" in name for name, weight in trained.named_parameters() if weight.requires_grad)
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    expected = answer(trained)
    checkpoint = tmp_path / "checkpoint"
    weights = {name: tensor.detach().clone() for name, tensor in trained.state_dict().items()}
    save_trained(trained, weights, checkpoint / "transformer", checkpoint / "lora", torch.float32)
    written = export_lora(checkpoint, tmp_path / LORA_FILES[layout], layout)
    assert [file.name for file in written] == [LORA_FILES[layout]]
    again = baseline()
    assert (answer(again) - expected).abs().max() > 1e-3
    assert not load_lora(again, written[0]).unused
    assert (answer(again) - expected).abs().max() <= 1e-5


def test_a_network_in_memory_is_exported_alike(stage: tuple[Path, Tensor], tmp_path: Path) -> None:
    model = network()
    load_lora(model, export_lora(stage[0], tmp_path / "first.safetensors")[0].parent / "first.safetensors", "default")
    export_lora(model, tmp_path / "second.safetensors")
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(CheckpointError, match="has no adapter"):
        export_lora(network(), tmp_path / "none.safetensors")
