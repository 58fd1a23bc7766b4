"""Guidance branches of one step, evaluated one after another, together block by block, or in one batch.

Three ways, `BranchEvaluation`:

- "sequential": a forward for each branch;
- "interleaved": one forward, in which each block computes all branches before the next block begins. Weights that a
  hook brings for a block (group offload) are brought once per step; without such a hook, only branches that share work
  are in one forward. The bits are those of "sequential";
- "batched": one forward of a batch of all branches; other kernels, so the last bits may differ.

What branches have in common is computed once: the rotary tables and the embedded time, and where their images and poses
are the same, the pose modules, the patch embedding and the first self-attention, up to the first cross-attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..conditions import Conditions
from ..diffusers_internals import group_offload_unit, has_step_cache
from .branch_attention import BranchBlock, BranchTokens, Context, SelfAttention, Tables, share_tables
from .step_memory import BlockContext, JoinedContext, StepMemory

BranchEvaluation = Literal["sequential", "interleaved", "batched"]


@dataclass(frozen=True)
class BranchInputs:
    """Branches that one forward evaluates: their conditions, the memory of each, and whether as a batch."""

    conditions: Sequence[Conditions]
    memories: Sequence[StepMemory | None]
    batched: bool = False


def must_be_sequential(transformer: Any) -> bool:
    """Return whether hooks on the network require that one branch ends before the next begins.

    Step caches count the calls of a layer in the context of one branch. Group offload by layers moves each layer's
    weights for each call, and learns the order of the calls.
    """
    by_layer = group_offload_unit(transformer) == "layer"
    offloaded = group_offload_unit(transformer) is not None
    return has_step_cache(transformer) or by_layer or (offloaded and _is_parallel(transformer))


def require_no_step_cache(transformer: Any) -> None:
    """Raise ValueError if a step cache is enabled: it decides for a whole batch, which is another approximation."""
    if has_step_cache(transformer):
        raise ValueError(
            "branch evaluation 'batched' cannot be used with a step cache, which decides for each branch: use "
            "'interleaved' or 'sequential'"
        )


def evaluate_together(
    transformer: Any, hidden_states: Tensor, timestep: Tensor, branches: BranchInputs
) -> tuple[Tensor, ...]:
    """Compute the velocity of each branch at the same latents; called by the network's `forward`.

    Args:
        transformer: a `SteadyDancerTransformer3DModel`.
        hidden_states: noisy latents [B,16,T,H,W].
        timestep: [B].
        branches: their conditions, each with batch size B.
    """
    tables = transformer.rotary_tables(hidden_states, branches.memories[0])
    groups, running, features = _embed(transformer, hidden_states, branches)
    temb, timestep_proj, contexts = _contexts(transformer, timestep, branches)
    shareable = isinstance(transformer.blocks[0].attn1.processor, SelfAttention)
    first_groups = groups if shareable else [*range(len(groups))]
    if branches.batched:
        num_branches, batch_size = len(groups), len(hidden_states)
        first_tables = share_tables(tables, first_groups, batch_size, running.tokens[0].device)
        joined = [_join([of_branch[i] for of_branch in contexts]) for i in range(len(transformer.blocks))]
        rows = timestep_proj.repeat(num_branches, 1, 1)
        feature = None if features[0] is None else torch.cat([one for one in features if one is not None])
        running.tokens = [torch.cat(running.tokens)]
        _run_blocks(transformer, running, [joined], rows, tables, first_tables, [feature])
        sample = transformer.to_sample(running.tokens.pop(), temb.repeat(num_branches, 1), hidden_states)
        return tuple(sample.split(batch_size))
    first_tables = share_tables(tables, first_groups, None, running.tokens[0].device)
    _run_blocks(transformer, running, contexts, timestep_proj, tables, first_tables, features)
    return tuple(transformer.to_sample(running.tokens.pop(0), temb, hidden_states) for _ in groups)


def shared_inputs(conditions: Conditions) -> tuple[int, ...]:
    """Return the identities of the tensors on which tokens depend until the first cross-attention."""
    read = (conditions.image_latents, conditions.pose_latents, conditions.reference_latents,
            conditions.reference_pose_latents)  # fmt: skip
    return tuple(map(id, read))


def _embed(
    transformer: Any, hidden_states: Tensor, branches: BranchInputs
) -> tuple[list[int], BranchTokens, list[Tensor | None]]:
    """Return the group, tokens and pose features of each branch; those with equal conditions are one group."""
    known: dict[tuple[int, ...], int] = {}
    groups: list[int] = []
    embedded: dict[int, tuple[Tensor, Tensor | None]] = {}
    for conditions, memory in zip(branches.conditions, branches.memories, strict=True):
        group = known.setdefault(shared_inputs(conditions), len(known))
        groups.append(group)
        if group not in embedded:
            embedded[group] = transformer.embed_tokens(hidden_states, conditions, memory)
    return groups, BranchTokens([embedded[group][0] for group in groups]), [embedded[group][1] for group in groups]


def _contexts(
    transformer: Any, timestep: Tensor, branches: BranchInputs
) -> tuple[Tensor, Tensor, list[list[Tensor | BlockContext]]]:
    """Return the embedded time, its projection, and the contexts of each branch for each block."""
    times: tuple[Tensor, Tensor] | None = None
    contexts = []
    for conditions, memory in zip(branches.conditions, branches.memories, strict=True):
        if times is not None and memory is not None and "blocks" in memory.context:
            contexts.append(memory.context["blocks"])
            continue
        *found, of_branch = transformer.embed_context(timestep, conditions, memory)
        times = times or (found[0], found[1])
        contexts.append(of_branch)
    assert times is not None
    return *times, contexts


def _join(contexts: list[Tensor | BlockContext]) -> Context:
    if all(isinstance(context, BlockContext) for context in contexts):
        return JoinedContext([context for context in contexts if isinstance(context, BlockContext)])
    return torch.cat([context for context in contexts if isinstance(context, Tensor)])


def _run_blocks(
    transformer: Any,
    running: BranchTokens,
    contexts: Sequence[Sequence[Context]],
    timestep_proj: Tensor,
    tables: tuple[Tensor, Tensor],
    first_tables: list[Tables],
    features: Sequence[Tensor | None],
) -> None:
    """Run all blocks on the tokens, in place, each over all branches before the next block begins."""
    in_one_call = group_offload_unit(transformer) == "block"
    for i, block in enumerate(transformer.blocks):
        block_tables: list[Tables] = first_tables if i == 0 else [tables] * len(features)
        block_contexts = [of_branch[i] for of_branch in contexts]
        if in_one_call:
            block(running, block_contexts, timestep_proj, block_tables)
        for k, (context, rotary) in enumerate(zip(block_contexts, block_tables, strict=True)):
            if not in_one_call:
                running.tokens[k] = block(running.tokens[k], context, timestep_proj, rotary)
            running.tokens[k] = transformer.inject_pose(i, running.tokens[k], features[k])


def _is_parallel(transformer: Any) -> bool:
    return getattr(transformer, "_parallel_config", None) is not None


__all__ = ["BranchBlock", "BranchEvaluation", "BranchInputs", "evaluate_together", "must_be_sequential"]
