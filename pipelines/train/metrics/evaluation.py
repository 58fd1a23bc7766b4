"""The objective on fixed samples: before and after a stage, and on clips that are never trained on."""

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
    """Measures a stage's objective with the engine's present weights.

    All ranks call its methods together; they share out the samples, one at a time, and the numbers are put in order
    before they are added up, so that they do not depend on how many ranks there are.
    """

    def __init__(
        self, engine: Any, objective: Objective, velocity: Velocity, data: TrainingData, group: ProcessGroup
    ) -> None:
        self._engine, self._objective, self._velocity = engine, objective, velocity
        self._data, self._group = data, group

    @torch.no_grad()
    def losses(self, rows: list[SampleDraws]) -> list[float]:
        """The objective of each sample."""
        self._engine.eval()
        group = self._group
        values = torch.zeros(len(rows), dtype=torch.float64, device=group.device)
        for first in range(0, len(rows), group.world_size):
            # Every rank takes part in every round (a sharded forward is a joint one); past the end it counts for none.
            index = first + group.rank
            row = rows[min(index, len(rows) - 1)]
            terms = self._objective(self._velocity, self._data.load([row], group.device))
            if index < len(rows):
                values[index] = terms["loss"].double()
        self._engine.train()
        return group.sum(values).tolist()

    def loss(self) -> float | None:
        """Mean over the stage's fixed training samples; None if there are none."""
        rows = self._data.evaluation_draws()
        return statistics.fmean(self.losses(rows)) if rows else None

    def loss_before(self, out: Path, done: int) -> float | None:
        """The same before the first step, measured once in the life of a run."""
        file = out / "state" / "before.json"
        if done > 0:
            return read_json(file)["loss"] if file.exists() else None  # not measured: it would be another number now
        loss = self.loss()
        if self._group.rank == 0:
            write_json(file, {"loss": loss})
        return loss

    def validation(self, config: TrainConfig) -> dict[str, float]:
        """`validation_loss`, the mean over the validation clips and σ, and `validation_loss_σ` for each; or nothing."""
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
