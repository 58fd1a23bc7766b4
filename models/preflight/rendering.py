"""Forecast the GPU memory of rendering from the sizes of networks and video, in seconds and without a GPU.

Every phase (text, image, encoding, denoising, decoding) is counted on the meta device with one transformer block, and
continued to all blocks. `traces` runs the same phases whole, with fake CUDA tensors; tests hold the two together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import torch

from ..inference.branch_evaluation import BranchEvaluation, BranchInputs
from ..inference.live_bytes import FusedAttention, LiveBytes
from ..inference.step_memory import CONTEXT_PROJECTIONS, share_memory
from ..transformer import SteadyDancerTransformer3DModel
from .encoders import (
    decoding_working_bytes,
    encoder_bytes,
    encoding_working_bytes,
    image_working_bytes,
    layer_bytes,
    text_working_bytes,
)
from .inputs import branch_inputs
from .networks import empty_network, weight_bytes
from .sizes import Clip, Sizes

Component = Literal["text_encoder", "image_encoder", "vae", "transformer"]
COMPONENTS: tuple[Component, ...] = ("text_encoder", "image_encoder", "vae", "transformer")
_MAX_BRANCHES = 3


@dataclass(frozen=True)
class Savings:
    """What a mode keeps off the GPU, or stores smaller.

    Attributes:
        parked_projections: the context's key and value projections are on the CPU (`park_context_projections`).
        storage_dtype: dtype in which diffusers' layerwise casting stores the blocks' weights; None: the compute dtype.
        blocks_on_gpu: blocks that are on the GPU at a time under group offload or block swap, those in transfer
            included; None: all.
        branch_evaluation: how the guidance branches of a step are evaluated.
        num_branches: guidance branches that this GPU evaluates, at most three.
        keeps_keys_values: whether the context's keys and values are kept between steps.
        layerwise: components whose weights are loaded layer by layer when they are used.
        tiled: the autoencoder encodes and decodes in tiles.
        resident: components whose weights are on the GPU all the time.
    """

    parked_projections: bool = False
    storage_dtype: torch.dtype | None = None
    blocks_on_gpu: int | None = None
    branch_evaluation: BranchEvaluation = "interleaved"
    num_branches: int = _MAX_BRANCHES
    keeps_keys_values: bool = True
    layerwise: Sequence[Component] = ()
    tiled: bool = False
    resident: Sequence[Component] = COMPONENTS


def rendering_memory(
    sizes: Sizes, clip: Clip, dtype: torch.dtype = torch.bfloat16, savings: Savings | None = None
) -> dict[str, int]:
    """Compute the peak bytes of one GPU in every phase of rendering one video, or one window of a longer one.

    Memory of kernels, of the CUDA context and of fragmentation is not included.

    Returns:
        Bytes: of the weights of each component; of each phase (`encode_text`, `encode_image`, `encode_video`,
        `denoise`, `decode_video`) with the weights that are resident or that it uses; `total`, the largest of them.
    """
    savings = savings or Savings()
    weights = component_bytes(sizes, dtype, savings)
    phases: dict[str, tuple[Component, int]] = {
        "encode_text": ("text_encoder", text_working_bytes(sizes, dtype)),
        "encode_image": ("image_encoder", image_working_bytes(sizes, dtype)),
        "encode_video": ("vae", encoding_working_bytes(sizes, clip, savings.tiled)),
        "denoise": ("transformer", denoising_working_bytes(sizes, clip, dtype, savings)),
        "decode_video": ("vae", decoding_working_bytes(sizes, clip, savings.tiled)),
    }
    peaks = {}
    for phase, (component, working) in phases.items():
        here = {*savings.resident, component}
        peaks[phase] = working + sum(weights[name] for name in here)
    named = {f"{name}_weights": weights[name] for name in COMPONENTS}
    return {**named, **peaks, "total": max(peaks.values())}


def component_bytes(sizes: Sizes, dtype: torch.dtype, savings: Savings) -> dict[Component, int]:
    """Compute the bytes of each component's weights on the GPU."""
    text, image, vae = encoder_bytes(sizes, dtype)
    text_layers, image_layers = layer_bytes(sizes, dtype)
    fixed, parked, stored, cast = _transformer_bytes(sizes.transformer_json, dtype, savings.storage_dtype)
    num_layers = int(json.loads(sizes.transformer_json)["num_layers"])
    kept = stored - (parked if savings.parked_projections else 0)
    here = num_layers if savings.blocks_on_gpu is None else min(savings.blocks_on_gpu, num_layers)
    return {
        "text_encoder": text_layers if "text_encoder" in savings.layerwise else text,
        "image_encoder": image_layers if "image_encoder" in savings.layerwise else image,
        "vae": vae,
        "transformer": fixed + here * kept + cast,
    }


