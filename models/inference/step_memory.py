"""What does not depend on the step of a sampling loop, computed at the first step and kept for the others.

These are the fused pose p* (SSAE and TMCM), the embedded text and image features with their keys and values in every
block, and the rotary tables. Nothing is approximated: the bits are those of computing it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..condition_reconciliation import TEXT_LENGTH
from ..conditions import Conditions
from ..diffusers_internals import WanAttention, WanAttnProcessor, accelerate_hooks, dispatch_attention_fn

Result = TypeVar("Result")
# A quarter of the network at 14B, and idle once every context has its keys and values.
CONTEXT_PROJECTIONS = ("to_k", "to_v", "add_k_proj", "add_v_proj", "to_kv", "to_added_kv")  # the last two: fused


@dataclass(frozen=True)
class StepMemory:
    """What the forwards of one sampling loop remember; hand the same one, and the same conditions, to each of them.

    Three boxes, by what their contents are made of: the pose latent, the text and image features, the sizes alone.
    Guidance branches that share a condition share its box (`share_memory`).
    """

    pose: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)


def share_memory(branches: Mapping[Any, Conditions]) -> dict[Any, StepMemory]:
    """One memory a branch; two branches that are given the very same tensors share the box made of them."""
    boxes: dict[tuple[int, ...], dict[str, Any]] = {}
    grid: dict[str, Any] = {}

    def box(*tensors: Tensor) -> dict[str, Any]:
        return boxes.setdefault(tuple(map(id, tensors)), {})

    return {
        branch: StepMemory(
            pose=box(told.pose_latents),
            context=box(told.prompt_embeds, told.image_embeds, told.pose_image_embeds),
            grid=grid,
        )
        for branch, told in branches.items()
    }


def compute_once(box: dict[str, Any], name: str, compute: Callable[[], Result]) -> Result:
    """What `compute` gave when a box was first asked for `name`."""
    if name not in box:
        box[name] = compute()
    return box[name]


class BlockContext:
    """The context [B, 257 + 512, D] of one block's cross-attention, and its keys and values once they are known."""

    def __init__(self, context: Tensor) -> None:
        self.context = context
        self.keys_values: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


class CrossAttention(WanAttnProcessor):
    """Wan's cross-attention to image and text, which also takes a `BlockContext` for its context."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | BlockContext | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """hidden_states [B,N,D] -> [B,N,D]."""
        if not isinstance(encoder_hidden_states, BlockContext):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        known = encoder_hidden_states
        if known.keys_values is None:
            known.keys_values = _keys_values(attn, known.context.to(hidden_states.device))
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        of_image, of_text = (
            dispatch_attention_fn(query, key, value, backend=self._attention_backend).flatten(2, 3).type_as(query)
            for key, value in known.keys_values
        )
        return attn.to_out[1](attn.to_out[0](of_text + of_image))


def _keys_values(attn: WanAttention, context: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(key, value) of the image tokens and of the text, each [B, L, heads, D / heads]."""
    image, text = context[:, :-TEXT_LENGTH], context[:, -TEXT_LENGTH:]
    parked = next(attn.to_k.parameters()).device
    if parked.type == "meta" and not _is_fetched_by_a_hook(attn.to_k):
        raise ValueError(
            "the key and value projections of the context were given up after another sampling loop: "
            "load the transformer again, or park them on 'cpu' instead of 'meta'"
        )
    _move_projections(attn, context.device)
    if attn.fused_projections:
        (image_key, image_value), (text_key, text_value) = (
            fused(tokens).chunk(2, dim=-1) for fused, tokens in ((attn.to_added_kv, image), (attn.to_kv, text))
        )
    else:
        image_key, image_value = attn.add_k_proj(image), attn.add_v_proj(image)
        text_key, text_value = attn.to_k(text), attn.to_v(text)
    _move_projections(attn, parked)

    def by_head(x: Tensor) -> Tensor:
        return x.unflatten(2, (attn.heads, -1))

    return (
        (by_head(attn.norm_added_k(image_key)), by_head(image_value)),
        (by_head(attn.norm_k(text_key)), by_head(text_value)),
    )


def park_context_projections(transformer: Any, device: torch.device | str) -> None:
    """Take the key and value projections of the cross-attentions off the accelerator, −26 % of the network at 14B.

    Meant for sampling loops that remember (`branch_velocity`): keys and values are computed once, so that a block
    fetches its projections for a moment at the first step and needs them no more. device "cpu" keeps them there;
    "meta" gives them up, after which only contexts that are known already can be attended to.
    """
    for block in transformer.blocks:
        _move_projections(block.attn2, torch.device(device))


def _move_projections(attn: WanAttention, device: torch.device) -> None:
    for name in CONTEXT_PROJECTIONS:
        projection = getattr(attn, name, None)
        if projection is None or _is_fetched_by_a_hook(projection):
            continue
        if next(projection.parameters()).device != device:
            projection.to(device)


def _is_fetched_by_a_hook(projection: nn.Module) -> bool:
    """Whether accelerate's offload keeps the weights elsewhere (on meta) and brings them when the layer is called."""
    return any(getattr(hook, "offload", False) for hook in accelerate_hooks(projection))
