"""Keep the trained weights of some steps while a stage trains; `trained` reads them."""

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

from ....datasets.artifact import RECORD
from ....datasets.storage.atomic import folder_written_aside, write_json
from ..config import TrainConfig
from ..engine import ProcessGroup, gather_trained
from ..networks import torch_dtype
from .folder import record_failure, trained_folder
from .kept_weights import WEIGHTS
from .schedule import report_weights


class TrainedWriter:
    """Keeps trained weights of some steps; they are gathered at once and written by a thread while training goes on.

    What goes wrong in writing is told where the gallery would be, and stops nothing.

    Args:
        out: folder of the run, shared by all ranks.
        group: the ranks.
        settings: those of `train_loop`; with them the weights can be understood later.
    """

    def __init__(self, out: Path, group: ProcessGroup, settings: dict[str, Any]) -> None:
        self._out, self._group, self._settings = out, group, settings
        self._config = TrainConfig.model_validate(settings["config"])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="trained")
        self._writing: Future[None] | None = None

    def __enter__(self) -> TrainedWriter:
        """Nothing is under way yet; Ray Train is told of what an interrupted attempt left to be rendered."""
        report_weights(self._config, self._group, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is under way."""
        self._thread.shutdown(wait=True)

    def keep(self, engine: Any, steps: int) -> None:
        """If a gallery is due, gather the trained weights after `steps`, begin to write them and say so to Ray Train.

        All ranks call this. What is kept already stays: a run that was killed since comes to the same weights.
        """
        gallery, is_first = self._config.gallery, self._group.rank == 0
        if gallery.num_clips == 0 or steps == 0 or steps % gallery.every_steps or steps >= self._config.steps:
            return
        folder = trained_folder(self._out, steps)
        if not self._group.any(is_first and not (folder / RECORD).exists()):
            return
        if self._writing is not None:
            wait_for([self._writing])  # two of them need not fit into this machine; what went wrong was told
        weights = gather_trained(engine, stored_dtype(self._config), is_first)
        if is_first:
            self._writing = self._thread.submit(self._write, folder, weights, steps)
        report_weights(self._config, self._group, steps)

    def _write(self, folder: Path, weights: dict[str, torch.Tensor], steps: int) -> None:
        try:
            with folder_written_aside(folder) as aside:
                self._refuse_without_room(weights)
                save_file(weights, aside / WEIGHTS)
                write_json(aside / RECORD, {"steps": steps, "settings": self._settings})
        except (OSError, SafetensorError) as error:
            record_failure(self._out, steps, f"its weights were not kept: {error}", self._settings["attempt"])

    def _refuse_without_room(self, weights: dict[str, torch.Tensor]) -> None:
        """The next engine state goes before: without it the training would stop."""
        newest = max((self._out / "state").glob("step-*"), default=None)
        reserved = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file()) if newest else 0
        needed, free = sum(weight.nbytes for weight in weights.values()), shutil.disk_usage(self._out).free
        if needed + reserved > free:
            raise OSError(
                f"{needed / 1e9:.2f} GB to write and {reserved / 1e9:.2f} GB for the next engine state, "
                f"{free / 1e9:.2f} GB free"
            )


def stored_dtype(config: TrainConfig) -> torch.dtype:
    """Adapters are merged in float32; all other weights go into the checkpoint in the compute dtype."""
    return torch.float32 if config.trains_lora else torch_dtype(config)
