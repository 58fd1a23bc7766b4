"""Forecast the GPU memory of rendering from the sizes of networks and video, in seconds and without a GPU.

Every phase (text, image, encoding, denoising, decoding) is counted on the meta device with one transformer block, and
continued to all blocks. `traces` runs the same phases whole, with fake CUDA tensors; tests hold the two together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from diffusers import AutoencoderKLWan

from ..condition_reconciliation import TEXT_LENGTH
from ..encoders import decode_chunks
from ..image_encoder import OpenCLIPImageEncoder
from ..inference.encoder_memory import encoding_bytes
from ..inference.live_bytes import FusedAttention, LiveBytes
from ..inference.step_memory import CONTEXT_PROJECTIONS, StepMemory
from ..transformer import SteadyDancerTransformer3DModel
from .networks import empty_network, weight_bytes
from .sizes import Clip, Sizes

Component = Literal["text_encoder", "image_encoder", "vae", "transformer"]
COMPONENTS: tuple[Component, ...] = ("text_encoder", "image_encoder", "vae", "transformer")
_NUM_CONTEXTS = 2  # the prompt and the negative prompt; the negative pose has the prompt's
_MAX_BRANCHES = 3
_COUNTED_FRAMES = 9  # the autoencoder takes 1, then 4 at a time: its peak is reached in the second group
_DECODED_AT_ONCE = 4  # latent frames, as in `decode_chunks`


@dataclass(frozen=True)
class Savings:
    """What a mode keeps off the GPU, or stores smaller.

    Attributes:
        parked_projections: the context's key and value projections are on the CPU (`park_context_projections`).
        storage_dtype: dtype in which diffusers' layerwise casting stores the blocks' weights; None: the compute dtype.
        blocks_on_gpu: blocks that are on the GPU at a time under group offload or block swap, those in transfer
            included; None: all.
        batched_branches: guidance branches that are evaluated in one batch; 1: one after the other.
        resident: components whose weights are on the GPU all the time.
    """

    parked_projections: bool = False
    storage_dtype: torch.dtype | None = None
    blocks_on_gpu: int | None = None
    batched_branches: int = 1
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
        "encode_text": ("text_encoder", _text_working_bytes(sizes, dtype)),
        "encode_image": ("image_encoder", _image_working_bytes(sizes, dtype)),
        "encode_video": ("vae", _encoding_working_bytes(sizes, clip)),
        "denoise": ("transformer", denoising_working_bytes(sizes, clip, dtype, savings)),
        "decode_video": ("vae", _decoding_working_bytes(sizes, clip)),
    }
    peaks = {}
    for phase, (component, working) in phases.items():
        here = {*savings.resident, component}
        peaks[phase] = working + sum(weights[name] for name in here)
    named = {f"{name}_weights": weights[name] for name in COMPONENTS}
    return {**named, **peaks, "total": max(peaks.values())}


def component_bytes(sizes: Sizes, dtype: torch.dtype, savings: Savings) -> dict[Component, int]:
    """Compute the bytes of each component's weights on the GPU."""
    text, image, vae = _encoder_bytes(sizes, dtype)
    fixed, block, parked, stored = _transformer_bytes(sizes.transformer_json, dtype, savings.storage_dtype)
    num_layers = int(json.loads(sizes.transformer_json)["num_layers"])
    kept = stored - (parked if savings.parked_projections else 0)
    here = num_layers if savings.blocks_on_gpu is None else min(savings.blocks_on_gpu, num_layers)
    return {
        "text_encoder": text,
        "image_encoder": image,
        "vae": vae,
        "transformer": fixed + here * kept + (block - stored if stored != block else 0),
    }


@lru_cache(maxsize=64)
def _encoder_bytes(sizes: Sizes, dtype: torch.dtype) -> tuple[int, int, int]:
    encoders = _text_encoder(sizes, dtype), _image_encoder(sizes, dtype), _vae(sizes)
    text, image, vae = map(weight_bytes, encoders)
    return text, image, vae


def denoising_working_bytes(sizes: Sizes, clip: Clip, dtype: torch.dtype, savings: Savings) -> int:
    """Compute the bytes of a sampling loop beside the weights: one forward pass, keys and values, conditions."""
    activations, keys_values = _forward_bytes(sizes.transformer_json, clip, dtype, savings.batched_branches)
    num_layers = int(json.loads(sizes.transformer_json)["num_layers"])
    frames, height, width = clip.latent_grid
    latents = frames * height * width * 4
    # Image latents with mask, two pose clips, the latents; per branch a velocity; the solver's two predictions, its
    # last sample and what a step makes.
    kept = (20 + 2 * 16 + 16 + _MAX_BRANCHES * 16 + 5 * 16) * latents
    parked = _transformer_bytes(sizes.transformer_json, dtype, savings.storage_dtype)[2]
    fetched = parked if savings.parked_projections else 0
    return activations + (_NUM_CONTEXTS * num_layers - savings.batched_branches) * keys_values + kept + fetched


