"""Keep the trained weights of some steps while a stage trains; `kept_weights` reads them."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ...datasets.artifact import RECORD
from ...datasets.storage.atomic import atomic_folder, write_json
from .config import TrainConfig
from .engine import ProcessGroup, gather_trained
from .gallery.folder import record_failure, trained_folder
from .gallery.kept_weights import WEIGHTS
from .gallery_schedule import report_weights
from .networks import torch_dtype


class TrainedWriter:
    """Writer of trained weights of some steps: gathers them, then writes them in a thread while training continues.

    A failed write is recorded as a failed gallery and does not stop training.

    Args:
        out: folder of the run, shared by all ranks.
        group: the run's process group.
        settings: the settings of `train_loop`, stored with the weights.
    """

    def __init__(self, out: Path, group: ProcessGroup, settings: dict[str, Any]) -> None:
        self._out, self._group, self._settings = out, group, settings
        self._config = TrainConfig.model_validate(settings["config"])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trained")
        self._writing: Future[None] | None = None

    def __enter__(self) -> TrainedWriter:
        """Report weights that an interrupted attempt left without a gallery."""
        report_weights(self._config, self._group, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the current write."""
        self._thread.shutdown(wait=True)

    def keep(self, engine: Any, steps: int) -> None:
        """Gather the trained weights after `steps` if a gallery is due, start writing them, and report to Ray Train.

        All ranks call this. Existing files are not rewritten: a resumed run computes the same weights.
        """
        gallery, is_first = self._config.gallery, self._group.rank == 0
        if gallery.num_clips == 0 or steps == 0 or steps % gallery.every_steps or steps >= self._config.steps:
            return
        folder = trained_folder(self._out, steps)
        if not self._group.any(is_first and not (folder / RECORD).exists()):
            return
        if self._writing is not None:
            wait_for([self._writing])  # memory may not hold two copies; failures are recorded
        weights = gather_trained(engine, stored_dtype(self._config), is_first)
        if is_first:
            self._writing = self._thread.submit(self._write, folder, weights, steps)
        report_weights(self._config, self._group, steps)

    def _write(self, folder: Path, weights: dict[str, torch.Tensor], steps: int) -> None:
        try:
            with atomic_folder(folder) as aside:
                self._refuse_without_room(weights)
                save_file(weights, aside / WEIGHTS)
                write_json(aside / RECORD, {"steps": steps, "settings": self._settings})
        except (OSError, SafetensorError) as error:
            record_failure(self._out, steps, f"its weights could not be written: {error}", self._settings["attempt"])

    def _refuse_without_room(self, weights: dict[str, torch.Tensor]) -> None:
        """Refuse a write that leaves no room for the next training state, without which training would stop."""
        newest = max((self._out / "state").glob("step-*"), default=None)
        reserved = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file()) if newest else 0
        needed, free = sum(weight.nbytes for weight in weights.values()), shutil.disk_usage(self._out).free
        if needed + reserved > free:
            raise OSError(
                f"{needed / 1e9:.2f} GB to write and {reserved / 1e9:.2f} GB for the next training state, "
                f"{free / 1e9:.2f} GB free"
            )


def stored_dtype(config: TrainConfig) -> torch.dtype:
    """Return float32 for adapters, which are merged in float32, else the compute dtype of the checkpoint."""
    return torch.float32 if config.trains_lora else torch_dtype(config)
