"""Parts of the network that know of guidance branches: a block that takes several, a self-attention that they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..diffusers_internals import WanAttention, WanAttnProcessor, WanTransformerBlock, register_block
from .step_memory import BlockContext, JoinedContext

Context = Tensor | BlockContext | JoinedContext


@dataclass
class SharedTables:
    """Rotary tables for branches whose tokens are equal until the first cross-attention.

    The first self-attention of such branches is computed once: for the first of them, and kept until the last of
    `uses`; or in a batch for the sample `first[k]` of each group k, whose output every sample s of the batch takes from
    group `group[s]`.
    """

    tables: tuple[Tensor, Tensor]
    first: Tensor | None = None
    group: Tensor | None = None
    uses: int = 1
    output: Tensor | None = None

    def attend(self, processor: SelfAttention, attn: WanAttention, hidden_states: Tensor) -> Tensor:
        """Return the self-attention's output for hidden_states [B,N,D]; the first call of all computes it."""
        if self.group is not None:
            return processor(attn, hidden_states[self.first], rotary_emb=self.tables)[self.group]
        output = processor(attn, hidden_states, rotary_emb=self.tables) if self.output is None else self.output
        self.uses -= 1
        self.output = output if self.uses else None
        return output


Tables = tuple[Tensor, Tensor] | SharedTables


class SelfAttention(WanAttnProcessor):
    """Wan's self-attention; as rotary tables it also accepts `SharedTables`."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Tables | None = None,
    ) -> Tensor:
        """Compute the self-attention of hidden_states [B,N,D]; returns [B,N,D]."""
        if isinstance(rotary_emb, SharedTables):
            return rotary_emb.attend(self, attn, hidden_states)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)


@dataclass(eq=False)
class BranchTokens:
    """The tokens [B,N,D] of each guidance branch; blocks replace them one by one.

    So a block's input is freed as soon as its output is there: at 14B a branch has half a gigabyte of tokens. Hooks
    hand this object on as it is, where they would copy a list and keep all inputs with it.
    """

    tokens: list[Tensor]


class BranchBlock(WanTransformerBlock):
    """Wan's block; it also takes the tokens of several guidance branches, which it computes one after another.

    A hook that brings the block's weights for a call (group offload) then brings them once for all branches.
    """

    def forward(
        self,
        hidden_states: Tensor | BranchTokens,
        encoder_hidden_states: Context | Sequence[Context],
        temb: Tensor,
        rotary_emb: Tables | Sequence[Tables],
    ) -> Tensor | BranchTokens:
        """Compute tokens [B,N,D]; of several branches in place, with a context and rotary tables for each."""
        if isinstance(hidden_states, BranchTokens):
            contexts, all_tables = cast(Sequence[Context], encoder_hidden_states), cast(Sequence[Tables], rotary_emb)
            for k, (context, tables) in enumerate(zip(contexts, all_tables, strict=True)):
                hidden_states.tokens[k] = super().forward(hidden_states.tokens[k], context, temb, tables)
            return hidden_states
        tokens: Tensor = super().forward(hidden_states, encoder_hidden_states, temb, rotary_emb)
        return tokens


register_block(BranchBlock)


def share_tables(
    tables: tuple[Tensor, Tensor], groups: Sequence[int], batch_size: int | None, device: torch.device
) -> list[Tables]:
    """Return rotary tables for each branch; branches of the same number in `groups` share the first self-attention.

    With `batch_size`, return one object for the batch of all branches, in which each has that many samples.
    """
    if len(set(groups)) == len(groups):
        return [tables] * (len(groups) if batch_size is None else 1)
    if batch_size is None:
        uses = Counter(groups)
        shared = {group: SharedTables(tables, uses=number) for group, number in uses.items() if number > 1}
        return [shared.get(group, tables) for group in groups]
    samples = torch.arange(batch_size)
    leaders = [*dict.fromkeys(groups)]
    first = torch.cat([groups.index(leader) * batch_size + samples for leader in leaders])
    group = torch.cat([leaders.index(one) * batch_size + samples for one in groups])
    return [SharedTables(tables, first.to(device), group.to(device))]
