"""TensorBoard, MLflow and Weights & Biases: told of the metrics by whoever started the run.

A tracker is given the rows of metrics.jsonl as they come, and all of them again when a resumed run has cut the file
back. Each is imported when it is asked for. Where a server is and who may use it stands in its own environment
variables: none of them is read here, written down or repeated in a message.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ....datasets.storage.atomic import write_json
from ..config import TrainConfig
from ..run_folder import TrainingRefused

_DISTRIBUTIONS = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}  # imported under these names


class Tracker(Protocol):
    """Who is told of the metrics."""

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Take rows of metrics.jsonl, in order; steps that were given before may come again."""

    def close(self) -> None:
        """No more rows will come."""


def missing_tracker(config: TrainConfig) -> str | None:
    """What is wrong with `trackers`: a package that is not installed; None if nothing is."""
    for name in config.trackers:
        if importlib.util.find_spec(_DISTRIBUTIONS[name]) is None:
            return f"trackers: {name} needs the package {_DISTRIBUTIONS[name]}: pip install it, or leave {name} out"
    return None


def open_trackers(config: TrainConfig, out: Path) -> list[Tracker]:
    """The trackers of a run.

    Raises:
        TrainingRefused: one is not installed.
    """
    missing = missing_tracker(config)
    if missing:
        raise TrainingRefused(missing)
    kinds: dict[str, Any] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}
    return [RetryingTracker(name, partial(kinds[name], out, config)) for name in config.trackers]


class RetryingTracker:
    """A tracker that may fail without failing the training: what it did not take is given to it again later.

    The first failure in a row is told, without what it quotes of addresses and environment.

    Args:
        name: for the message.
        begin: opens the tracker; tried again as long as it fails.
    """

    def __init__(self, name: str, begin: Callable[[], Tracker]) -> None:
        self._name, self._begin = name, begin
        self._tracker: Tracker | None = None
        self._waiting: list[dict[str, Any]] = []
        self._has_failed = False

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Give it these rows and those that wait."""
        self._waiting += rows
        if not self._waiting and self._tracker is not None:
            return
        try:
            if self._tracker is None:
                self._tracker = self._begin()
            if self._waiting:
                self._tracker.add(self._waiting)
        except Exception as error:  # each library has its own for what a server or a network does
            if not self._has_failed:
                logging.getLogger(__name__).warning(
                    "%s takes no metrics (%s); training goes on", self._name, _redacted(error)
                )
            self._has_failed = True
        else:
            self._waiting, self._has_failed = [], False

    def close(self) -> None:
        """A last attempt at what waits; a later start of the run tells what is missing then."""
        self.add([])
        try:
            if self._tracker is not None:
                self._tracker.close()
        except Exception as error:
            logging.getLogger(__name__).warning("%s could not be closed (%s)", self._name, _redacted(error))


def _redacted(error: Exception) -> str:
    """What went wrong, in a line, without credentials: users in addresses, and values of variables that are secret."""
    line = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    line = re.sub(r"://[^/@\s]+@", "://…@", line)
    for name, value in os.environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name) and len(value) > 3:
            line = line.replace(value, "…")
    return line


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}


class TensorBoard:
    """OUT/tensorboard, an image of metrics.jsonl: made anew at every start, so that no step is in it twice."""

    def __init__(self, out: Path, config: TrainConfig) -> None:
        self._folder = out / "tensorboard"
        self._writer: Any = None
        self._last = -1
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """As scalars by name."""
        for row in rows:
            if row["step"] <= self._last:
                self.close()
                shutil.rmtree(self._folder)
            if self._writer is None:
                from tensorboardX import SummaryWriter

                self._writer = SummaryWriter(str(self._folder))
            for name, value in _numbers(row).items():
                self._writer.add_scalar(name, value, row["step"])
            self._last = row["step"]

    def close(self) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _ResumableTracker:
    """A run on somebody's server, which a resumed training goes on with.

    The server keeps what it was told. Steps that are taken again give the same numbers, so they are not told again.
    """

    name = ""

    def __init__(self, out: Path, config: TrainConfig) -> None:
        self._file = out / "state" / f"{self.name}.json"
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._last = known.get("step", -1)
        self._id = self._begin(out, config, known.get("run"))

    def add(self, rows: list[dict[str, Any]]) -> None:
        """What is new since the last step that was told."""
        new = [row for row in rows if row["step"] > self._last]
        for row in new:
            self._log(_numbers(row), row["step"])
        if new:
            self._last = new[-1]["step"]
            write_json(self._file, {"run": self._id, "step": self._last})

    def _begin(self, out: Path, config: TrainConfig, run: str | None) -> str:
        raise NotImplementedError

    def _log(self, numbers: dict[str, float], step: int) -> None:
        raise NotImplementedError


class MLflow(_ResumableTracker):
    """Where `MLFLOW_TRACKING_URI` says; without it in OUT/mlflow.db, for `mlflow ui --backend-store-uri sqlite:///…`."""

    name = "mlflow"

    def _begin(self, out: Path, config: TrainConfig, run: str | None) -> str:
        import mlflow

        self._mlflow = mlflow
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{out.absolute() / 'mlflow.db'}")
        active = mlflow.start_run(run_id=run, run_name=None if run else out.name)
        if run is None:
            mlflow.log_params(config.model_dump(mode="json"))
        return str(active.info.run_id)

    def _log(self, numbers: dict[str, float], step: int) -> None:
        self._mlflow.log_metrics(numbers, step=step)

    def close(self) -> None:
        """End the run there."""
        self._mlflow.end_run()


class WeightsAndBiases(_ResumableTracker):
    """Where `WANDB_…` variables say; with `WANDB_MODE=offline` into OUT/wandb, for `wandb sync`.

    It is told metrics and configuration, and sees how busy the machine is: not its name, the terminal, or the code.
    """

    name = "wandb"

    def _begin(self, out: Path, config: TrainConfig, run: str | None) -> str:
        import wandb

        quiet = wandb.Settings(console="off", disable_git=True, save_code=False, x_disable_meta=True, silent=True)
        named = {"name": out.name, "config": config.model_dump(mode="json"), "dir": out}
        self._run = wandb.init(id=run, resume="allow", settings=quiet, **named)
        return str(self._run.id)

    def _log(self, numbers: dict[str, float], step: int) -> None:
        self._run.log(numbers, step=step)

    def close(self) -> None:
        """End the run there."""
        self._run.finish()
