"""Quantised weights: what is quantised, by how much it is off, that it loads everywhere, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from steadydancer.models.checkpoints.files import CheckpointError
from steadydancer.models.checkpoints.quantisation import Quantisation, is_quantised, require_unquantised
from steadydancer.models.components import load_components
from steadydancer.models.conversion.convert import convert, describe
from steadydancer.models.conversion.quantise import channel_scales, quantise
from steadydancer.models.lora.loading import load_lora
from steadydancer.models.pipeline import SteadyDancerPipeline
from steadydancer.models.quantised_linear import QuantisedLinear, has_quantised_layers
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.models.transformer_loading import load_transformer

KINDS: tuple[Quantisation, ...] = ("int8", "fp8")
NAME = "blocks.0.ffn.net.2.weight"


@pytest.fixture
def dancer(tmp_path: Path, tiny_model: Callable[..., Any]) -> SteadyDancerTransformer3DModel:
    """A network with random weights, saved in `ours/transformer`."""
    model: SteadyDancerTransformer3DModel = tiny_model()
    model.save_pretrained(tmp_path / "ours" / "transformer")
    return model


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_the_linear_layers_of_the_blocks_are_quantised_and_nothing_else(
    tmp_path: Path, dancer: SteadyDancerTransformer3DModel, kind: Quantisation
) -> None:
    """The set is that of diffusers' layerwise casting on this network; everything else keeps its bits."""
    convert(tmp_path / "ours", tmp_path / kind, kind=kind, shard_size="40KB")
    written = weights_of(tmp_path / kind / "transformer")
    before = dancer.state_dict()
    linear = {
        f"blocks.{name}.weight" for name, module in dancer.blocks.named_modules() if isinstance(module, torch.nn.Linear)
    }
    stored = torch.int8 if kind == "int8" else torch.float8_e4m3fn
    assert {name for name, tensor in written.items() if tensor.dtype == stored} == linear
    assert set(written) - set(before) == {f"{name}_scale" for name in linear}
    for name in set(before) - linear:
        assert torch.equal(written[name], before[name]), name
    index = json.loads((tmp_path / kind / "transformer" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(written)


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_states_the_error_that_the_loaded_weights_have(
    tmp_path: Path, dancer: SteadyDancerTransformer3DModel, kind: Quantisation
) -> None:
    record = convert(tmp_path / "ours", tmp_path / kind, kind=kind)
    report = json.loads((tmp_path / kind / "quantisation.json").read_text())
    assert record["quantisation"] == report["summary"] and report["kind"] == record["quantise"] == kind
    loaded = load_transformer(tmp_path / kind / "transformer")
    before = dancer.state_dict()
    for name, error in report["tensors"].items():
        layer = loaded.get_submodule(name.removesuffix(".weight"))
        assert isinstance(layer, QuantisedLinear) and error["shape"] == [*before[name].shape]
        restored, weight = layer.dequantised(torch.float32), before[name]
        assert error["max_abs"] == pytest.approx((restored - weight).abs().max().item(), rel=1e-5)
        assert error["relative_rms"] == pytest.approx(relative(restored, weight), rel=1e-4)
        cosine = torch.nn.functional.cosine_similarity(restored.flatten(), weight.flatten(), dim=0).item()
        assert error["cosine"] == pytest.approx(cosine, abs=1e-6)
    # Bounds of the grids: half a step of int8's 254, half of e4m3's last of three bits.
    largest = report["summary"]["largest_relative_rms"]
    assert largest == max(error["relative_rms"] for error in report["tensors"].values())
    assert largest < (0.01 if kind == "int8" else 2**-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_layer_computes_with_the_restored_weight(kind: Quantisation, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(40, 24).requires_grad_(False), torch.randn(3, 40)
    scales = channel_scales(layer.weight, kind)
    quantised = QuantisedLinear(40, 24, bias=True)
    state = {"weight": quantise(layer.weight, scales, kind), "weight_scale": scales, "bias": layer.bias.clone()}
    quantised.load_state_dict(state, assign=True)
    stored = quantised.weight.dtype
    quantised.to(dtype)
    assert (quantised.weight.dtype, quantised.weight_scale.dtype) == (stored, torch.float32)
    assert quantised.bias.dtype == quantised.compute_dtype == dtype
    exact = torch.nn.functional.linear(x, quantised.dequantised(torch.float32), layer.bias)
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]
    assert relative(quantised(x.to(dtype)).float(), exact) < tolerance
    # The output's error is the weights' own: for independent errors, their relative size.
    error = relative(quantised.dequantised(torch.float32), layer.weight)
    assert relative(exact - layer.bias, layer(x) - layer.bias) < 3 * error


def test_values_on_int8s_grid_come_back_exactly(tmp_path: Path, dancer: SteadyDancerTransformer3DModel) -> None:
    """Rows of whole multiples of a power of two that reach 127, one row of zeros, and one of tiny values."""
    weight = dancer.blocks[0].ffn.net[2].weight
    steps = torch.randint(-127, 128, weight.shape, generator=torch.Generator().manual_seed(0)).float()
    steps[:, 0] = 127
    steps[3] = 0
    with torch.no_grad():
        weight.copy_(steps * torch.exp2(-torch.arange(len(steps)).float())[:, None])
    dancer.save_pretrained(tmp_path / "grid" / "transformer")
    convert(tmp_path / "grid", tmp_path / "int8", kind="int8")
    restored = load_transformer(tmp_path / "int8" / "transformer").blocks[0].ffn.net[2].dequantised(torch.float32)
    assert torch.equal(restored, weight)
    report = json.loads((tmp_path / "int8" / "quantisation.json").read_text())["tensors"][NAME]
    assert (report["max_abs"], report["relative_rms"]) == (0, 0) and report["cosine"] == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_loading_gives_the_same_network(
    tmp_path: Path, dancer: SteadyDancerTransformer3DModel, kind: Quantisation
) -> None:
    convert(tmp_path / "ours", tmp_path / kind, kind=kind)
    folder = tmp_path / kind / "transformer"
    wanted = load_transformer(folder, torch.bfloat16)
    wanted.save_pretrained(tmp_path / "again")
    loaded = [
        load_components(tmp_path / kind, ("transformer",), torch.bfloat16)["transformer"],
        SteadyDancerTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16),
        SteadyDancerTransformer3DModel.from_pretrained(tmp_path / kind, subfolder="transformer", dtype=torch.bfloat16),
        SteadyDancerTransformer3DModel.from_single_file(folder, torch_dtype=torch.bfloat16),
        SteadyDancerTransformer3DModel.from_pretrained(tmp_path / "again", torch_dtype=torch.bfloat16),
    ]
    for other in loaded:
        assert not other.training and has_quantised_layers(other)
        ours, theirs = wanted.state_dict(), other.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(theirs[name].dtype == tensor.dtype for name, tensor in ours.items())
        assert all(torch.equal(theirs[name].float(), tensor.float()) for name, tensor in ours.items())
    assert {weight.dtype for weight in wanted.pose_modulation.parameters()} == {torch.float32}
    assert wanted.blocks[0].norm2.weight.dtype == torch.float32  # diffusers keeps it there
    with pytest.raises(ValueError, match="device_map cannot be used"):
        SteadyDancerTransformer3DModel.from_pretrained(folder, device_map="auto")


def test_a_pipeline_loads_from_a_folder_with_quantised_weights(
    components: Path, checkpoint: Path, tmp_path: Path
) -> None:
    convert(checkpoint, tmp_path / "int8", kind="int8")
    folder = tmp_path / "whole"
    shutil.copytree(components, folder, ignore=shutil.ignore_patterns("transformer"))
    shutil.copytree(tmp_path / "int8" / "transformer", folder / "transformer")
    index = json.loads((folder / "model_index.json").read_text())
    ours = json.loads((tmp_path / "int8" / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | ours))
    pipeline = SteadyDancerPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    assert has_quantised_layers(pipeline.transformer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_is_as_far_off_as_its_weights(
    tmp_path: Path, dancer: SteadyDancerTransformer3DModel, kind: Quantisation
) -> None:
    """It is that of the same network with the restored weights; against the original it is off by little."""
    record = convert(tmp_path / "ours", tmp_path / kind, kind=kind)
    quantised = load_transformer(tmp_path / kind / "transformer")
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=generator)

    given = (normal(16, 2, 4, 4), torch.tensor([500.0]), normal(5, 16), normal(257, 8), normal(257, 8))
    latents = (normal(20, 2, 4, 4), normal(16, 2, 4, 4))
    with torch.no_grad():
        before = dancer(*given, *latents, return_dict=False)[0]
        after = quantised(*given, *latents, return_dict=False)[0]
        for name, module in dancer.named_modules():
            layer = quantised.get_submodule(name)
            if isinstance(layer, QuantisedLinear):
                module.weight.copy_(layer.dequantised(torch.float32))
        # Not to the bit: mapped weights lie at other addresses, and CPU kernels round by alignment.
        torch.testing.assert_close(dancer(*given, *latents, return_dict=False)[0], after, atol=2e-6, rtol=2e-6)
    assert 0 < relative(after, before) < 4 * record["quantisation"]["largest_relative_rms"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_low_rank_adapter_lies_beside_quantised_weights(
    tmp_path: Path, dancer: SteadyDancerTransformer3DModel, kind: Quantisation
) -> None:
    convert(tmp_path / "ours", tmp_path / kind, kind=kind)
    down, up = torch.randn(4, 24), torch.randn(24, 4)
    pair = {"lora_A.weight": down, "lora_B.weight": up}
    save_file(
        {f"transformer.blocks.0.attn1.to_q.{name}": tensor for name, tensor in pair.items()},
        tmp_path / "lora.safetensors",
    )
    model, x = load_transformer(tmp_path / kind / "transformer"), torch.randn(2, 24)
    before = model.blocks[0].attn1.to_q(x)
    load_lora(model, tmp_path / "lora.safetensors")
    layer = model.blocks[0].attn1.to_q
    assert isinstance(layer.base_layer, QuantisedLinear)
    torch.testing.assert_close(layer(x), before + x @ down.T @ up.T, atol=1e-5, rtol=1e-5)
    save_file({"diffusion_model.blocks.0.self_attn.k.diff": torch.ones(24, 24)}, tmp_path / "diff.safetensors")
    with pytest.raises(CheckpointError, match=r"changes blocks\.0\.attn1\.to_k\.weight itself, which is quantised"):
        load_lora(model, tmp_path / "diff.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop(f"{NAME}_scale"), r"blocks\.0\.ffn\.net\.2\.weight has no scale"),
        (lambda tensors: tensors.pop(NAME), r"weight_scale has no blocks\.0\.ffn\.net\.2\.weight"),
        (
            lambda tensors: tensors.update({f"{NAME}_scale": tensors[f"{NAME}_scale"][:-1].clone()}),
            r"weight_scale is F32 \[23, 1\], expected F32 \[24, 1\]",
        ),
        (lambda tensors: tensors.update({NAME: tensors[NAME].float()}), "but is F32 instead of F8_E4M3 or I8"),
        (lambda tensors: tensors[f"{NAME}_scale"].fill_(float("nan")), "has values that are not positive numbers"),
        (lambda tensors: tensors[f"{NAME}_scale"].zero_(), "has values that are not positive numbers"),
        (lambda tensors: tensors.pop("proj_out.weight"), "1 missing: proj_out.weight"),
    ],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path,
    dancer: SteadyDancerTransformer3DModel,
    damage: Callable[[dict[str, torch.Tensor]], Any],
    message: str,
) -> None:
    convert(tmp_path / "ours", tmp_path / "int8", kind="int8")
    (file,) = (tmp_path / "int8" / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    for load in (load_transformer, SteadyDancerTransformer3DModel.from_pretrained):
        with pytest.raises(CheckpointError, match=message):
            load(file.parent)


def test_a_truncated_file_is_refused(tmp_path: Path, dancer: SteadyDancerTransformer3DModel) -> None:
    convert(tmp_path / "ours", tmp_path / "int8", kind="int8")
    (file,) = (tmp_path / "int8" / "transformer").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        load_transformer(file.parent)


def test_what_cannot_be_quantised_is_refused_in_a_sentence(
    tmp_path: Path, dancer: SteadyDancerTransformer3DModel
) -> None:
    with pytest.raises(CheckpointError, match="use --as diffusers, not official"):
        convert(tmp_path / "ours", tmp_path / "official", "official", kind="int8")
    convert(tmp_path / "ours", tmp_path / "int8", kind="int8")
    with pytest.raises(CheckpointError, match="can be rendered with but not converted"):
        convert(tmp_path / "int8", tmp_path / "twice", kind="fp8")
    with pytest.raises(CheckpointError, match="quantise int8 → fp8"):
        convert(tmp_path / "ours", tmp_path / "int8", kind="fp8")
    assert convert(tmp_path / "ours", tmp_path / "int8", kind="int8")["already_finished"]
    assert is_quantised(tmp_path / "int8" / "transformer") and not is_quantised(tmp_path / "ours" / "transformer")
    with pytest.raises(CheckpointError, match="can be rendered with but not trained"):
        require_unquantised(tmp_path / "int8" / "transformer", "trained")
    with torch.no_grad():
        dancer.blocks[1].attn1.to_v.weight[0, 0] = float("inf")
    dancer.save_pretrained(tmp_path / "infinite" / "transformer")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn1\.to_v\.weight has values that are not finite"):
        convert(tmp_path / "infinite", tmp_path / "out", kind="int8")
    assert not (tmp_path / "out").exists()


def test_the_plan_counts_a_byte_per_quantised_weight(tmp_path: Path, dancer: SteadyDancerTransformer3DModel) -> None:
    plan = describe(tmp_path / "ours", tmp_path / "out", "diffusers", None, "5GB", "diffusers", "int8")
    linear = [layer for layer in dancer.blocks.modules() if isinstance(layer, torch.nn.Linear)]
    saved = sum(3 * layer.weight.numel() - 4 * layer.out_features for layer in linear)
    assert plan["num_bytes"] == 4 * sum(weight.numel() for weight in dancer.parameters()) - saved
    assert "quantisation.json" in plan["files"] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_dtype_of_a_stored_weight_may_be_half(
    tmp_path: Path, tiny_model: Callable[..., Any], kind: Quantisation
) -> None:
    """Rows that do not divide a chunk, and sources of two bytes: the scales are those of the stored values."""
    model = tiny_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "ours" / "transformer")
    convert(tmp_path / "ours", tmp_path / kind, kind=kind)
    written = weights_of(tmp_path / kind / "transformer")
    weight = model.blocks[0].ffn.net[2].weight.detach().float()
    assert torch.equal(written[f"{NAME}_scale"], channel_scales(weight, kind))
    assert torch.equal(written[NAME].float(), quantise(weight, written[f"{NAME}_scale"], kind).float())
