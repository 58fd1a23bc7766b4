"""diffusers' step caches, fitted to this network: one state for each guidance branch, and every attention found.

A step cache hands out what a layer gave at earlier steps instead of computing it. What it gave for one branch must not
be handed to another: `cache_context(branch)` says whose step it is, and only some of diffusers' caches heed that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers import TaylorSeerCacheConfig
from torch import nn

from ..diffusers_internals import SINGLE_STATE_HOOKS, CacheContext, StateManager, cache_hooks

# TaylorSeer looks for names that end in "attn"; Wan's are numbered, so that by default it would find none.
_ATTENTIONS = r"blocks\.\d+\.attn[12]"


class StatePerContext(StateManager):
    """Stands where a hook keeps its only state, and hands everything on to the state of the context that is set.

    diffusers sets the context on each `StateManager` that a hook holds. Calls outside of any context share a state.
    """

    @property
    def context(self) -> CacheContext:
        """The one that is set, or the one of calls outside of any."""
        return self._context or CacheContext("outside")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # our own, asked for before they are there
            raise AttributeError(name)
        return getattr(self.get_state(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self.get_state(), name, value)


def with_attention_names(config: Any) -> Any:
    """The configuration of a step cache; TaylorSeer's is told the attentions' names if it is told no layers."""
    told = not isinstance(config, TaylorSeerCacheConfig) or config.use_lite_mode
    if told or config.cache_identifiers or config.skip_predict_identifiers:
        return config
    return replace(config, cache_identifiers=[_ATTENTIONS])


def separate_contexts(transformer: nn.Module) -> None:
    """Give Pyramid Attention Broadcast and FasterCache, once enabled, a state per context; the others have it."""
    for hook in cache_hooks(transformer):
        if isinstance(hook, SINGLE_STATE_HOOKS):
            hook.state = StatePerContext(type(hook.state))
