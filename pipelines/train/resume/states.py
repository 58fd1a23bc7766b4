"""Training states: write them in the background, find the newest intact one after a crash.

OUT/state/step-NNNNNN/ is intact if it has a `complete.json` and every file has the size and checksum recorded there. A
state is copied to host memory between two optimizer steps, written by a thread during the following steps, and renamed
when the files of all ranks are on disk. Ranks signal completion with files in the shared folder.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

import torch
from isal import isal_zlib

from ....datasets.storage.atomic import write_json
from ....datasets.storage.digests import json_digest
from ....datasets.storage.disk import sync
from .. import run_folder
from ..config import TrainConfig
from ..engine import ProcessGroup, call_before_updates, collect_state_files, trained_names
from ..integrity import COMPLETE, find_damage, warn_damaged_state
from ..metrics_file import METRICS
from ..run_folder import NotWritten, state_folders
from .host_copy import HostCopy, num_bytes

HostFiles = dict[Path, Any]


class StateNotWritten(NotWritten):
    """A training state could not be written; earlier ones are untouched."""


def newest_state(out: Path, group: ProcessGroup) -> tuple[int, Path] | None:
    """Return (steps done, folder) of a run's newest intact training state; None if there are no states.

    All ranks call this and get the same result; each verifies its share of the files. Incomplete and damaged states are
    skipped, with a warning from the rank that found the damage.

    Raises:
        TrainingRefused: all states are damaged.
    """
    for steps, folder in state_folders(out):
        damage = find_damage(folder, slice(group.rank, None, group.world_size))
        if damage is not None:
            warn_damaged_state(folder, damage)
        if not group.any(damage is not None):
            return steps, folder
    if state_folders(out):
        raise run_folder.no_intact_state_error(out)
    return None


class StateWriter:
    """Writer of a run's training states, one at a time.

    Every rank calls `save` at the same steps and `check` at every step.

    Args:
        out: folder of the run, shared by all ranks.
        config: the stage; `asynchronous_checkpoints` off waits for every state.
        group: the run's process group.
    """

    def __init__(self, out: Path, config: TrainConfig, group: ProcessGroup) -> None:
        self._out, self._config, self._group = out, config, group
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._writing: Future[None] | None = None
        self._abandoned = threading.Event()
        self._copy = HostCopy()
        self._hook: Any = None

    def __enter__(self) -> StateWriter:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the current write; if this rank failed, do not wait for the others."""
        if error is not None and self._group.world_size > 1:
            self._abandoned.set()
        self._thread.shutdown(wait=True)
        if self._hook is not None:
            self._hook.remove()

    def save(self, engine: Any, steps_done: int, *, wait: bool = False) -> None:
        """Copy the training state after `steps_done` steps and write it; with `wait`, return when it is complete.

        Raises:
            StateNotWritten: this state, or the previous one, could not be written.
        """
        self.wait()
        group = self._group
        aside = self._out / "state" / f".step-{steps_done:06d}.tmp"
        if group.rank == 0:
            for leftover in (self._out / "state").glob(".step-*.tmp"):
                shutil.rmtree(leftover)
            aside.mkdir(parents=True)
        group.barrier()
        self._copy.begin()
        try:
            files = collect_state_files(engine, aside, self._copy)
        except OSError as error:  # DeepSpeed writes a script next to the state
            shutil.rmtree(aside, ignore_errors=True)
            raise self._not_written(steps_done, error) from error
        self._refuse_without_room(files, steps_done)
        if self._hook is None:
            self._hook = call_before_updates(engine, self._copy.wait)
        facts = {
            "world_size": group.world_size,
            "zero_stage": self._config.zero_stage,
            "optimizer": self._config.optimizer,
            "ema_decay": self._config.ema_decay,
            "trained": trained_names(engine),
            "steps_done": steps_done,
        }
        self._writing = self._thread.submit(self._write, aside, files, facts)
        if wait or not self._config.asynchronous_checkpoints:
            self.finish()

    def finish(self) -> None:
        """Wait until the current state is complete on all ranks. All ranks call this: if one exits, Ray may end all."""
        self.wait()
        self._group.barrier()

    def check(self) -> None:
        """Raise the exception of a write that has already failed."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until this rank's files are written; on rank 0, until the whole state is committed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, aside: Path, files: HostFiles, facts: dict[str, Any]) -> None:
        self._copy.finish()
        try:
            written = {str(path.relative_to(aside)): _write_file(path, state) for path, state in files.items()}
            write_json(aside / f".rank-{self._group.rank}.json", written)
            if self._group.rank == 0 and self._all_ranks_are_done(aside):
                self._commit(aside, facts)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise self._not_written(facts["steps_done"], error) from error

    def _all_ranks_are_done(self, aside: Path) -> bool:
        done = [aside / f".rank-{rank}.json" for rank in range(self._group.world_size)]
        while not all(file.exists() for file in done):
            if self._abandoned.wait(0.1):
                return False
        return True

    def _commit(self, aside: Path, facts: dict[str, Any]) -> None:
        place = aside.with_name(aside.name.removeprefix(".").removesuffix(".tmp"))
        files: dict[str, Any] = {}
        for written in sorted(aside.glob(".rank-*.json")):
            files |= json.loads(written.read_text())
            written.unlink()
        sizes, sums = ({name: entry[field] for name, entry in files.items()} for field in ("size", "crc32"))
        facts = {**facts, "files": sizes, "crc32": sums}
        write_json(aside / COMPLETE, {**facts, "digest": json_digest(facts)})
        if place.exists():  # a damaged state of the same step
            shutil.rmtree(place)
        for folder in {aside, *(file.parent for file in aside.rglob("*"))}:
            sync(folder)
        if (self._out / METRICS).exists():
            sync(self._out / METRICS)  # resuming needs these lines
        aside.rename(place)
        sync(place.parent)
        self._remove_old(facts["steps_done"])

    def _remove_old(self, newest: int) -> None:
        """Remove all states but the newest ones; states of more steps than were taken were refused at the start."""
        folders = state_folders(self._out)
        whole = [folder for steps, folder in folders if steps <= newest and find_damage(folder, None) is None]
        for _, folder in folders:
            if folder not in whole[: self._config.keep_checkpoints]:
                shutil.rmtree(folder)

    def _refuse_without_room(self, files: HostFiles, steps_done: int) -> None:
        needed, free = num_bytes(list(files.values())), shutil.disk_usage(self._out).free
        if needed > free:
            raise self._not_written(steps_done, f"{needed / 1e9:.2f} GB to write, {free / 1e9:.2f} GB free")

    def _not_written(self, steps_done: int, why: object) -> StateNotWritten:
        newest = run_folder.steps_done(self._out)
        left = f"the state of {newest} steps is intact" if newest else "there is no earlier state"
        return StateNotWritten(
            f"disk: the state after {steps_done} steps could not be written to {self._out / 'state'} ({why}); {left}: "
            "free disk space, then run the same command to resume"
        )


def _write_file(path: Path, state: Any) -> dict[str, int]:
    """Write a state to a file and sync it; return its size and checksum."""
    with path.open("wb") as file:
        summed = _Summed(file)
        try:
            torch.save(state, cast(BinaryIO, summed))
        except RuntimeError as error:
            raise summed.error or error from None  # torch reports a full disk as a RuntimeError
        file.flush()
        os.fsync(file.fileno())
    return {"size": summed.size, "crc32": summed.crc32}


class _Summed:
    """File wrapper that computes size and checksum of the bytes written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size, self.crc32 = 0, 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        self.size += len(data)
        self.crc32 = isal_zlib.crc32(data, self.crc32)
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def read_state_record(state: Path) -> dict[str, Any]:
    """Read complete.json of a state: world size, ZeRO stage, names of the trained weights, steps done."""
    return dict(json.loads((state / COMPLETE).read_text()))