def denoising_working_bytes(sizes: Sizes, clip: Clip, dtype: torch.dtype, savings: Savings) -> int:
    """Compute the bytes of a sampling loop beside the weights: one forward pass, keys and values, conditions."""
    # Interleaved are the two branches with the same pose, or all where blocks are loaded for a step.
    together = 2 if savings.blocks_on_gpu is None else _MAX_BRANCHES
    at_once = {"sequential": 1, "interleaved": together, "batched": _MAX_BRANCHES}[savings.branch_evaluation]
    evaluated = min(at_once, savings.num_branches)
    activations, keys_values = _forward_bytes(
        sizes.transformer_json, clip, dtype, evaluated, savings.branch_evaluation == "batched"
    )
    num_layers = int(json.loads(sizes.transformer_json)["num_layers"])
    # The prompt and the negative prompt; the negative pose has the prompt's. Those of one block are in the forward.
    contexts = min(savings.num_branches, 2)
    more_keys_values = contexts * num_layers - min(evaluated, 2) if savings.keeps_keys_values else 0
    frames, height, width = clip.latent_grid
    latents = frames * height * width * 4
    # Image latents with mask, two pose clips, the latents; per branch a velocity; the solver's two predictions, its
    # last sample and what a step makes.
    kept = (20 + 2 * 16 + 16 + _MAX_BRANCHES * 16 + 5 * 16) * latents
    parked = _transformer_bytes(sizes.transformer_json, dtype, savings.storage_dtype)[1]
    fetched = parked if savings.parked_projections else 0
    return activations + more_keys_values * keys_values + kept + fetched


@lru_cache(maxsize=64)
def _transformer_bytes(
    arguments_json: str, dtype: torch.dtype, storage_dtype: torch.dtype | None
) -> tuple[int, int, int, int]:
    """Count the bytes outside of the blocks, of a block's context projections, of a block, and of a layer when cast."""
    model = _one_block(arguments_json, dtype)
    block = model.blocks[0]
    cast = 0
    if storage_dtype is not None:
        model.enable_layerwise_casting(storage_dtype=storage_dtype, compute_dtype=dtype)
        stored_so = [each.numel() for each in block.parameters() if each.dtype is storage_dtype]
        cast = max(stored_so, default=0) * dtype.itemsize  # one layer at a time, beside its stored weights
    stored, fixed = weight_bytes(block), weight_bytes(model) - weight_bytes(block)
    named = (getattr(block.attn2, name, None) for name in CONTEXT_PROJECTIONS)
    parked = sum(weight_bytes(projection) for projection in named if projection is not None)
    return fixed, parked, stored, cast


@lru_cache(maxsize=64)
def _forward_bytes(
    arguments_json: str, clip: Clip, dtype: torch.dtype, num_branches: int, batched: bool
) -> tuple[int, int]:
    """Count the peak bytes of a forward pass with one block and a new step memory, and a block's keys and values."""
    model, grid = _one_block(arguments_json, dtype), clip.latent_grid
    make = partial(torch.empty, device="meta")
    branches = branch_inputs(make, grid, model.config.image_dim, model.config.text_dim, dtype=dtype)
    memories = share_memory(branches)
    names = [*branches][:num_branches]
    conditions = [branches[name] for name in names]
    inputs = BranchInputs(conditions, [memories[name] for name in names], batched)
    noise, timestep = torch.empty(1, 16, *grid, device="meta"), torch.full((1,), 500, device="meta")
    arguments = conditions[0].model_arguments()
    with torch.device("meta"), torch.no_grad(), FusedAttention(), LiveBytes() as live:
        model(noise, timestep, **arguments, branches=inputs, return_dict=False)
    (context,) = memories[names[0]].context["blocks"]
    return live.peak, sum(tensor.nbytes for pair in context.keys_values or () for tensor in pair)


def _one_block(arguments_json: str, dtype: torch.dtype) -> Any:
    arguments = {**json.loads(arguments_json), "num_layers": 1}
    return empty_network(lambda: SteadyDancerTransformer3DModel(**arguments), dtype, "meta")
