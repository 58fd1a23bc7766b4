"""The contract of `models/diffusers_internals.py`: what the installed libraries must have, and how it must behave.

A failure names what a release of diffusers, accelerate or PEFT lacks or has changed. Then mend that module, or exclude
the release in `pyproject.toml`.
"""

import ast
import copy
import importlib
import importlib.metadata
import inspect
import json
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    ModelMixin,
    PyramidAttentionBroadcastConfig,
    WanTransformer3DModel,
)
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig
from safetensors import safe_open
from torch import nn

SOURCE = Path(__file__).resolve().parents[2] / "models" / "diffusers_internals.py"
IMPORTED = [
    (node.module, alias.name)
    for node in ast.parse(SOURCE.read_text()).body
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("diffusers", "peft")
    for alias in node.names
]
# By name, since each is called with some of them by name.
PARAMETERS = {
    "CacheContext": "name step_index num_inference_steps timestep sigma",
    "ContextParallelConfig": "ring_degree ulysses_degree convert_to_fp32 rotate_method mesh ulysses_anything "
    "ring_anything _rank _world_size _device _mesh _flattened_mesh _ring_mesh _ulysses_mesh "
    "_ring_local_rank _ulysses_local_rank",
    "ContextParallelInput": "split_dim expected_dims split_output",
    "FasterCacheBlockHook": None,  # only told from other hooks, as the next two
    "FasterCacheDenoiserHook": None,
    "GroupOffloadingHook": None,
    "ParallelConfig": "context_parallel_config tensor_parallel_config _rank _world_size _device _mesh",
    "PyramidAttentionBroadcastHook": None,
    "StateManager": "state_cls init_args init_kwargs",
    "TransformerBlockMetadata": "return_hidden_states_index return_encoder_hidden_states_index "
    "hidden_states_argument_name encoder_hidden_states_argument_name _cls _cached_parameter_indices",
    "TransformerBlockRegistry": "",
    "WanAttention": "dim heads dim_head eps dropout added_kv_proj_dim cross_attention_dim_head processor "
    "is_cross_attention",
    "WanAttnProcessor": "",
    "WanTransformerBlock": "dim ffn_dim num_heads qk_norm cross_attn_norm eps added_kv_proj_dim",
    "_get_group_onload_device": "module",
    "apply_context_parallel": "module parallel_config plan",
    "convert_wan_vae_to_diffusers": "checkpoint kwargs",
    "dispatch_attention_fn": "query key value attn_mask dropout_p is_causal scale enable_gqa attention_kwargs backend "
    "parallel_config",
    "get_pattern_key": "pattern_keys key_to_match",
    "no_init_weights": "",
    "patchify": "x patch_size",
    "unpatchify": "x patch_size",
}
CONSTANTS = {
    "LORA_ADAPTER_METADATA_KEY": "lora_adapter_metadata",
    "LORA_WEIGHT_NAME_SAFE": "pytorch_lora_weights.safetensors",
}


def installed(module: str) -> str:
    name = module.split(".")[0]
    return f"{name} {importlib.metadata.version(name)}"


@pytest.fixture
def internals() -> Any:
    return importlib.import_module("steadydancer.models.diffusers_internals")


@pytest.fixture
def wan() -> WanTransformer3DModel:
    torch.manual_seed(0)
    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=36,
        out_channels=16,
        text_dim=16,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        image_dim=8,
        added_kv_proj_dim=24,
    ).eval()


def enable_broadcast(wan: WanTransformer3DModel) -> None:
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("blocks",),
        current_timestep_callback=lambda: 500,
    )
    wan.enable_cache(config)


@pytest.mark.parametrize(("module", "name"), IMPORTED, ids=[name for _, name in IMPORTED])
def test_the_installed_release_has_what_is_imported(module: str, name: str) -> None:
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        pytest.fail(f"{installed(module)} has no {module}.{name}, which {SOURCE.name} imports")
    if name in CONSTANTS:
        assert found == CONSTANTS[name], f"{installed(module)} changed {name} to {found!r}"
    elif (expected := PARAMETERS[name]) is not None:
        parameters = " ".join(inspect.signature(found).parameters)
        assert parameters == expected, f"{installed(module)} changed the parameters of {name}"


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (ModelMixin, ("_gradient_checkpointing_func", "_reset_stateful_cache", "_keep_in_fp32_modules")),
        (WanTransformer3DModel, ("_cp_plan", "_keep_in_fp32_modules", "_skip_layerwise_casting_patterns")),
        (WanTransformer3DModel, ("cache_context", "enable_cache", "gradient_checkpointing")),
        (DiffusionPipeline, ("_execution_device",)),
        (AutoencoderKLWan, ("clear_cache",)),
    ],
)
def test_the_base_classes_have_what_our_subclasses_override_or_call(owner: type, names: tuple[str, ...]) -> None:
    instance = WanTransformer3DModel(num_layers=1, num_attention_heads=1, attention_head_dim=12, ffn_dim=8)
    present = {*dir(owner), *(dir(instance) if issubclass(WanTransformer3DModel, owner) else ())}
    lacking = [name for name in names if name not in present]
    assert not lacking, f"{installed('diffusers')}: {owner.__name__} has no {', '.join(lacking)}"


