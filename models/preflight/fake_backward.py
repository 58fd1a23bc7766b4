"""The backward pass of fake CUDA tensors on a machine without a GPU.

torch's autograd engine asks the driver for the CUDA context of every tensor's device, and so refuses fake tensors where
there is none. `backward` calls the same gradient formulas in the engine's order, so that the same tensors are alive at
the same time. It does not call hooks on tensors and weights.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor


def backward(loss: Tensor) -> None:
    """Add the gradients of a scalar to the `grad` of the weights that it depends on, as `loss.backward()` does.

    Pass the only reference to the loss: what the forward pass saved is freed as its node is done.

    Raises:
        RuntimeError: a gradient is on another device than the tensor that it belongs to.
    """
    root: Any = loss.grad_fn
    waiting, order = _num_uses(root), count()
    arrived: dict[Any, dict[int, Tensor]] = {root: {0: torch.ones_like(loss)}}
    ready = [(0, next(order), root)]
    del loss, root
    with torch.no_grad(), _in_a_backward_pass():
        while ready:
            node = heapq.heappop(ready)[2]
            given = arrived.pop(node)
            gradients = [given.pop(index, None) for index in range(len(node._input_metadata))]
            edges = node.next_functions
            results = _apply(node, gradients)
            # Nothing else may hold the node: with it goes what it saved.
            del node, gradients, given
            for target in _deliver(edges, results, arrived, waiting):
                heapq.heappush(ready, (-target._sequence_nr(), next(order), target))
                del target
            del edges, results


def _deliver(edges: Any, results: list[Tensor | None], arrived: dict[Any, Any], waiting: dict[Any, int]) -> list[Any]:
    """Add a node's results to what has arrived at its targets; return the targets that wait for no more."""
    complete = []
    for index, (target, number) in enumerate(edges):
        gradient, results[index] = results[index], None
        if target is None:
            continue
        into = arrived.setdefault(target, {})
        if gradient is not None:
            gradient = _as_declared(gradient, target._input_metadata[number])
            into[number] = into[number] + gradient if number in into else gradient
        waiting[target] -= 1
        if not waiting[target]:
            del waiting[target]
            complete.append(target)
    return complete


def _num_uses(root: Any) -> dict[Any, int]:
    """Count how many edges lead to each node below the root."""
    uses: dict[Any, int] = {}
    open_nodes = [root]
    while open_nodes:
        for target, _ in open_nodes.pop().next_functions:
            if target is not None:
                if target not in uses:
                    open_nodes.append(target)
                uses[target] = uses.get(target, 0) + 1
    return uses


def _apply(node: Any, gradients: list[Tensor | None]) -> list[Tensor | None]:
    """Call a node's formula; a leaf keeps its gradient."""
    if hasattr(node, "variable"):
        weight, gradient = node.variable, gradients[0]
        weight.grad = gradient if weight.grad is None else weight.grad + gradient
        return []
    results = node(*gradients)
    return list(results) if isinstance(results, tuple) else [results]


def _as_declared(gradient: Tensor, metadata: Any) -> Tensor:
    """Sum and cast a gradient to shape and dtype of its tensor, as the engine does between nodes."""
    if gradient.device != metadata.device:
        raise RuntimeError(f"a gradient is on {gradient.device}, its tensor on {metadata.device}")
    if gradient.shape != metadata.shape:
        gradient = gradient.sum_to_size(metadata.shape)
    return gradient if gradient.dtype == metadata.dtype else gradient.to(metadata.dtype)


@contextmanager
def _in_a_backward_pass() -> Iterator[None]:
    """Give activation checkpointing the number of a backward pass; without one it recomputes for every tensor."""
    torchs, torch._C._current_graph_task_id = torch._C._current_graph_task_id, lambda: 0
    try:
        yield
    finally:
        torch._C._current_graph_task_id = torchs
