"""Fit a small network in pieces: a run that stops, or is killed, resumes from its last state to the same bits.

Matrices and convolution kernels are updated by Muon, all other weights by AdamW, with one learning rate. Everything
random is a function of (seed, step), so a state is weights, optimizers and step.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...datasets.storage.atomic import atomic_write
from ..newton_schulz import muon_update

STATE, CURVE = "state.pt", "curve.jsonl"
MUON_MOMENTUM = 0.95
MUON_SCALE = 5.0
"""Muon's learning rate over AdamW's: `match_rms_adamw` makes its updates a fifth of the rate, so here they have it."""

Loss = Callable[[int, np.random.Generator], dict[str, Tensor]]
"""(step, generator of that step) -> loss terms; the first one is minimised."""


class MatrixOptimizer:
    """Muon on matrices and kernels, as matrices [out, rest], and AdamW on the others, such as biases and gains.

    Args:
        weights: the weights to train.
        elementwise: weights that AdamW updates although they have two dimensions or more, such as the first and last
            layers.
    """

    def __init__(self, weights: Iterable[nn.Parameter], elementwise: Iterable[nn.Parameter] = ()) -> None:
        weights, by_element = list(weights), {id(weight) for weight in elementwise}
        self._kernels = [weight for weight in weights if weight.ndim > 1 and id(weight) not in by_element]
        self._momenta = [torch.zeros(len(weight), weight[0].numel()) for weight in self._kernels]
        kernels = {id(weight) for weight in self._kernels}
        others = [weight for weight in weights if id(weight) not in kernels]
        self._adamw = torch.optim.AdamW(others or [torch.zeros(1)], betas=(0.9, 0.99), weight_decay=0.0)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the weights with their gradients, then clear the gradients."""
        for kernel, momentum in zip(self._kernels, self._momenta, strict=True):
            if kernel.grad is None:
                continue
            gradient = kernel.grad.flatten(1)
            momentum.lerp_(gradient, 1 - MUON_MOMENTUM)
            direction = gradient.lerp(momentum, MUON_MOMENTUM)
            kernel.sub_(muon_update(direction, MUON_SCALE * learning_rate).view(kernel.shape))
            kernel.grad = None
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self._adamw.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimizers."""
        return {"momenta": self._momenta, "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        for momentum, saved in zip(self._momenta, state["momenta"], strict=True):
            momentum.copy_(saved)
        self._adamw.load_state_dict(state["adamw"])


def fit(
    network: nn.Module,
    loss: Loss,
    folder: Path,
    *,
    steps: int,
    learning_rate: float,
    seed: int = 0,
    ema_decay: float = 0.998,
    max_norm: float = 1.0,
    elementwise: Iterable[nn.Parameter] = (),
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int = 500,
    save_every: int = 100,
    minutes: float = math.inf,
) -> bool:
    """Train `network` to step `steps` or for `minutes`; return whether it is finished, with averaged weights loaded.

    Args:
        network: the network; its weights are the average of those of all steps when the fit is finished.
        loss: loss of a step.
        folder: gets `state.pt` and `curve.jsonl`, one line for each evaluation.
        steps: number of optimizer steps.
        learning_rate: highest rate: linear warm-up over 50 steps, then a cosine to 2 %.
        seed: seed of the generators that `loss` gets.
        ema_decay: decay of the average of the weights.
        max_norm: gradients are clipped to this L2 norm.
        elementwise: weights that AdamW updates although they are matrices.
        evaluate: measures the network with the averaged weights.
        evaluate_every: steps between two evaluations.
        save_every: steps between two saved states.
        minutes: time limit of this call.

    Raises:
        FloatingPointError: the loss is not finite.
        RuntimeError: a gradient is not finite.
        ValueError: the folder has a state of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    optimizer = MatrixOptimizer(trained.values(), elementwise)
    average = {name: weight.detach().clone() for name, weight in trained.items()}
    settings = {"steps": steps, "learning_rate": learning_rate, "seed": seed, "ema_decay": ema_decay}
    begin, seconds = _resume(folder, settings, network, optimizer, average)
    start, last_line = time.monotonic(), begin
    sums: dict[str, float] = {}

    def save(step: int) -> None:
        state = {
            "settings": settings,
            "step": step,
            "seconds": seconds + time.monotonic() - start,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average,
        }
        with atomic_write(folder / STATE) as aside:
            torch.save(state, aside)

    def write_line(step: int) -> None:
        row: dict[str, Any] = {"step": step, "minutes": round((seconds + time.monotonic() - start) / 60, 3)}
        row |= {name: total / max(step - last_line, 1) for name, total in sums.items()}
        if evaluate is not None:
            live = {name: weight.detach().clone() for name, weight in trained.items()}
            _load(trained, average)
            network.eval()
            with torch.no_grad():
                row |= evaluate(network)
            network.train()
            _load(trained, live)
        with (folder / CURVE).open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    network.train()
    for step in range(begin, steps):
        terms = loss(step, np.random.default_rng([seed, step]))
        total = next(iter(terms.values()))
        if not torch.isfinite(total):
            raise FloatingPointError(f"the loss of step {step} is {total.item()}: lower the learning rate")
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), max_norm, error_if_nonfinite=True)
        optimizer.step(schedule(step, steps, learning_rate))
        decay = min(ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, weight in trained.items():
                average[name].lerp_(weight, 1 - decay)
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term.item()
        done = step + 1
        if done % evaluate_every == 0 or done == steps:
            write_line(done)
            sums, last_line = {}, done
        late = time.monotonic() - start > 60 * minutes
        if done % save_every == 0 or done == steps or late:
            save(done)
        if late and done < steps:
            return False
    _load(trained, average)
    network.eval()
    return True


def schedule(step: int, steps: int, highest: float, warmup_steps: int = 50) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine from `highest` to 2 % of it."""
    progress = step / max(steps - 1, 1)
    return highest * min(1.0, (step + 1) / warmup_steps) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def _resume(
    folder: Path,
    settings: dict[str, Any],
    network: nn.Module,
    optimizer: MatrixOptimizer,
    average: dict[str, Tensor],
) -> tuple[int, float]:
    """Load the saved state, if there is one; return its step and the seconds spent so far."""
    path = folder / STATE
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    if state["settings"] != settings:
        raise ValueError(f"{path} was written with {state['settings']}, not {settings}: use another folder")
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    for name, weight in state["average"].items():
        average[name].copy_(weight)
    return int(state["step"]), float(state["seconds"])


def _load(weights: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])
