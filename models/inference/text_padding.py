"""Cross-attention that attends to equal padding rows once, with the weight of all of them.

Wan pads the text to 512 rows with zeros, and the text embedding maps them to equal rows. n equal keys in a softmax are
one key whose logit is higher by log n, so the result is the same up to rounding. A small network saves more than half
of its time, because it has fewer video tokens than padding rows.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..condition_reconciliation import TEXT_LENGTH
from ..diffusers_internals import WanAttention, dispatch_attention_fn
from .step_memory import BlockContext, CrossAttention, JoinedContext


def merge_text_padding(transformer: Any) -> None:
    """Make the cross-attentions of a Wan or SteadyDancer transformer merge equal padding rows.

    Exact up to rounding, with gradients. It compares rows in every call, which synchronises with a GPU: it is meant for
    small networks on CPUs.
    """
    for block in transformer.blocks:
        block.attn2.set_processor(MergedPadding())


class MergedPadding(CrossAttention):
    """Wan's cross-attention to the image tokens, the text, and one row for all padding rows after the text."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | BlockContext | JoinedContext | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Compute the cross-attention of hidden_states [B,N,D] to the context [B,L+512,D]; returns [B,N,D]."""
        context = encoder_hidden_states
        # A block context computes its keys and values once per sampling loop. Fused projections are for inference too.
        if not isinstance(context, Tensor) or attn.fused_projections:
            return super().__call__(attn, hidden_states, context, attention_mask, rotary_emb)
        image, text = context[:, :-TEXT_LENGTH], context[:, -TEXT_LENGTH:]
        num_kept = num_distinct_rows(text)
        bias = text.new_zeros(num_kept)
        bias[-1] = math.log(TEXT_LENGTH - num_kept + 1)
        text = text[:, :num_kept]

        def by_head(x: Tensor) -> Tensor:
            return x.unflatten(2, (attn.heads, -1))

        query = by_head(attn.norm_q(attn.to_q(hidden_states)))
        of_text = dispatch_attention_fn(
            query,
            by_head(attn.norm_k(attn.to_k(text))),
            by_head(attn.to_v(text)),
            attn_mask=bias[None, None, None].expand(len(text), 1, hidden_states.shape[1], -1),
            backend=self._attention_backend,
        )
        of_image = dispatch_attention_fn(
            query,
            by_head(attn.norm_added_k(attn.add_k_proj(image))),
            by_head(attn.add_v_proj(image)),
            backend=self._attention_backend,
        )
        joined = (of_text + of_image).flatten(2, 3).type_as(hidden_states)
        return attn.to_out[1](attn.to_out[0](joined))


def num_distinct_rows(text: Tensor) -> int:
    """Return how many rows of text [B,L,D] to keep so that all rows after them equal the last kept one, for all B."""
    differs = (text != text[:, -1:]).any(dim=2).any(dim=0).nonzero()
    return 1 if len(differs) == 0 else int(differs[-1]) + 2
