"""Engine states for another number of workers than wrote them, by DeepSpeed's universal checkpoint.

A state is cut up among its workers. Where another number resumes, the first of them converts it into
OUT/state/universal, a folder a weight with the float32 weight and AdamW's moments in one piece; all workers read their
parts of these, and the folder is removed. The state itself is not touched, and what a kill leaves is never read.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ....datasets.storage.atomic import folder_written_aside, written_aside
from ..engine import TAG, ProcessGroup, read_engine, symlink_without_brackets
from ..run_folder import TrainingRefused
from .states import StateNotWritten, read_state_record

_POLL_S = 0.2


def read_state(engine: Any, state: Path, group: ProcessGroup) -> None:
    """Load a complete engine state to the bit, whatever number of workers wrote it. All ranks call this.

    Raises:
        StateNotWritten: it has to be converted and cannot be; it is untouched.
    """
    facts, place = read_state_record(state), state.with_name("universal")
    if group.rank == 0:
        for leftover in (place, place.with_name(f".{place.name}.tmp")):  # of a start that was killed in here
            shutil.rmtree(leftover, ignore_errors=True)
    group.barrier()
    if facts["world_size"] == group.world_size:
        read_engine(engine, state)
        return
    if group.rank == 0:
        _convert(state, facts, place)
    while not place.exists():  # no barrier: those run out of patience before a large state is converted
        time.sleep(_POLL_S)
    read_engine(engine, place, universal=True)
    group.barrier()
    if group.rank == 0:
        shutil.rmtree(place)


def bytes_to_convert(state: Path, num_workers: int) -> int:
    """Disk that converting a state for `num_workers` takes while it lasts, apart from headers; 0: no need to convert.

    Every worker's part is cut into pieces and these are joined: weights and moments twice. With ZeRO-3 the tool copies
    one worker's part besides.
    """
    facts = read_state_record(state)
    if facts["world_size"] == num_workers:
        return 0
    sizes = {file.name: file.stat().st_size for file in (state / TAG).iterdir()}
    optimizer = sum(size for name, size in sizes.items() if name.endswith("_optim_states.pt"))
    copied = optimizer // facts["world_size"] if facts["zero_stage"] == 3 else 0
    return optimizer + copied + sum(sizes.values())


def refuse_without_room(state: Path, num_workers: int) -> None:
    """Raise `TrainingRefused` where `num_workers` cannot go on from a state for want of room to convert it."""
    needed, free = bytes_to_convert(state, num_workers), shutil.disk_usage(state).free
    if needed > free:
        wrote = read_state_record(state)["world_size"]
        raise TrainingRefused(
            f"disk: {num_workers} workers go on from what {wrote} wrote, and to convert it {needed / 1e9:.1f} GB more "
            f"are needed for a while in {state.parent}, where {free / 1e9:.1f} GB are free: make room, or go on with "
            f"--num-workers {wrote}"
        )


def _convert(state: Path, facts: dict[str, Any], place: Path) -> None:
    """Make `place`, the state in DeepSpeed's universal form; it is there when it is whole."""
    from deepspeed.checkpoint import ds_to_universal

    try:
        # Not flushed: it is read once, by this start.
        with folder_written_aside(place, flush=False) as aside:
            with symlink_without_brackets(state) as source, symlink_without_brackets(aside) as target, _silence():
                ds_to_universal.main(
                    Namespace(
                        input_folder=str(source / TAG),
                        output_folder=str(target / TAG),
                        num_extract_workers=1,  # in this process: it may have a GPU, and then there is no forking
                        num_merge_workers=1,
                        keep_temp_folder=False,
                        strict=True,
                        inject_missing_state=True,
                    )
                )
            _leave_out_one_workers_part(aside / TAG / "zero" / "optimizer_state.pt")
    except (OSError, RuntimeError) as error:  # torch hides a full disk in a RuntimeError
        raise StateNotWritten(
            f"disk: the state after {facts['steps_done']} steps, which {facts['world_size']} workers wrote, could not "
            f"be converted in {place.parent} ({error}); it is whole: make room, or go on with --num-workers "
            f"{facts['world_size']}"
        ) from error


def _leave_out_one_workers_part(file: Path) -> None:
    """Keep what all workers have in common; with ZeRO-3 the tool leaves the first one's part, for all to read."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum]):
        common = torch.load(file, weights_only=True, mmap=True)
    if "fp32_flat_groups" not in common:
        return
    del common["fp32_flat_groups"]
    moments = common["optimizer_state_dict"]["state"]
    common["optimizer_state_dict"]["state"] = {0: {"step": moments[0]["step"].clone()}}
    with written_aside(file) as aside:
        torch.save(common, aside)


@contextmanager
def _silence() -> Iterator[None]:
    """Without the tool's account of what it does."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
