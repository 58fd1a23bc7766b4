"""Trace every part of rendering with fake CUDA tensors: the peak of each, and that no device or dtype is wrong.

What the parts compute is this package's own code; only networks and inputs are fake. See `fake_gpu` for what cannot be
traced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from ..conditions import Conditions
from ..encoders import decode_chunks, encode_image, encode_image_condition, encode_video
from ..guidance import Branch, branch_velocity
from ..image_encoder import OpenCLIPImageEncoder
from ..inference.branch_evaluation import BranchEvaluation
from ..inference.step_memory import park_context_projections
from ..sampling import denoise
from ..transformer import SteadyDancerTransformer3DModel
from .fake_gpu import CUDA, FakeGpu, fake_gpu
from .inputs import branch_inputs
from .sizes import Clip, Sizes

_NUM_STEPS = 3  # the solver keeps its last two predictions: more steps keep no more


def trace_text_encoder(sizes: Sizes, dtype: torch.dtype = torch.bfloat16, num_prompts: int = 2) -> int:
    """Return the peak bytes of encoding prompts of the maximum length, with the text encoder's weights."""
    with _traced() as gpu:
        model = gpu.network(sizes.make_text_encoder, dtype, keep_float32=dtype is torch.float16)
        shape = (num_prompts, sizes.text_tokens)
        ids, mask = (torch.empty(shape, dtype=torch.int64, device=CUDA) for _ in range(2))
        embeds = model(input_ids=ids, attention_mask=mask).last_hidden_state
        _require(embeds, (*shape, sizes.text_encoder["d_model"]), dtype)
        return gpu.peak_bytes


def trace_image_encoder(sizes: Sizes, dtype: torch.dtype = torch.bfloat16) -> int:
    """Return the peak bytes of encoding an image with CLIP, with its weights."""
    with _traced() as gpu:
        model = gpu.network(lambda: OpenCLIPImageEncoder(**sizes.image_encoder), dtype)
        tokens = encode_image(model, np.zeros((64, 64, 3), np.uint8))
        _require(tokens, (sizes.image_tokens, model.config.width), torch.float32)
        return gpu.peak_bytes


def trace_encoding(sizes: Sizes, clip: Clip, *, tiled: bool = False) -> int:
    """Return the peak bytes of encoding the pose clip and the image condition, with the autoencoder's weights."""
    with _traced() as gpu:
        vae = _vae(gpu, sizes, tiled)
        frames = np.zeros((clip.num_frames, clip.height, clip.width, 3), np.uint8)
        latents = encode_video(vae, frames), encode_image_condition(vae, frames[0], clip.num_frames)
        for each in latents:
            _require(each, (16, *clip.latent_grid), torch.float32)
        return gpu.peak_bytes


def trace_decoding(sizes: Sizes, clip: Clip, *, tiled: bool = False) -> int:
    """Return the peak bytes of decoding a video in chunks that leave the GPU, with the autoencoder's weights."""
    with _traced() as gpu:
        vae = _vae(gpu, sizes, tiled)
        num_frames = 0
        for pixels in decode_chunks(vae, gpu.normal(16, *clip.latent_grid)):
            _require(pixels, (3, pixels.shape[1], clip.height, clip.width), torch.float32)
            num_frames += pixels.shape[1]
        if num_frames != clip.num_frames:
            raise AssertionError(f"{num_frames} frames were decoded, not {clip.num_frames}")
        return gpu.peak_bytes


def trace_forward(sizes: Sizes, clip: Clip, dtype: torch.dtype = torch.bfloat16) -> int:
    """Return the peak bytes of one forward pass of the transformer without a step memory, with its weights."""
    with _traced() as gpu:
        model = _transformer(gpu, sizes, dtype)
        timestep = torch.full((1,), 500, device=CUDA)
        arguments = _branches(gpu, sizes, clip, dtype)["conditional"].model_arguments()
        out = model(gpu.normal(1, 16, *clip.latent_grid), timestep, **arguments, return_dict=False)[0]
        _require(out, (1, 16, *clip.latent_grid), dtype)
        return gpu.peak_bytes


def trace_denoising(
    sizes: Sizes,
    clip: Clip,
    dtype: torch.dtype = torch.bfloat16,
    *,
    parked: bool = False,
    branch_evaluation: BranchEvaluation = "interleaved",
    keeps_keys_values: bool = True,
) -> int:
    """Return the peak bytes of a sampling loop with all three branches and the step memory, with the weights.

    Args:
        sizes: of the networks.
        clip: of the video.
        dtype: of the transformer.
        parked: keep the context's key and value projections on the CPU, see `park_context_projections`.
        branch_evaluation: how the branches of a step are evaluated.
        keeps_keys_values: keep the context's keys and values between steps.
    """
    with _traced() as gpu:
        model = _transformer(gpu, sizes, dtype)
        model.keeps_keys_and_values = keeps_keys_values
        if parked:
            park_context_projections(model, "cpu")
            gpu.reset_peak()  # the whole network was there while it was loaded
        grid = (1, 16, *clip.latent_grid)
        branches = _branches(gpu, sizes, clip, dtype)
        video = denoise(
            branch_velocity(model, branches, branch_evaluation=branch_evaluation),
            gpu.normal(*grid),
            num_inference_steps=_NUM_STEPS,
            pose_guidance_interval=(0.1, 0.9),
        )
        _require(video, grid, torch.float32)
        return gpu.peak_bytes


def _branches(gpu: FakeGpu, sizes: Sizes, clip: Clip, dtype: torch.dtype) -> dict[Branch, Conditions]:
    return branch_inputs(
        gpu.normal,
        clip.latent_grid,
        sizes.transformer["image_dim"],
        sizes.transformer["text_dim"],
        dtype=dtype,
        num_tokens=(sizes.text_tokens, sizes.text_tokens),
        num_image_tokens=sizes.image_tokens,
    )


@contextmanager
def _traced() -> Iterator[FakeGpu]:
    with fake_gpu() as gpu, torch.no_grad():
        yield gpu


def _vae(gpu: FakeGpu, sizes: Sizes, tiled: bool) -> Any:
    vae = gpu.network(lambda: AutoencoderKLWan(**sizes.vae), torch.float32)
    if tiled:
        vae.enable_tiling()
    return vae


def _transformer(gpu: FakeGpu, sizes: Sizes, dtype: torch.dtype) -> Any:
    return gpu.network(lambda: SteadyDancerTransformer3DModel(**sizes.transformer), dtype)


def _require(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    found = (tuple(tensor.shape), tensor.dtype, tensor.device)
    if found != (shape, dtype, CUDA):
        raise AssertionError(f"the result is {found}, but must be {(shape, dtype, CUDA)}")