def test_wan_has_the_parts_that_our_forward_calls(wan: WanTransformer3DModel) -> None:
    children = {name for name, _ in wan.named_children()}
    assert children == {"rope", "patch_embedding", "condition_embedder", "blocks", "norm_out", "proj_out"}
    assert wan.scale_shift_table.shape == (1, 2, 24)
    answers = wan.condition_embedder(torch.tensor([500.0]), torch.zeros(1, 512, 16))
    assert [None if answer is None else answer.shape for answer in answers] == [(1, 24), (1, 144), (1, 512, 24), None]
    assert wan.condition_embedder.image_embedder(torch.zeros(1, 257, 8)).shape == (1, 257, 24)


def test_a_cross_attention_has_the_projections_that_are_kept_or_parked(
    internals: Any, wan: WanTransformer3DModel
) -> None:
    from steadydancer.models.inference.step_memory import CONTEXT_PROJECTIONS

    attention = wan.blocks[0].attn2
    assert isinstance(attention, internals.WanAttention) and isinstance(attention.processor, internals.WanAttnProcessor)
    assert attention.processor._attention_backend is None
    assert not attention.fused_projections and attention.heads == 2
    names = {name for name, _ in attention.named_children()}
    kept = {"to_q", "to_out", "norm_q", "norm_k", "norm_added_k"}
    assert names == kept | {*CONTEXT_PROJECTIONS[:4]}
    attention.fuse_projections()
    assert attention.fused_projections and {*CONTEXT_PROJECTIONS} <= {name for name, _ in attention.named_children()}


def test_attention_is_dispatched_over_batch_token_head_channel(internals: Any) -> None:
    query, key, value = torch.randn(3, 1, 5, 2, 4, generator=torch.Generator().manual_seed(0))
    answer = internals.dispatch_attention_fn(query, key, value, backend=None)
    weights = torch.einsum("bqhc,bkhc->bhqk", query, key).div(2).softmax(-1)
    torch.testing.assert_close(answer, torch.einsum("bhqk,bkhc->bqhc", weights, value))


def test_a_state_manager_keeps_one_state_a_context(internals: Any) -> None:
    manager = internals.StateManager(dict)
    manager.set_context(internals.CacheContext("one"))
    manager.get_state()["seen"] = 1
    assert manager._context.name == "one" and manager.context == manager._context
    manager.set_context(internals.CacheContext("other"))
    assert manager.get_state() == {}
    manager.set_context(None)
    assert manager._context is None


def test_hooks_of_step_caches_are_found_and_reset(internals: Any, wan: WanTransformer3DModel) -> None:
    assert not [*internals.cache_hooks(wan)]
    enable_broadcast(wan)
    hooks = [hook for hook in internals.cache_hooks(wan) if isinstance(hook, internals.SINGLE_STATE_HOOKS)]
    assert hooks and not any(isinstance(hook.state, internals.StateManager) for hook in hooks)
    hooks[0].state.iteration = 7
    internals.reset_step_caches(wan)
    assert hooks[0].state.iteration == 0


def test_a_hook_with_a_state_manager_is_told_the_context(internals: Any, wan: WanTransformer3DModel) -> None:
    """diffusers looks for managers among a hook's attributes; ours are put there (`separate_contexts`)."""
    enable_broadcast(wan)
    hook = next(hook for hook in internals.cache_hooks(wan) if isinstance(hook, internals.SINGLE_STATE_HOOKS))
    hook.state = internals.StateManager(type(hook.state))
    with wan.cache_context("negative_pose"):
        assert hook.state.context.name == "negative_pose"
    assert hook.state._context is None


def test_hooks_of_accelerate_tell_where_weights_wait(internals: Any) -> None:
    layer = nn.Sequential(nn.Linear(2, 3))
    assert {*internals.accelerate_hooks(layer)} == {None}
    accelerate.cpu_offload(layer, torch.device("cpu"))
    hooks = [hook for hook in internals.accelerate_hooks(layer) if getattr(hook, "offload", False)]
    assert hooks and all(hook.execution_device == torch.device("cpu") for hook in hooks)
    kept = hooks[0].weights_map.dataset["0.weight"]
    assert layer[0].weight.is_meta and kept.shape == (3, 2)


def test_group_offload_tells_its_device(internals: Any) -> None:
    layer = nn.Sequential(nn.Linear(2, 3))
    assert internals.group_offload_device(layer) is None
    apply_group_offloading(layer, onload_device=torch.device("cpu"), offload_type="leaf_level")
    assert internals.group_offload_device(layer) == torch.device("cpu")


