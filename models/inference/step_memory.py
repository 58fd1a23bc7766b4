"""Values that do not depend on the step of a sampling loop: computed at the first step, reused at the others.

These are the fused pose p* (SSAE and TMCM), the embedded text and image features with their keys and values in every
block, and the rotary tables. Nothing is approximated: the bits are the same as without reuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..condition_reconciliation import TEXT_LENGTH
from ..conditions import Conditions
from ..diffusers_internals import WanAttention, WanAttnProcessor, accelerate_hooks, dispatch_attention_fn

Result = TypeVar("Result")
# A quarter of the network at 14B; not used once every context has its keys and values.
CONTEXT_PROJECTIONS = ("to_k", "to_v", "add_k_proj", "add_v_proj", "to_kv", "to_added_kv")  # the last two: fused


@dataclass(frozen=True)
class StepMemory:
    """Values shared by the forwards of one sampling loop; pass the same object, and the same conditions, to each.

    Three caches, keyed by what their entries depend on: the pose latents, the text and image features, the sizes only.
    Guidance branches that share a condition share its cache (`share_memory`).
    """

    pose: dict[str, Any] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Any] = field(default_factory=dict)


def share_memory(branches: Mapping[Any, Conditions]) -> dict[Any, StepMemory]:
    """Return one memory per branch; branches with identical condition tensors share the caches of these."""
    caches: dict[tuple[int, ...], dict[str, Any]] = {}
    grids: dict[torch.Size, dict[str, Any]] = {}  # windows of a long video may differ in length

    def cache_of(*tensors: Tensor) -> dict[str, Any]:
        return caches.setdefault(tuple(map(id, tensors)), {})

    return {
        branch: StepMemory(
            pose=cache_of(conditions.pose_latents),
            context=cache_of(conditions.prompt_embeds, conditions.image_embeds, conditions.pose_image_embeds),
            grid=grids.setdefault(conditions.pose_latents.shape[2:], {}),
        )
        for branch, conditions in branches.items()
    }


def compute_once(cache: dict[str, Any], name: str, compute: Callable[[], Result]) -> Result:
    """Return the entry `name` of a cache; call `compute` if it is missing."""
    if name not in cache:
        cache[name] = compute()
    return cache[name]


class BlockContext:
    """The context [B, 257 + 512, D] of one block's cross-attention, with its keys and values once computed.

    Args:
        context: image and text tokens.
        keeps: whether keys and values are kept; else each use computes them, to the same bits.
    """

    def __init__(self, context: Tensor, keeps: bool = True) -> None:
        self.context, self.keeps = context, keeps
        self.keys_values: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


class JoinedContext:
    """The contexts of several guidance branches for a batch of them, in the order of the batch."""

    def __init__(self, parts: Sequence[BlockContext]) -> None:
        self.parts = parts


class CrossAttention(WanAttnProcessor):
    """Wan's cross-attention to image and text; as context it also accepts a `BlockContext` or a `JoinedContext`."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | BlockContext | JoinedContext | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Compute the cross-attention of hidden_states [B,N,D] to the context; returns [B,N,D]."""
        if isinstance(encoder_hidden_states, JoinedContext):
            of_parts = [_known(attn, part, hidden_states.device) for part in encoder_hidden_states.parts]
            keys_values = [
                (torch.cat([part[i][0] for part in of_parts]), torch.cat([part[i][1] for part in of_parts]))
                for i in range(2)
            ]
        elif isinstance(encoder_hidden_states, BlockContext):
            keys_values = [*_known(attn, encoder_hidden_states, hidden_states.device)]
        else:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        of_image, of_text = (
            dispatch_attention_fn(query, key, value, backend=self._attention_backend).flatten(2, 3).type_as(query)
            for key, value in keys_values
        )
        return attn.to_out[1](attn.to_out[0](of_text + of_image))


KeysValues = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def _known(attn: WanAttention, context: BlockContext, device: torch.device) -> KeysValues:
    """Return the keys and values of a context; the first call computes them."""
    if context.keys_values is not None:
        return context.keys_values
    computed = _keys_values(attn, context.context.to(device))
    if context.keeps:
        context.keys_values = computed
    return computed


def _keys_values(attn: WanAttention, context: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (key, value) of the image tokens and of the text, each [B, L, heads, D / heads]."""
    image, text = context[:, :-TEXT_LENGTH], context[:, -TEXT_LENGTH:]
    parked = next(attn.to_k.parameters()).device
    # A network that is only counted is on meta with all of its inputs.
    if parked.type == "meta" != context.device.type and not _is_offloaded(attn.to_k):
        raise ValueError(
            "the key and value projections of the context were released to 'meta' after another sampling loop: "
            "load the transformer again, or park them on 'cpu'"
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
    """Move the cross-attentions' key and value projections off the accelerator: −26 % of the network at 14B.

    Use it with sampling loops that have a step memory (`branch_velocity`): keys and values are computed once, so a
    block needs its projections only at the first step and fetches them then. `device` "cpu" keeps them there. "meta"
    releases them: after that, only contexts with known keys and values can be used.
    """
    for block in transformer.blocks:
        _move_projections(block.attn2, torch.device(device))


def _move_projections(attn: WanAttention, device: torch.device) -> None:
    for name in CONTEXT_PROJECTIONS:
        projection = getattr(attn, name, None)
        if projection is None or _is_offloaded(projection):
            continue
        if next(projection.parameters()).device != device:
            projection.to(device)


def _is_offloaded(projection: nn.Module) -> bool:
    """Return whether accelerate's offload keeps the weights on meta and loads them when the layer is called."""
    return any(getattr(hook, "offload", False) for hook in accelerate_hooks(projection))
