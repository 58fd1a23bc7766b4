"""Modes: what each name means, and that applying one does what its data says to the network."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file

from steadydancer.models import mode_parts
from steadydancer.models.checkpoints.files import CheckpointError
from steadydancer.models.conversion.convert import convert
from steadydancer.models.inference.step_memory import StepMemory
from steadydancer.models.modes import DEFAULT_THRESHOLD, Mode, ModeError, apply_mode, get_mode
from steadydancer.models.quantised_linear import QuantisedLinear
from steadydancer.models.transformer import SteadyDancerTransformer3DModel
from steadydancer.models.transformer_loading import load_transformer


def pipeline_of(transformer: Any) -> Any:
    """What a mode uses of a pipeline on a CPU."""
    return SimpleNamespace(transformer=transformer, vae=None)


@torch.no_grad()
def answer(model: Any, seed: int = 1, **more: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=generator)

    latents, timestep = normal(16, 2, 4, 4), torch.tensor([500.0])
    features = (normal(5, 16), normal(257, 8), normal(257, 8))
    result: torch.Tensor = model(
        latents, timestep, *features, normal(20, 2, 4, 4), normal(16, 2, 4, 4), return_dict=False, **more
    )[0]
    return result.float()


LOW_MEMORY: dict[str, Any] = {
    "settings": {"branch_evaluation": "sequential"}, "storage_dtype": "float8_e4m3fn", "offloads": True,
    "tiles_autoencoder": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("exact", Mode("exact", compiles_blocks=True)),
        ("fast", Mode("fast", cache_threshold=DEFAULT_THRESHOLD)),
        ("fast:0.2", Mode("fast:0.2", cache_threshold=0.2)),
        (
            "fast:distilled",
            Mode(
                "fast:distilled",
                {"num_inference_steps": 4, "guidance_scale": 1.0, "pose_guidance_scale": 0.0},
                needs_distilled_lora=True,
                compiles_blocks=True,
            ),
        ),
        ("low_memory", Mode("low_memory", **LOW_MEMORY)),
        ("low_memory:7", Mode("low_memory:7", num_resident_blocks=7, **LOW_MEMORY)),
    ],
)
def test_a_name_and_its_strength_are_one_mode(text: str, mode: Mode) -> None:
    assert get_mode(text) == mode
    assert json.loads(json.dumps(mode.to_record())) == dataclasses.asdict(mode)


@pytest.mark.parametrize(
    "text", ["", "slow", "exact:1", "exact:", "fast:", "fast:0", "fast:-1", "fast:nan", "fast:inf", "fast:half",
             "low_memory:", "low_memory:-1", "low_memory:1.5", "Fast", " fast"]
)  # fmt: skip
def test_other_names_are_refused_with_a_list_of_the_names(text: str) -> None:
    with pytest.raises(ModeError, match="unknown mode .*use exact, fast, fast:THRESHOLD"):
        get_mode(text)


def test_exact_changes_nothing_on_a_cpu(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    expected, modules = answer(model), list(model.modules())
    assert apply_mode(pipeline_of(model), get_mode("exact")) == {"mode": "exact", "compiled_blocks": False}
    assert torch.equal(answer(model), expected)
    assert list(model.modules()) == modules


@pytest.mark.parametrize(("text", "is_skipped"), [("fast:100", True), ("fast:1e-6", False)])
def test_the_threshold_decides_whether_blocks_are_skipped(
    tiny_model: Callable[..., Any], text: str, is_skipped: bool
) -> None:
    model = tiny_model(num_layers=3)
    expected = [answer(model, seed) for seed in (1, 2)]
    applied = apply_mode(pipeline_of(model), get_mode(text))
    assert applied == {"mode": text, "first_block_cache": get_mode(text).cache_threshold}
    calls: list[Any] = []
    model.blocks[1].attn1.register_forward_hook(lambda *given: calls.append(given))
    with model.cache_context("conditional"):
        assert torch.equal(answer(model, 1), expected[0])
        second = answer(model, 2)
    assert (len(calls) == 1) == is_skipped
    assert torch.equal(second, expected[1]) != is_skipped


@pytest.mark.parametrize("text", ["low_memory", "low_memory:1"])
def test_low_memory_stores_the_blocks_in_float8(tiny_model: Callable[..., Any], text: str) -> None:
    model = tiny_model()
    expected = answer(model)
    applied = apply_mode(pipeline_of(model), get_mode(text), device="cpu")
    # On a CPU nothing is offloaded.
    assert applied == {"mode": text, "storage": "float8_e4m3fn", "offload": None}
    linear = [module for module in model.blocks.modules() if isinstance(module, torch.nn.Linear)]
    assert {layer.weight.dtype for layer in linear} == {torch.float8_e4m3fn}
    off = (answer(model) - expected).norm() / expected.norm()
    assert 1e-3 < off < 0.15


@pytest.mark.parametrize("num_resident", [0, 1, 3])
def test_swapped_blocks_give_the_same_bits_and_only_residents_stay(
    tiny_model: Callable[..., Any], num_resident: int
) -> None:
    """On the CPU group offload moves nothing; its hooks show which blocks it would move."""
    expected = answer(tiny_model(num_layers=3))
    model = tiny_model(num_layers=3)
    names = list(model.state_dict())
    mode_parts.swap_blocks(model, torch.device("cpu"), num_resident, use_stream=False)
    assert list(model.state_dict()) == names
    offloaded = [hasattr(block, "_diffusers_hook") for block in model.blocks]
    assert offloaded == [i >= num_resident for i in range(3)]
    memory = StepMemory()
    for remembered in (None, memory, memory):
        assert torch.equal(answer(model, step_memory=remembered), expected)


def test_offload_keeps_no_keys_and_values_and_tiles_the_autoencoder(
    tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU; the CPU stands for it, where group offload moves nothing."""
    swap = mode_parts.swap_blocks
    on_cpu = torch.device("cpu")
    monkeypatch.setattr(mode_parts, "swap_blocks", lambda model, device, number, use_stream: swap(
        model, on_cpu, number, use_stream=False
    ))  # fmt: skip
    model, vae = tiny_model(), AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 2, 2], num_res_blocks=1)
    monkeypatch.setattr(vae, "to", lambda device: vae)
    mode = dataclasses.replace(get_mode("low_memory"), storage_dtype=None)
    memory = StepMemory()
    expected = answer(model)
    pipeline: Any = SimpleNamespace(transformer=model, vae=vae)
    applied = apply_mode(pipeline, mode, device="cuda")
    assert applied["offload"]["num_resident_blocks"] == 0 and applied["tiled_autoencoder"] and vae.use_tiling
    for _ in range(2):
        assert torch.equal(answer(model, step_memory=memory), expected)
    assert [context.keys_values for context in memory.context["blocks"]] == [None, None]