def test_group_offload_tells_whether_it_moves_blocks_or_layers(internals: Any, wan: WanTransformer3DModel) -> None:
    cpu = torch.device("cpu")
    assert internals.group_offload_unit(wan) is None
    by_layer = copy.deepcopy(wan)
    apply_group_offloading(by_layer, cpu, cpu, "leaf_level")
    assert internals.group_offload_unit(by_layer) == "layer"
    apply_group_offloading(wan, cpu, cpu, "block_level", num_blocks_per_group=2)
    assert internals.group_offload_unit(wan) == "block"


def test_step_caches_are_told_from_other_hooks(internals: Any, wan: WanTransformer3DModel) -> None:
    wan.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert [*internals.cache_hooks(wan)] and not internals.has_step_cache(wan)
    enable_broadcast(wan)
    assert internals.has_step_cache(wan)


def test_a_registered_block_is_known_to_step_caches_by_its_tokens(internals: Any) -> None:
    class Block(nn.Module):
        def forward(self, hidden_states: torch.Tensor, other: int) -> torch.Tensor:
            return hidden_states

    internals.register_block(Block)
    known = internals.TransformerBlockRegistry.get(Block)
    assert (known.return_hidden_states_index, known.return_encoder_hidden_states_index) == (0, None)
    tokens = torch.zeros(1)
    assert known._get_parameter_from_args_kwargs("hidden_states", (tokens, 1)) is tokens


def test_what_is_kept_in_float32_is_what_loading_keeps(
    internals: Any, wan: WanTransformer3DModel, tmp_path: Path
) -> None:
    wan.save_pretrained(tmp_path)
    loaded = WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    kept = {*internals.float32_modules(loaded)}
    assert {name for name, weight in loaded.named_parameters() if weight.dtype == torch.float32} == {
        name for name, _ in loaded.named_parameters() if kept & {*name.split(".")}
    }


def test_nothing_is_initialised_inside_and_all_is_afterwards(internals: Any) -> None:
    uniform = nn.init.uniform_
    with internals.no_init_weights():
        weight = torch.zeros(3)
        nn.init.uniform_(weight)
        assert not weight.any()
    assert nn.init.uniform_ is uniform


def test_the_official_autoencoders_names_are_mapped(internals: Any) -> None:
    reported = {
        "conv1.weight": "quant_conv.weight",
        "conv2.bias": "post_quant_conv.bias",
        "encoder.conv1.weight": "encoder.conv_in.weight",
        "decoder.head.2.weight": "decoder.conv_out.weight",
        "encoder.middle.1.to_qkv.weight": "encoder.mid_block.attentions.0.to_qkv.weight",
    }
    tensors = {name: torch.tensor(float(k)) for k, name in enumerate(reported)}
    mapped = internals.convert_wan_vae_to_diffusers(dict(tensors))
    assert {name: tensor.item() for name, tensor in mapped.items()} == {
        reported[name]: tensor.item() for name, tensor in tensors.items()
    }


def test_an_adapter_is_saved_under_the_names_that_are_written_here_too(
    internals: Any, wan: WanTransformer3DModel, tmp_path: Path
) -> None:
    from steadydancer.models.lora.scale import HEADER_KEY

    assert HEADER_KEY == internals.LORA_ADAPTER_METADATA_KEY
    wan.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=["to_q"]))
    wan.save_lora_adapter(tmp_path)
    with safe_open(tmp_path / internals.LORA_WEIGHT_NAME_SAFE, "pt") as file:
        assert json.loads(file.metadata()[HEADER_KEY])["lora_alpha"] == 3


def test_patterns_match_ends_of_names_and_give_the_name_back_otherwise(internals: Any) -> None:
    patterns = ["attn1.to_q", r"blocks\.1\..*"]
    assert internals.get_pattern_key(patterns, "blocks.0.attn1.to_q") == "attn1.to_q"
    assert internals.get_pattern_key(patterns, "blocks.1.ffn") == r"blocks\.1\..*"
    assert internals.get_pattern_key(patterns, "blocks.0.ffn") == "blocks.0.ffn"


@torch.no_grad()
def test_pieces_decode_to_the_bits_of_the_whole(internals: Any) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    latents = torch.randn(1, 16, 3, 4, 4)
    memory: Any = None
    pieces = []
    for piece in latents.split(1, dim=2):
        sample, memory = internals.decode_chunk(vae, piece, memory)
        pieces.append(sample)
    assert [piece.shape[2] for piece in pieces] == [1, 4, 4]
    assert torch.equal(torch.cat(pieces, dim=2), vae.decode(latents).sample)
    # Nothing of a video is left for the next one.
    assert torch.equal(internals.decode_chunk(vae, latents[:, :, :1], None)[0], pieces[0])
    assert "clear_cache" not in vars(vae)
