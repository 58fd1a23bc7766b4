"""What diffusers gives to its own models stays usable on this one: the same numbers as the plain model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import Tensor, nn

from steadydancer.models.components import tiny_components
from steadydancer.models.conditions import Conditions, with_frame_mask
from steadydancer.models.inference.step_memory import StepMemory
from steadydancer.models.pipeline import SteadyDancerPipeline
from steadydancer.models.transformer import SteadyDancerTransformer3DModel

ADAPTER = {"pose_fusion": "adapter"}


def tiny_model(seed: int = 0, **changes: Any) -> SteadyDancerTransformer3DModel:
    torch.manual_seed(seed)
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "text_dim": 16,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 3,
        "image_dim": 8,
    }
    model = SteadyDancerTransformer3DModel(**(sizes | changes)).eval()
    if changes:
        for parameter in model.parameters():  # an adapter begins at zero
            nn.init.normal_(parameter, std=0.2)
    return model


@torch.no_grad()
def answer(model: nn.Module, **more: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    conditions = Conditions(
        image_latents=with_frame_mask(normal(16, 2, 4, 4)),
        pose_latents=normal(16, 2, 4, 4),
        image_embeds=normal(257, 8),
        pose_image_embeds=normal(257, 8),
        prompt_embeds=normal(5, 16),
    )
    return model(normal(16, 2, 4, 4), torch.tensor([500.0]), **conditions.model_arguments(), return_dict=False, **more)[
        0
    ].float()


def relative(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Fills whatever is allocated and not written with NaN: weights that are away then show."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


OFFLOADS = [
    pytest.param({"offload_type": "block_level", "num_blocks_per_group": 1}, id="block"),
    pytest.param({"offload_type": "block_level", "num_blocks_per_group": 2}, id="two blocks"),
    pytest.param({"offload_type": "leaf_level"}, id="leaf"),
]


@pytest.mark.parametrize("changes", [{}, ADAPTER], ids=["joined by channels", "injected"])
@pytest.mark.parametrize("how", OFFLOADS)
def test_weights_that_are_on_disk_between_their_uses_give_the_same(
    tmp_path: Path, deterministic: None, how: dict[str, Any], changes: dict[str, Any]
) -> None:
    expected = answer(tiny_model(**changes))
    model = tiny_model(**changes)
    model.enable_group_offload(torch.device("cpu"), offload_to_disk_path=str(tmp_path), **how)
    memory = StepMemory()
    for remembered in (None, memory, memory):
        assert all(weight.isnan().all() for weight in model.parameters())  # packed ones and norms among them
        # Not to the bit: weights read from a file lie at other addresses, and CPU kernels round by alignment.
        torch.testing.assert_close(answer(model, step_memory=remembered), expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("how", OFFLOADS)
def test_group_offload_in_memory_changes_no_bit(how: dict[str, Any]) -> None:
    expected = answer(tiny_model())
    model = tiny_model()
    model.enable_group_offload(torch.device("cpu"), low_cpu_mem_usage=True, **how)
    assert torch.equal(answer(model), expected)


def test_offload_layer_by_layer_changes_no_bit() -> None:
    expected = answer(tiny_model())
    model = tiny_model()
    cpu_offload(model, "cpu", offload_buffers=True)  # what a pipeline's `enable_sequential_cpu_offload` puts on
    for _ in range(2):
        assert all(weight.is_meta for weight in model.parameters())
        assert torch.equal(answer(model), expected)


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("changes", [{}, ADAPTER], ids=["joined by channels", "injected"])
def test_fp8_holds_the_linear_layers_of_the_blocks_and_nothing_else(
    tmp_path: Path, compute: torch.dtype, changes: dict[str, Any]
) -> None:
    tiny_model(**changes).save_pretrained(tmp_path)
    model = SteadyDancerTransformer3DModel.from_pretrained(tmp_path, torch_dtype=compute).eval()
    before = {name: weight.dtype for name, weight in model.named_parameters()}
    plain = answer(model)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)
    linear = {f"blocks.{name}" for name, module in model.blocks.named_modules() if isinstance(module, nn.Linear)}
    expected = {
        name: torch.float8_e4m3fn if name.rpartition(".")[0] in linear else dtype for name, dtype in before.items()
    }
    for _ in range(2):
        assert {name: weight.dtype for name, weight in model.named_parameters()} == expected
        assert 1e-3 < relative(answer(model), plain) < 0.15
    assert {weight.dtype for weight in model.pose_modulation.parameters()} == {torch.float32}


@pytest.fixture
def backends() -> Iterator[None]:
    """diffusers keeps the last one set for models to come."""
    active, _ = _AttentionBackendRegistry.get_active_backend()
    yield
    _AttentionBackendRegistry.set_active_backend(active)


@pytest.mark.parametrize("name", ["native", "_native_math", "_native_flash", "flex"])
def test_attention_backends_agree_and_the_alignment_unit_is_not_asked(backends: None, name: str) -> None:
    model = tiny_model()
    expected, poses = answer(model), []
    model.pose_modulation.alignment.register_forward_hook(lambda module, given, output: poses.append(output))
    answer(model)
    model.set_attention_backend(name)
    for block in model.blocks:
        for attention in (block.attn1, block.attn2):
            assert attention.processor._attention_backend == AttentionBackendName(name)
    torch.testing.assert_close(answer(model), expected, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(answer(model, step_memory=StepMemory()), expected, atol=2e-5, rtol=2e-5)
    assert all(torch.equal(pose, poses[0]) for pose in poses)


def test_an_unknown_attention_backend_is_refused_by_diffusers(backends: None) -> None:
    with pytest.raises(ValueError, match="must be one of the following"):
        tiny_model().set_attention_backend("guesswork")


def test_fused_projections_give_the_same_and_can_be_parted_again() -> None:
    model = tiny_model()
    expected, names = answer(model), set(model.state_dict())
    model.fuse_qkv_projections()
    fused = {name.rpartition(".")[0] for name in set(model.state_dict()) - names}
    kinds = {name.split(".", 2)[2] for name in fused}
    assert kinds == {"attn1.to_qkv", "attn2.to_kv", "attn2.to_added_kv"}
    assert len(fused) == 3 * len(model.blocks)
    torch.testing.assert_close(answer(model), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answer(model, step_memory=StepMemory()), expected, atol=1e-5, rtol=1e-5)
    for block in model.blocks:  # what was fused is not read any more
        for name in ("to_k", "to_v"):
            nn.init.zeros_(getattr(block.attn2, name).weight)
    torch.testing.assert_close(answer(model), expected, atol=1e-5, rtol=1e-5)
    model = tiny_model()
    model.fuse_qkv_projections()
    model.unfuse_qkv_projections()
    assert set(model.state_dict()) == names
    assert torch.equal(answer(model), expected)


def test_a_block_is_one_graph_for_all_of_them() -> None:
    model = tiny_model()
    expected = answer(model)
    graphs: list[Any] = []

    def kept(graph: Any, given: Any) -> Any:  # needs no compiler
        graphs.append(graph)
        return graph.forward

    try:
        model.compile_repeated_blocks(fullgraph=True, backend=kept)
        assert all(torch.equal(answer(model), expected) for _ in range(2))
        assert len(graphs) == 1
        memory = StepMemory()
        assert all(torch.equal(answer(model, step_memory=memory), expected) for _ in range(3))
        assert len(graphs) == 3  # the first step and the others
    finally:
        torch._dynamo.reset()


def test_shards_half_floats_and_maps_load_to_the_same_answers(tmp_path: Path) -> None:
    model = tiny_model()
    expected = answer(model)
    model.save_pretrained(tmp_path, max_shard_size="40KB", variant="first")
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.first.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict())
    assert len(set(index["weight_map"].values())) > 3

    def loaded(**options: Any) -> Tensor:
        return answer(SteadyDancerTransformer3DModel.from_pretrained(tmp_path, variant="first", **options).eval())

    pieces = {name: "cpu" for name, _ in model.named_children()} | {"scale_shift_table": "cpu"}
    on_disk = pieces | {"pose_modulation": "disk", "patch_embedding_fuse": "disk", "proj_out": "disk"}
    for options in (
        {},
        {"low_cpu_mem_usage": True, "disable_mmap": True},
        {"device_map": "cpu"},
        {"device_map": "auto"},
        {"device_map": on_disk, "offload_folder": str(tmp_path / "away")},
    ):
        torch.testing.assert_close(loaded(**options), expected, atol=2e-6, rtol=2e-6)
    assert relative(loaded(torch_dtype=torch.float16), expected) < 0.01
    with pytest.raises(OSError, match="no file named"):
        SteadyDancerTransformer3DModel.from_pretrained(tmp_path, use_safetensors=True)


def test_diffusers_own_loading_finds_every_part_of_the_pipeline(tmp_path: Path) -> None:
    parts = tiny_components(transformer={"num_layers": 1})
    transformer = SteadyDancerTransformer3DModel.from_wan(parts.pop("transformer")).eval()
    SteadyDancerPipeline(transformer=transformer, **parts, negative_prompt="stills").save_pretrained(tmp_path)
    load = DiffusionPipeline.from_pretrained.__func__  # whatever the pipeline makes of it for its users
    dtypes = {"default": torch.bfloat16, "vae": torch.float32}
    pipeline = load(SteadyDancerPipeline, tmp_path, torch_dtype=dtypes)
    for name, part in {"transformer": transformer, **parts}.items():
        loaded = getattr(pipeline, name)
        if not isinstance(part, nn.Module):
            continue
        assert type(loaded) is type(part)
        weights = dict(loaded.named_parameters())
        for key, weight in part.named_parameters():
            assert torch.equal(weights[key], weight.to(weights[key].dtype)), f"{name}.{key}"
    assert [pipeline.transformer.dtype, pipeline.vae.dtype] == [torch.bfloat16, torch.float32]
    assert {weight.dtype for weight in pipeline.transformer.pose_modulation.parameters()} == {torch.float32}
    assert pipeline.config.negative_prompt == "stills"
