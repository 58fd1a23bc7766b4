"""Memory of the GPU that renders, forecast before anything is loaded."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...datasets.storage import is_address
from ..common.components import parts_are_local
from .config import RenderConfig

if TYPE_CHECKING:
    from ...models.preflight.rendering import Component
    from ...models.preflight.sizes import Clip, Sizes

_GB = 1e9
_NETWORKS = ("transformer", "text_encoder", "image_encoder", "vae")
_SIDE_PX = 16  # sides of a video are multiples of it


def gpu_memory(config: RenderConfig, checkpoint: str, components: str) -> dict[str, Any] | None:
    """Compute the peak bytes of a rendering GPU for a video of the largest size; None on a CPU.

    Args:
        config: the job's settings.
        checkpoint: folder of the transformer.
        components: folder of the encoders and the autoencoder. What is not on this machine is taken for Wan 2.1 14B.

    Returns:
        `bytes` by worker, and their `total` on one GPU; `gpu_bytes`, the memory of this machine's GPU, None without
        one; `refusal`, a sentence if that is too little, else None; `sizes_assumed`, networks taken for Wan's.
    """
    if not config.num_gpus:
        return None
    import torch

    sizes, assumed = _sizes(checkpoint, components)
    needed = worker_bytes(config, sizes)
    available = int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None
    refusal = None if available is None else too_little(needed, available, config)
    return {"bytes": needed, "gpu_bytes": available, "refusal": refusal, "sizes_assumed": assumed}


def worker_bytes(config: RenderConfig, sizes: Sizes) -> dict[str, int]:
    """Compute the peak bytes of each kind of worker on a GPU, and their `total`.

    Up to one GPU, the workers for encoding, denoising and writing are processes that share it, with an autoencoder in
    two of them, and may reach their peaks at the same time. With more, or if the mode offloads, one worker does all
    three in turn. Of several processes that sample a video, the first is counted, which has the most.
    """
    import torch

    from ...models.mode_parts import ENCODERS
    from ...models.preflight.rendering import Savings, rendering_memory

    dtype, clip, mode = getattr(torch, config.dtype), largest_clip(config), config.rendering_mode
    num_branches = 1 + (config.guidance_scale != 1) + (config.pose_guidance_scale != 0)
    of_each = config.num_processes if config.parallel == "guidance" else 1
    layerwise = ENCODERS if mode.offloads else ()

    def phases(*resident: Component) -> dict[str, int]:
        savings = Savings(
            parked_projections=config.park_context_projections,
            storage_dtype=mode.storage_dtype and getattr(torch, mode.storage_dtype),
            # A block that computes, and the one that is loaded meanwhile.
            blocks_on_gpu=mode.num_resident_blocks + 2 if mode.offloads else None,
            # A step cache decides for one branch after another.
            branch_evaluation=config.branch_evaluation if mode.cache_threshold is None else "sequential",
            num_branches=ceil(num_branches / of_each),
            keeps_keys_values=not mode.offloads,
            layerwise=layerwise,
            tiled=mode.tiles_autoencoder,
            resident=tuple(name for name in resident if name not in layerwise),
        )
        return rendering_memory(sizes, clip, dtype, savings)

    sets = max(int(1 / config.num_gpus), 1)  # with half a GPU, two workers of each kind share it
    if config.works_in_turn:
        total = phases("text_encoder", "image_encoder", "vae", "transformer")["total"]
        return {"render": total, "total": sets * total}
    encoding = phases("text_encoder", "image_encoder", "vae")
    workers = {
        "encode": max(encoding[phase] for phase in ("encode_text", "encode_image", "encode_video")),
        "denoise": phases("transformer")["denoise"],
        "write": phases("vae")["decode_video"],
    }
    return {**workers, "total": sets * sum(workers.values())}


def missing_gpus(config: RenderConfig) -> str | None:
    """Return one sentence if this machine has fewer GPUs than one worker needs."""
    if not config.num_gpus:
        return None
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.gpus_per_worker <= there:
        return None
    wanted = f"{config.num_processes} processes with a GPU each" if config.parallel else f"{config.num_gpus:g} GPU"
    return (
        f"num_gpus: rendering asks for {wanted}, but this machine has {there or 'none'} that torch can use: ask for "
        "fewer, pass --address of a cluster that has them, or set num_gpus to 0 in the preset's render to use the CPU"
    )


def too_little(needed: dict[str, int], available: int, config: RenderConfig) -> str | None:
    """Return one sentence if the GPU is too small: what is needed, for which workers, and what would help."""
    if needed["total"] <= available:
        return None
    workers = ", ".join(f"{name} {size / _GB:.1f}" for name, size in needed.items() if name != "total")
    ways = [] if config.park_context_projections else ["park_context_projections"]
    ways += [] if config.rendering_mode.offloads else ["mode low_memory"]
    return (
        f"gpu_memory: rendering needs {needed['total'] / _GB:.1f} GB of GPU memory ({workers}), but the GPU has "
        f"{available / _GB:.1f} GB: try {', '.join([*ways, 'a smaller max_area_px', 'fewer window_frames'])}"
    )


def largest_clip(config: RenderConfig) -> Clip:
    """Return the size of a window: memory does not depend on how its area is split into height and width."""
    from ...models.preflight.sizes import Clip

    frames = min(config.num_frames or config.window_frames, config.window_frames)
    height = int(config.max_area_px**0.5) // _SIDE_PX * _SIDE_PX
    width = config.max_area_px // height // _SIDE_PX * _SIDE_PX
    return Clip(frames, height, width)


def _sizes(checkpoint: str, components: str) -> tuple[Sizes, list[str]]:
    """Read the sizes of the networks from their configurations; return also the names of those that were assumed."""
    from ...models.checkpoints import folders
    from ...models.checkpoints.transformer_files import transformer_config
    from ...models.preflight.sizes import Sizes

    known: dict[str, dict[str, Any]] = {}
    if not is_address(checkpoint):
        path = Path(checkpoint)
        known["transformer"] = _own(transformer_config(folders.part_path(path, "transformer") or path))
    folder = folders.resolve_folder(components) if parts_are_local(components) else None
    for name in _NETWORKS[1:]:
        part = folder and folders.part_path(folder, name)
        if part and (part / "config.json").is_file():
            known[name] = _own(json.loads((part / "config.json").read_text()))
    assumed = [name for name in _NETWORKS if name not in known]
    empty: dict[str, Any] = {}
    transformer, text, image, vae = (known.get(name, empty) for name in _NETWORKS)
    return Sizes(transformer, text, image, vae), assumed


def _own(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}
