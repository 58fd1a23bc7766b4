"""Engine states: written beside the training, found again after a kill.

OUT/state/step-NNNNNN/ is sound when `complete.json` lies in it and every file has the size and the checksum that it
tells. A state is copied to host memory between two steps of the optimizer, written by a thread while the next ones are
taken, and renamed when every rank's files are on the disk; ranks tell each other through the folder, which they share.
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

from ....datasets.storage.atomic import sync, write_json
from ....datasets.storage.digests import json_digest
from .. import run_folder
from ..config import TrainConfig
from ..engine import ProcessGroup, call_before_updates, collect_state_files, trained_names
from ..metrics.metrics_file import METRICS
from ..run_folder import NotWritten, state_folders
from .host_copy import HostCopy, num_bytes
from .integrity import COMPLETE, find_damage, warn_damaged_state

HostFiles = dict[Path, Any]


class StateNotWritten(NotWritten):
    """An engine state could not be written; the ones before it are untouched."""


def newest_state(out: Path, group: ProcessGroup) -> tuple[int, Path] | None:
    """(steps done, folder) of the newest sound engine state of a run; None if there is none.

    All ranks call this and get the same answer; each reads its share of the files. Torn and damaged states are passed
    over, with a warning from the rank that saw it.

    Raises:
        TrainingRefused: there are states, and none of them is sound.
    """
    for steps, folder in state_folders(out):
        wrong = find_damage(folder, slice(group.rank, None, group.world_size))
        if wrong is not None:
            warn_damaged_state(folder, wrong)
        if not group.any(wrong is not None):
            return steps, folder
    if state_folders(out):
        raise run_folder.no_intact_state(out)
    return None


class StateWriter:
    """Writes a run's engine states; at most one is under way.

    Every rank calls `save` at the same steps and `check` at every step.

    Args:
        out: folder of the run, shared by all ranks.
        config: the stage; `asynchronous_checkpoints` off waits for every state.
        group: the ranks.
    """

    def __init__(self, out: Path, config: TrainConfig, group: ProcessGroup) -> None:
        self._out, self._config, self._group = out, config, group
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._writing: Future[None] | None = None
        self._abandoned = threading.Event()
        self._copy = HostCopy()
        self._hook: Any = None

    def __enter__(self) -> StateWriter:
        """Nothing is under way yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is under way, but wait for no other rank when this one has failed."""
        if error is not None and self._group.world_size > 1:
            self._abandoned.set()
        self._thread.shutdown(wait=True)
        if self._hook is not None:
            self._hook.remove()

    def save(self, engine: Any, steps_done: int, *, wait: bool = False) -> None:
        """Take the engine's state after `steps_done` steps, and write it: `wait` returns when it can be resumed from.

        Raises:
            StateNotWritten: this one cannot be written, or the one before could not.
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
        except OSError as error:  # DeepSpeed puts a script beside the state
            shutil.rmtree(aside, ignore_errors=True)
            raise self._not_written(steps_done, error) from error
        self._refuse_without_room(files, steps_done)
        if self._hook is None:
            self._hook = call_before_updates(engine, self._copy.wait)
        facts = {
            "world_size": group.world_size,
            "zero_stage": self._config.zero_stage,
            "trained": trained_names(engine),
            "steps_done": steps_done,
        }
        self._writing = self._thread.submit(self._write, aside, files, facts)
        if wait or not self._config.asynchronous_checkpoints:
            self.finish()

    def finish(self) -> None:
        """Wait until the state under way can be resumed from. All ranks call this: one that ends may end them all."""
        self.wait()
        self._group.barrier()

    def check(self) -> None:
        """Raise what has gone wrong in writing by now."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Until this rank's part of the state is written; on the first rank, until all of it is there to be found."""
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
        told = [aside / f".rank-{rank}.json" for rank in range(self._group.world_size)]
        while not all(file.exists() for file in told):
            if self._abandoned.wait(0.1):
                return False
        return True

    def _commit(self, aside: Path, facts: dict[str, Any]) -> None:
        place = aside.with_name(aside.name.removeprefix(".").removesuffix(".tmp"))
        files: dict[str, Any] = {}
        for told in sorted(aside.glob(".rank-*.json")):
            files |= json.loads(told.read_text())
            told.unlink()
        sizes, sums = ({name: told[what] for name, told in files.items()} for what in ("size", "crc32"))
        facts = {**facts, "files": sizes, "crc32": sums}
        write_json(aside / COMPLETE, {**facts, "digest": json_digest(facts)})
        if place.exists():  # a torn one of the same step
            shutil.rmtree(place)
        for folder in {aside, *(file.parent for file in aside.rglob("*"))}:
            sync(folder)
        if (self._out / METRICS).exists():
            sync(self._out / METRICS)  # a state goes on from lines that are there
        aside.rename(place)
        sync(place.parent)
        self._remove_old(facts["steps_done"])

    def _remove_old(self, newest: int) -> None:
        """Remove all states but the newest ones; those that claim more steps than were taken were refused before."""
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
        left = f"that of {newest} steps is whole" if newest else "there is none before it"
        return StateNotWritten(
            f"disk: the state after {steps_done} steps could not be written to {self._out / 'state'} ({why}); {left}: "
            "make room, and the same command goes on from there"
        )


def _write_file(path: Path, state: Any) -> dict[str, int]:
    """Write a state to a file and the disk; size and checksum of what was written."""
    with path.open("wb") as file:
        summed = _Summed(file)
        try:
            torch.save(state, cast(BinaryIO, summed))
        except RuntimeError as error:
            raise summed.error or error from None  # torch says that a disk is full in words of its own
        file.flush()
        os.fsync(file.fileno())
    return {"size": summed.size, "crc32": summed.crc32}


class _Summed:
    """A file that keeps size and checksum of what goes to it, front to back."""

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
    """What a complete state tells of itself: world size, ZeRO stage, names of the trained weights, steps done."""
    return dict(json.loads((state / COMPLETE).read_text()))
