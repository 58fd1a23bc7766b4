"""What a mode needs of the machine and of the checkpoint, checked from headers before anything is computed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoints.files import CheckpointError
from .checkpoints.safetensors_header import num_bytes
from .checkpoints.transformer_files import TransformerFile
from .modes import Mode, ModeError, lora_needed

_GB = 1e9


@dataclass(frozen=True)
class Machine:
    """What modes ask of a machine. None: not known, and not checked.

    Attributes:
        device: where rendering computes, "cuda" or "cpu".
        gpu_memory_bytes: of the smallest GPU.
        host_memory_bytes: of the machine or of its container.
        has_gpu: whether there is a GPU that torch can use.
        stores_float8: whether the device converts to float8 and back.
    """

    device: str
    gpu_memory_bytes: int | None = None
    host_memory_bytes: int | None = None
    has_gpu: bool = False
    stores_float8: bool = True


def this_machine(num_gpus: float) -> Machine:
    """Describe this machine for workers with `num_gpus` GPUs each; 0: they compute on the CPU."""
    import torch

    device = "cuda" if num_gpus else "cpu"
    has_gpu = torch.cuda.is_available()
    memories = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return Machine(
        device=device,
        gpu_memory_bytes=min(memories) if has_gpu and memories else None,
        host_memory_bytes=host_memory_bytes(),
        has_gpu=has_gpu,
        stores_float8=_stores_float8(device if has_gpu else "cpu"),
    )


def host_memory_bytes() -> int:
    """Return the memory of this machine, or the limit of its container."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    cgroup = Path("/sys/fs/cgroup/memory.max")
    if cgroup.exists() and (limit := cgroup.read_text().strip()).isdigit():
        limits.append(int(limit))
    return min(limits)


def _stores_float8(device: str) -> bool:
    import torch

    try:
        values = torch.tensor([1.0, -0.5], device=device)
        return bool(torch.equal(values.to(torch.float8_e4m3fn).to(torch.float32), values))
    except (RuntimeError, AttributeError, TypeError):
        return False


def check_machine(mode: Mode, machine: Machine) -> None:
    """Check that a machine can run a mode.

    Raises:
        ModeError: it cannot; one sentence states what is missing and what to do.
    """
    if mode.offloads and machine.device != "cpu" and not machine.has_gpu:
        raise ModeError(
            f"mode {mode.name} loads weights to a GPU block by block, but torch finds no GPU here: render on a machine "
            "with one, or on the CPU with num_gpus 0"
        )
    if mode.storage_dtype is not None and not machine.stores_float8:
        raise ModeError(
            f"mode {mode.name} stores weights in float8, which torch cannot convert on this machine's "
            f"{machine.device}: use exact, or a checkpoint of `convert --quantise int8`"
        )


def check_lora(mode: Mode, distilled_lora: str | None) -> None:
    """Check that a few-step LoRA is given exactly where a mode uses one.

    Raises:
        ModeError: it is missing, or given and not used.
    """
    if mode.needs_distilled_lora and distilled_lora is None:
        raise ModeError(lora_needed(mode))
    if distilled_lora is not None and not mode.needs_distilled_lora:
        raise ModeError(
            f"the few-step LoRA {distilled_lora} is used by mode fast:distilled only, not by {mode.name}: leave out "
            "--distilled-lora (`distilled_lora`), or change the mode"
        )


def check_checkpoint(
    mode: Mode, opened: TransformerFile, machine: Machine, dtype: str, distilled_lora: str | Path | None = None
) -> None:
    """Check that a mode can be applied to a transformer, and that its weights fit into the machine's memory.

    Args:
        mode: from `get_mode`.
        opened: the transformer, from `open_transformer`.
        machine: where it is to run.
        dtype: dtype of rendering, such as "bfloat16".
        distilled_lora: local file of the few-step LoRA.

    Raises:
        ModeError: the network or the memory does not allow it.
        CheckpointError: the LoRA does not fit the transformer.
    """
    num_layers = int(opened.config.get("num_layers", 40))
    if mode.cache_threshold is not None:
        if opened.config.get("pose_fusion") == "adapter":
            raise ModeError(
                f"mode {mode.name} skips blocks, but this network has a pose adapter, which adds the pose after every "
                "block: use exact or low_memory"
            )
        if num_layers < 2:
            raise ModeError(
                f"mode {mode.name} skips all blocks but the first, and this network has {num_layers}: use exact"
            )
    if mode.num_resident_blocks > num_layers:
        raise ModeError(
            f"mode {mode.name} keeps {mode.num_resident_blocks} blocks on the GPU, but this network has {num_layers}: "
            f"use low_memory:BLOCKS with at most {num_layers}"
        )
    if distilled_lora is not None:
        _check_lora_fits(opened, distilled_lora)
    _check_memory(mode, opened, machine, dtype)


def transformer_bytes(mode: Mode, opened: TransformerFile, dtype: str) -> tuple[int, int]:
    """Return the bytes of (all weights of a transformer as a mode stores them, its largest block).

    Args:
        mode: from `get_mode`.
        opened: the transformer.
        dtype: dtype of rendering.
    """
    import torch

    from .checkpoints.quantisation import is_quantisable

    total, by_block = 0, dict[str, int]()
    for name, (stored, shape) in opened.stored().items():
        size = getattr(torch, dtype).itemsize
        if name in opened.scales or (mode.storage_dtype is not None and is_quantisable(name, shape)):
            size = 1
        elif name.startswith("pose_modulation."):
            size = 4
        weight_bytes = num_bytes(shape, stored.dtype) // num_bytes((), stored.dtype) * size
        total += weight_bytes
        if name.startswith("blocks."):
            block = ".".join(name.split(".")[:2])
            by_block[block] = by_block.get(block, 0) + weight_bytes
    return total, max(by_block.values(), default=0)


def _check_memory(mode: Mode, opened: TransformerFile, machine: Machine, dtype: str) -> None:
    """Compare the weights with the memory; what computing needs besides depends on the size and is not counted."""
    total, block = transformer_bytes(mode, opened, dtype)
    num_layers = int(opened.config.get("num_layers", 40))
    swapped = mode.offloads and machine.device != "cpu"
    # A block that computes and the one that is loaded meanwhile.
    on_gpu = total - max(0, num_layers - mode.num_resident_blocks - 2) * block if swapped else total
    needs = [("GPU", machine.gpu_memory_bytes, on_gpu)] if machine.device != "cpu" else []
    needs += [("host", machine.host_memory_bytes, total)] if machine.device == "cpu" or swapped else []
    for where, there, needed in needs:
        if there is not None and needed > there:
            advice = {
                "GPU": "use low_memory" if not mode.offloads else "use a smaller low_memory:BLOCKS",
                "host": "use a machine with more memory, or a checkpoint of `convert --quantise int8`",
            }[where]
            raise ModeError(
                f"mode {mode.name} needs {needed / _GB:.1f} GB of {where} memory for the transformer's weights alone, "
                f"and there are {there / _GB:.1f} GB: {advice}"
            )


def _check_lora_fits(opened: TransformerFile, file: str | Path) -> None:
    from .lora.loading import find_adapter, read_lora
    from .transformer_loading import empty_transformer

    network: Any = empty_transformer(opened.kind, opened.config)
    try:
        read_lora(network, find_adapter(Path(file)))
    except CheckpointError as error:
        raise CheckpointError(f"the few-step LoRA cannot be used: {error}") from error
