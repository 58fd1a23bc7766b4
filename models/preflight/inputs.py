"""Conditions of the guidance branches, of the shapes and dtypes in which the encoders return them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..condition_reconciliation import TEXT_LENGTH
from ..conditions import Conditions, with_frame_mask
from ..guidance import Branch, branch_conditions

NUM_IMAGE_TOKENS = 257


def branch_inputs(
    make: Callable[..., Tensor],
    grid: tuple[int, int, int],
    image_dim: int,
    text_dim: int,
    *,
    dtype: torch.dtype = torch.float32,
    num_tokens: tuple[int, int] = (TEXT_LENGTH, TEXT_LENGTH),
    num_image_tokens: int = NUM_IMAGE_TOKENS,
) -> dict[Branch, Conditions]:
    """Make the conditions of all three branches.

    Args:
        make: (*shape, dtype=torch.float32) -> tensor: random, empty or fake.
        grid: latent frames, height and width.
        image_dim: of image features.
        text_dim: of text features.
        dtype: of text features; others are float32.
        num_tokens: of the prompt and of the negative prompt.
        num_image_tokens: of an image feature.
    """
    conditions = Conditions(
        image_latents=with_frame_mask(make(1, 16, *grid)),
        pose_latents=make(1, 16, *grid),
        image_embeds=make(1, num_image_tokens, image_dim),
        pose_image_embeds=make(1, num_image_tokens, image_dim),
        prompt_embeds=make(1, num_tokens[0], text_dim, dtype=dtype),
    )
    negative_prompt = make(1, num_tokens[1], text_dim, dtype=dtype)
    return branch_conditions(conditions, negative_prompt, make(1, 16, *grid))