def lora_file(folder: Path, model: Any) -> tuple[Path, torch.Tensor]:
    """Write a LoRA of one layer in LightX2V's names; return it and what it adds to the weight."""
    width = model.blocks[0].attn1.to_q.in_features
    down, up = torch.randn(4, width), torch.randn(width, 4) * 0.1
    names = {"lora_down.weight": down, "lora_up.weight": up}
    file = folder / "few_steps.safetensors"
    save_file({f"diffusion_model.blocks.0.self_attn.q.{name}": tensor for name, tensor in names.items()}, file)
    return file, up @ down


def test_the_few_step_lora_is_merged(tmp_path: Path, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file, delta = lora_file(tmp_path, model)
    mode = get_mode("fast:distilled")
    applied = apply_mode(pipeline_of(model), mode, distilled_lora=file)
    assert applied == {"mode": "fast:distilled", "distilled_lora": "merged", "compiled_blocks": False}
    after = model.state_dict()
    assert after.keys() == before.keys()  # no adapter is left
    changed = "blocks.0.attn1.to_q.weight"
    torch.testing.assert_close(after[changed], before[changed] + delta)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name != changed)


def test_without_its_lora_or_with_another_networks_the_few_step_mode_is_refused(
    tmp_path: Path, tiny_model: Callable[..., Any]
) -> None:
    model = tiny_model()
    with pytest.raises(ModeError, match="needs a few-step LoRA .* --distilled-lora"):
        apply_mode(pipeline_of(model), get_mode("fast:distilled"))
    file, _ = lora_file(tmp_path, tiny_model(attention_head_dim=16))
    with pytest.raises(CheckpointError, match="is not a LoRA for this transformer"):
        apply_mode(pipeline_of(model), get_mode("fast:distilled"), distilled_lora=file)


def test_quantised_weights_stay_as_they_are(tmp_path: Path, tiny_model: Callable[..., Any]) -> None:
    """They have one byte each already, and a LoRA lies beside them."""
    tiny_model().save_pretrained(tmp_path / "ours" / "transformer")
    convert(tmp_path / "ours", tmp_path / "int8", kind="int8")
    model: SteadyDancerTransformer3DModel = load_transformer(tmp_path / "int8" / "transformer")
    expected = answer(model)
    applied = apply_mode(pipeline_of(model), get_mode("low_memory"))
    assert applied["storage"] == "as quantised"
    assert torch.equal(answer(model), expected)
    file, delta = lora_file(tmp_path, model)
    applied = apply_mode(pipeline_of(model), get_mode("fast:distilled"), distilled_lora=file)
    assert applied["distilled_lora"] == "beside the weights"
    layer, x = model.blocks[0].attn1.to_q, torch.randn(2, delta.shape[1])
    assert isinstance(layer.base_layer, QuantisedLinear)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ delta.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("device", "found", "compiles"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_blocks_are_compiled_where_a_gpu_computes_and_a_compiler_is_there(
    device: str, found: bool, compiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(mode_parts, "has_compiler", lambda: found)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = SimpleNamespace(compile_repeated_blocks=lambda: asked.append("compiled"))
    applied = apply_mode(pipeline_of(model), get_mode("exact"), device=device)
    assert applied["compiled_blocks"] == compiles == bool(asked)
