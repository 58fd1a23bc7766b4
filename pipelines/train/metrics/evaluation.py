"""Measure the objective on fixed samples: before and after a stage, and on validation clips."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch

from ....datasets.storage.atomic import write_json
from ....models.objectives import Objective, Velocity
from ..config import TrainConfig
from ..data.batches import TrainingData
from ..data.draws import SampleDraws
from ..engine import ProcessGroup
from ..run_folder import read_json


class Evaluator:
    """Evaluation of a stage's objective with the engine's current weights.

    All ranks call its methods together and split the samples. Losses are summed in sample order, so the results do not
    depend on the number of ranks.
    """

    def __init__(
        self, engine: Any, objective: Objective, velocity: Velocity, data: TrainingData, group: ProcessGroup
    ) -> None:
        self._engine, self._objective, self._velocity = engine, objective, velocity
        self._data, self._group = data, group

    @torch.no_grad()
    def losses(self, rows: list[SampleDraws]) -> list[float]:
        """Compute the objective of each sample."""
        self._engine.eval()
        group = self._group
        values = torch.zeros(len(rows), dtype=torch.float64, device=group.device)
        for first in range(0, len(rows), group.world_size):
            # A sharded forward pass needs all ranks; results past the last sample are not used.
            index = first + group.rank
            row = rows[min(index, len(rows) - 1)]
            terms = self._objective(self._velocity, self._data.load([row], group.device))
            if index < len(rows):
                values[index] = terms["loss"].double()
        self._engine.train()
        return group.sum(values).tolist()

    def loss(self) -> float | None:
        """Compute the mean over the stage's fixed training samples; None if there are none."""
        rows = self._data.evaluation_draws()
        return statistics.fmean(self.losses(rows)) if rows else None

    def loss_before(self, out: Path, done: int) -> float | None:
        """Return the loss before the first step; measured once per run, then read from `out`."""
        file = out / "state" / "before.json"
        if done > 0:
            return (
                read_json(file)["loss"] if file.exists() else None
            )  # not measured then; the weights have changed since
        loss = self.loss()
        if self._group.rank == 0:
            write_json(file, {"loss": loss})
        return loss

    def validation(self, config: TrainConfig) -> dict[str, float]:
        """Compute `validation_loss`, a mean over clips and σ, and `validation_loss_σ` per σ; empty without clips."""
        rows = self._data.validation_draws()
        if not rows:
            return {}
        losses = self.losses(rows)
        by_sigma = {
            f"validation_loss_{sigma:g}": statistics.fmean(
                loss for loss, row in zip(losses, rows, strict=True) if row.sigma == sigma
            )
            for sigma in config.validation_sigmas
        }
        return {"validation_loss": statistics.fmean(losses), **by_sigma}
