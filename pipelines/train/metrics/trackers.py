"""Forward metrics to TensorBoard, MLflow or W&B, from the process that started the run.

A tracker gets the rows of metrics.jsonl as they are written, and all of them again when a resumed run has truncated the
file. Each library is imported only if it is configured. Server addresses and credentials are read by the libraries from
their own environment variables; they are never stored or repeated in a message.
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

_DISTRIBUTIONS = {
    "tensorboard": "tensorboardX",
    "mlflow": "mlflow",
    "wandb": "wandb",
}  # names of distribution and module


class Tracker(Protocol):
    """Interface of an experiment tracker."""

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Record rows of metrics.jsonl, in order; steps may be repeated."""

    def close(self) -> None:
        """Finish after the last row."""


def missing_tracker(config: TrainConfig) -> str | None:
    """Describe the first configured tracker whose package is not installed; None if all are."""
    for name in config.trackers:
        if importlib.util.find_spec(_DISTRIBUTIONS[name]) is None:
            return (
                f"trackers: {name} requires the package {_DISTRIBUTIONS[name]}: install it with pip, or remove {name}"
            )
    return None


def open_trackers(config: TrainConfig, out: Path) -> list[Tracker]:
    """Open the trackers of a run.

    Raises:
        TrainingRefused: a package is not installed.
    """
    missing = missing_tracker(config)
    if missing:
        raise TrainingRefused(missing)
    kinds: dict[str, Any] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}
    return [RetryingTracker(name, partial(kinds[name], out, config)) for name in config.trackers]


class RetryingTracker:
    """Wrapper that retries a failing tracker later, so that training never fails because of it.

    The first of consecutive failures is logged, without credentials.

    Args:
        name: name in log messages.
        begin: opens the tracker; retried while it fails.
    """

    def __init__(self, name: str, begin: Callable[[], Tracker]) -> None:
        self._name, self._begin = name, begin
        self._tracker: Tracker | None = None
        self._waiting: list[dict[str, Any]] = []
        self._has_failed = False

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Send these rows and those that failed before."""
        self._waiting += rows
        if not self._waiting and self._tracker is not None:
            return
        try:
            if self._tracker is None:
                self._tracker = self._begin()
            if self._waiting:
                self._tracker.add(self._waiting)
        except Exception as error:  # each library has its own exceptions for server and network errors
            if not self._has_failed:
                logging.getLogger(__name__).warning(
                    "%s rejected the metrics (%s); training continues", self._name, _redacted(error)
                )
            self._has_failed = True
        else:
            self._waiting, self._has_failed = [], False

    def close(self) -> None:
        """Retry the remaining rows and close; the next start of the run sends what is still missing."""
        self.add([])
        try:
            if self._tracker is not None:
                self._tracker.close()
        except Exception as error:
            logging.getLogger(__name__).warning("%s could not be closed (%s)", self._name, _redacted(error))


def _redacted(error: Exception) -> str:
    """Format an error in one line without credentials: users in URLs and values of secret environment variables."""
    line = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    line = re.sub(r"://[^/@\s]+@", "://…@", line)
    for name, value in os.environ.items():
        if re.search(r"KEY|TOKEN|SECRET|PASSWORD", name) and len(value) > 3:
            line = line.replace(value, "…")
    return line


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}


class TensorBoard:
    """Writer of OUT/tensorboard, rebuilt from metrics.jsonl at every start so that no step appears twice."""

    def __init__(self, out: Path, config: TrainConfig) -> None:
        self._folder = out / "tensorboard"
        self._writer: Any = None
        self._last = -1
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write the rows as scalars."""
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
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _ResumableTracker:
    """Base of trackers with a server-side run, which a resumed training continues.

    Repeated steps give the same numbers, so steps that were already sent are skipped.
    """

    name = ""

    def __init__(self, out: Path, config: TrainConfig) -> None:
        self._file = out / "state" / f"{self.name}.json"
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._last = known.get("step", -1)
        self._id = self._begin(out, config, known.get("run"))

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Send the rows after the last step that was sent."""
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
    """Tracker at `MLFLOW_TRACKING_URI`, or OUT/mlflow.db for `mlflow ui --backend-store-uri sqlite:///…`."""

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
        """End the server-side run."""
        self._mlflow.end_run()


class WeightsAndBiases(_ResumableTracker):
    """Tracker configured by the `WANDB_…` variables; with `WANDB_MODE=offline` in OUT/wandb, for `wandb sync`.

    It sends metrics, configuration and machine utilisation, but not the host name, the terminal output or the code.
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
        """End the server-side run."""
        self._run.finish()