@lru_cache(maxsize=64)
def _transformer_bytes(
    arguments_json: str, dtype: torch.dtype, storage_dtype: torch.dtype | None
) -> tuple[int, int, int, int]:
    """Count the bytes outside of the blocks, of a block, of its context projections, and of a block as stored."""
    model = _one_block(arguments_json, dtype)
    block = model.blocks[0]
    computed = weight_bytes(block)
    if storage_dtype is not None:
        model.enable_layerwise_casting(storage_dtype=storage_dtype, compute_dtype=dtype)
    stored, fixed = weight_bytes(block), weight_bytes(model) - weight_bytes(block)
    named = (getattr(block.attn2, name, None) for name in CONTEXT_PROJECTIONS)
    parked = sum(weight_bytes(projection) for projection in named if projection is not None)
    return fixed, computed, parked, stored


@lru_cache(maxsize=64)
def _forward_bytes(arguments_json: str, clip: Clip, dtype: torch.dtype, batch_size: int) -> tuple[int, int]:
    """Count the peak bytes of a forward pass with one block and a new step memory, and a block's keys and values."""
    model, grid = _one_block(arguments_json, dtype), clip.latent_grid
    config, memory = model.config, StepMemory()

    def empty(*shape: int, its: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(batch_size, *shape, dtype=its, device="meta")

    image = empty(257, config.image_dim)
    given = {
        "encoder_hidden_states": empty(TEXT_LENGTH, config.text_dim, its=dtype),
        "encoder_hidden_states_image": image,
        "encoder_hidden_states_pose_image": image,
        "image_latents": empty(20, *grid),
        "pose_latents": empty(16, *grid),
    }
    noise, timestep = empty(16, *grid), torch.full((batch_size,), 500, device="meta")
    with torch.device("meta"), torch.no_grad(), FusedAttention(), LiveBytes() as live:
        model(noise, timestep, **given, step_memory=memory, return_dict=False)
    (context,) = memory.context["blocks"]
    return live.peak, sum(tensor.nbytes for pair in context.keys_values or () for tensor in pair) // batch_size


def _one_block(arguments_json: str, dtype: torch.dtype) -> Any:
    arguments = {**json.loads(arguments_json), "num_layers": 1}
    return empty_network(lambda: SteadyDancerTransformer3DModel(**arguments), dtype, "meta")


def _text_encoder(sizes: Sizes, dtype: torch.dtype) -> Any:
    # transformers keeps some weights in float32 beside float16 ones only.
    return empty_network(sizes.make_text_encoder, dtype, "meta", keep_float32=dtype is torch.float16)


def _image_encoder(sizes: Sizes, dtype: torch.dtype) -> Any:
    return empty_network(lambda: OpenCLIPImageEncoder(**sizes.image_encoder), dtype, "meta")


def _vae(sizes: Sizes) -> Any:
    return empty_network(lambda: AutoencoderKLWan(**sizes.vae), torch.float32, "meta")


@lru_cache(maxsize=64)
def _text_working_bytes(sizes: Sizes, dtype: torch.dtype, num_prompts: int = 2) -> int:
    one_layer = Sizes(text_encoder={**sizes.text_encoder, "num_layers": 1})
    model = _text_encoder(one_layer, dtype)
    ids = torch.zeros(num_prompts, sizes.text_tokens, dtype=torch.int64, device="meta")
    with torch.device("meta"), torch.no_grad(), FusedAttention(), LiveBytes() as live:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return live.peak


@lru_cache(maxsize=64)
def _image_working_bytes(sizes: Sizes, dtype: torch.dtype) -> int:
    model = _image_encoder(sizes, dtype)
    side = model.config.image_size
    with torch.device("meta"), torch.no_grad(), FusedAttention(), LiveBytes() as live:
        model(torch.empty(1, 3, side, side, dtype=dtype))
    return live.peak


@lru_cache(maxsize=64)
def _encoding_working_bytes(sizes: Sizes, clip: Clip) -> int:
    counted = min(clip.num_frames, _COUNTED_FRAMES)
    least = encoding_bytes(counted, clip.height, clip.width, sizes.vae) - _encoder_bytes(sizes, torch.float32)[2]
    return least + (clip.num_frames - counted) * 3 * clip.height * clip.width * 4


@lru_cache(maxsize=64)
def _decoding_working_bytes(sizes: Sizes, clip: Clip) -> int:
    frames, height, width = clip.latent_grid
    vae, latents = _vae(sizes), torch.empty(16, min(frames, 2 * _DECODED_AT_ONCE), height, width, device="meta")
    with torch.device("meta"), torch.no_grad(), FusedAttention(), LiveBytes() as live:
        for _ in decode_chunks(vae, latents):
            pass
    return live.peak
