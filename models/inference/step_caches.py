"""diffusers' step caches for this network: a state for each guidance branch, and all attentions found.

A step cache reuses a layer's output from earlier steps instead of computing it. The output of one branch must not be
reused for another. `cache_context(branch)` names the branch of a step, but not all of diffusers' caches use it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffusers import TaylorSeerCacheConfig
from torch import nn

from ..diffusers_internals import SINGLE_STATE_HOOKS, CacheContext, StateManager, cache_hooks

# By default TaylorSeer selects names that end in "attn"; Wan's are numbered, so it would find none.
_ATTENTIONS = r"blocks\.\d+\.attn[12]"


class StatePerContext(StateManager):
    """Takes the place of a hook's single state and forwards to the state of the current context.

    diffusers sets the context on each `StateManager` of a hook. Calls outside of any context share one state.
    """

    @property
    def context(self) -> CacheContext:
        """The current context; outside of any, a context of its own."""
        return self._context or CacheContext("outside")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # own attributes, read before `__init__` sets them
            raise AttributeError(name)
        return getattr(self.get_state(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self.get_state(), name, value)


def with_attention_names(config: Any) -> Any:
    """Return the configuration of a step cache; for TaylorSeer without selected layers, with Wan's attention names."""
    needs_no_names = not isinstance(config, TaylorSeerCacheConfig) or config.use_lite_mode
    if needs_no_names or config.cache_identifiers or config.skip_predict_identifiers:
        return config
    return replace(config, cache_identifiers=[_ATTENTIONS])


def separate_contexts(transformer: nn.Module) -> None:
    """Give enabled Pyramid Attention Broadcast and FasterCache a state per context; the other caches have one."""
    for hook in cache_hooks(transformer):
        if isinstance(hook, SINGLE_STATE_HOOKS):
            hook.state = StatePerContext(type(hook.state))
