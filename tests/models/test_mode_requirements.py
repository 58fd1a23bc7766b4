"""A mode that a machine or a checkpoint cannot run is refused in one sentence, from headers alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from steadydancer.models.checkpoints.files import CheckpointError
from steadydancer.models.checkpoints.transformer_files import TransformerFile
from steadydancer.models.conversion.convert import convert
from steadydancer.models.mode_requirements import (
    Machine,
    check_checkpoint,
    check_lora,
    check_machine,
    this_machine,
    transformer_bytes,
)
from steadydancer.models.modes import ModeError, get_mode
from steadydancer.models.transformer_loading import open_transformer

CPU, GPU = Machine("cpu"), Machine("cuda", has_gpu=True)


@pytest.fixture
def opened(tmp_path: Path, tiny_model: Callable[..., Any]) -> Callable[..., TransformerFile]:
    """`opened(**changes)`: the headers of a tiny network."""

    def make(**changes: Any) -> TransformerFile:
        tiny_model(**changes).save_pretrained(tmp_path / "transformer")
        return open_transformer(tmp_path / "transformer")

    return make


def test_offload_needs_a_gpu_only_where_a_gpu_is_asked_for() -> None:
    with pytest.raises(ModeError, match="torch finds no GPU here: .* num_gpus 0"):
        check_machine(get_mode("low_memory"), Machine("cuda", has_gpu=False))
    for mode, machine in (("low_memory", CPU), ("low_memory", GPU), ("exact", Machine("cuda")), ("fast", CPU)):
        check_machine(get_mode(mode), machine)


def test_float8_needs_a_device_that_converts_it() -> None:
    machine = Machine("cuda", has_gpu=True, stores_float8=False)
    with pytest.raises(ModeError, match=r"stores weights in float8, which torch cannot convert on this machine's cuda"):
        check_machine(get_mode("low_memory"), machine)
    check_machine(get_mode("exact"), machine)


def test_a_lora_is_given_exactly_where_it_is_used() -> None:
    with pytest.raises(ModeError, match="mode fast:distilled needs a few-step LoRA"):
        check_lora(get_mode("fast:distilled"), None)
    with pytest.raises(ModeError, match="few.safetensors is used by mode fast:distilled only, not by fast:"):
        check_lora(get_mode("fast"), "few.safetensors")
    check_lora(get_mode("fast:distilled"), "few.safetensors")
    check_lora(get_mode("exact"), None)


def test_a_network_whose_blocks_cannot_be_skipped_or_kept(opened: Callable[..., TransformerFile]) -> None:
    adapter = opened(pose_fusion="adapter")
    with pytest.raises(ModeError, match="this network has a pose adapter"):
        check_checkpoint(get_mode("fast"), adapter, CPU, "bfloat16")
    check_checkpoint(get_mode("low_memory"), adapter, CPU, "bfloat16")
    one = opened(num_layers=1)
    with pytest.raises(ModeError, match="this network has 1"):
        check_checkpoint(get_mode("fast:0.3"), one, CPU, "bfloat16")
    with pytest.raises(ModeError, match="keeps 2 blocks on the GPU, but this network has 1"):
        check_checkpoint(get_mode("low_memory:2"), one, GPU, "bfloat16")
    for mode in ("exact", "low_memory", "low_memory:1"):
        check_checkpoint(get_mode(mode), one, GPU, "bfloat16")


def test_bytes_are_those_of_the_network_in_memory(tmp_path: Path, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "ours" / "transformer")
    headers = open_transformer(tmp_path / "ours" / "transformer")
    total, block = transformer_bytes(get_mode("exact"), headers, "float32")
    assert total == sum(4 * weight.numel() for weight in model.parameters())
    assert block == sum(4 * weight.numel() for weight in model.blocks[0].parameters())
    quantisable = sum(layer.weight.numel() for layer in model.blocks.modules() if isinstance(layer, torch.nn.Linear))
    assert transformer_bytes(get_mode("low_memory"), headers, "float32")[0] == total - 3 * quantisable
    convert(tmp_path / "ours", tmp_path / "int8", kind="int8")
    quantised = open_transformer(tmp_path / "int8" / "transformer")
    assert transformer_bytes(get_mode("exact"), quantised, "float32")[0] == total - 3 * quantisable


def test_weights_must_fit_into_the_memory(opened: Callable[..., TransformerFile]) -> None:
    headers = opened(num_layers=6)

    def check(mode: str, gpu: int | None = None, host: int | None = None, device: str = "cuda") -> None:
        machine = Machine(device, gpu_memory_bytes=gpu, host_memory_bytes=host, has_gpu=True)
        check_checkpoint(get_mode(mode), headers, machine, "float32")

    total, _ = transformer_bytes(get_mode("exact"), headers, "float32")
    check("exact", gpu=total)
    check("exact", gpu=total, host=0)  # weights pass through host memory one by one
    with pytest.raises(ModeError, match="mode exact needs .* GB of GPU memory .*: use low_memory"):
        check("exact", gpu=total - 1)
    stored, block = transformer_bytes(get_mode("low_memory"), headers, "float32")
    check("low_memory", gpu=stored - 4 * block, host=stored)  # two of six blocks are there at a time
    with pytest.raises(ModeError, match="needs .* GB of GPU memory"):
        check("low_memory", gpu=stored - 4 * block - 1, host=stored)
    with pytest.raises(ModeError, match="use a smaller low_memory:BLOCKS"):
        check("low_memory:1", gpu=stored - 4 * block, host=stored)
    with pytest.raises(ModeError, match="GB of host memory"):
        check("low_memory", gpu=stored, host=stored - 1)
    with pytest.raises(ModeError, match="GB of host memory"):
        check("exact", host=total - 1, device="cpu")
    check("low_memory", gpu=0, host=stored, device="cpu")


def test_a_lora_of_another_network_is_refused_before_loading(
    tmp_path: Path, opened: Callable[..., TransformerFile]
) -> None:
    headers, mode = opened(), get_mode("fast:distilled")
    for width, fits in ((24, True), (32, False)):
        pair = {"lora_down.weight": torch.ones(4, width), "lora_up.weight": torch.ones(width, 4)}
        file = tmp_path / f"{width}.safetensors"
        save_file({f"diffusion_model.blocks.0.self_attn.q.{name}": tensor for name, tensor in pair.items()}, file)
        if fits:
            check_checkpoint(mode, headers, CPU, "bfloat16", file)
            continue
        with pytest.raises(CheckpointError, match="the few-step LoRA cannot be used: .*32.safetensors is not a LoRA"):
            check_checkpoint(mode, headers, CPU, "bfloat16", file)


def test_this_machine_is_described() -> None:
    machine = this_machine(0)
    assert machine.device == "cpu" and machine.stores_float8  # torch converts float8 on every CPU
    assert machine.host_memory_bytes is not None and machine.host_memory_bytes > 1e9
    assert this_machine(0.5).device == "cuda"
    assert machine.has_gpu == torch.cuda.is_available() == (machine.gpu_memory_bytes is not None)
