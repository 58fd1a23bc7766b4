"""Resume a training state with another number of workers, by DeepSpeed's universal checkpoint.

A state is sharded over the workers that wrote it. To resume with another number, rank 0 converts it into
OUT/state/universal, one folder per weight with the full float32 weight and the optimizer's moments; all workers read
their shards of these, and the folder is removed. The state itself does not change, and an interrupted conversion is
deleted.
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

from ....datasets.storage.atomic import atomic_folder, atomic_write
from ..engine import TAG, ProcessGroup, read_engine, symlink_without_brackets
from ..run_folder import TrainingRefused
from .plain_data import plain_data_only
from .states import StateNotWritten, read_state_record

_POLL_S = 0.2


def read_state(engine: Any, state: Path, group: ProcessGroup) -> None:
    """Load a complete training state bit-exactly, for any number of workers. All ranks call this.

    Raises:
        StateNotWritten: the state cannot be converted; it is untouched.
        TrainingRefused: it contains objects other than tensors and plain data; or see `refuse_average`.
    """
    with plain_data_only(state):
        _read_state(engine, state, group)


def _read_state(engine: Any, state: Path, group: ProcessGroup) -> None:
    facts, place = read_state_record(state), state.with_name("universal")
    if group.rank == 0:
        for leftover in (place, place.with_name(f".{place.name}.tmp")):  # of a conversion that was killed
            shutil.rmtree(leftover, ignore_errors=True)
    group.barrier()
    if facts["world_size"] == group.world_size:
        read_engine(engine, state)
        return
    if facts.get("ema_decay"):
        refuse_average(state, group.world_size, getattr(engine.optimizer.optimizer, "ema_decay", 0.0))
    if group.rank == 0:
        _convert(state, facts, place)
    while not place.exists():  # no barrier: it would time out while a large state is converted
        time.sleep(_POLL_S)
    read_engine(engine, place, universal=True)
    group.barrier()
    if group.rank == 0:
        shutil.rmtree(place)


def bytes_to_convert(state: Path, num_workers: int) -> int:
    """Estimate the temporary bytes on disk for converting a state to `num_workers`, without headers; 0: not needed.

    The shards of all workers are split and then joined: weights and moments are written twice. With ZeRO-3, DeepSpeed
    also copies one worker's shard.
    """
    facts = read_state_record(state)
    if facts["world_size"] == num_workers:
        return 0
    sizes = {file.name: file.stat().st_size for file in (state / TAG).iterdir()}
    optimizer = sum(size for name, size in sizes.items() if name.endswith("_optim_states.pt"))
    copied = optimizer // facts["world_size"] if facts["zero_stage"] == 3 else 0
    if facts.get("optimizer") == "muon":  # DeepSpeed writes Muon's one moment twice
        optimizer = optimizer * 3 // 2
    return optimizer + copied + sum(sizes.values())


def refuse_average(state: Path, num_workers: int, ema_decay: float) -> None:
    """Raise `TrainingRefused` if a run with `ema_decay` would resume a state with an average with other workers."""
    facts = read_state_record(state)
    if ema_decay and facts.get("ema_decay") and facts["world_size"] != num_workers:
        raise TrainingRefused(
            f"ema_decay: the average of the weights in {state}, which {facts['world_size']} workers wrote, cannot be "
            f"converted for {num_workers}: resume with --num-workers {facts['world_size']}, or set ema_decay to 0 with "
            "--fork"
        )


def refuse_without_room(state: Path, num_workers: int) -> None:
    """Raise `TrainingRefused` if the disk is too full to convert a state for `num_workers`."""
    needed, free = bytes_to_convert(state, num_workers), shutil.disk_usage(state).free
    if needed > free:
        wrote = read_state_record(state)["world_size"]
        raise TrainingRefused(
            f"disk: resuming with {num_workers} workers converts the state of {wrote}, which temporarily "
            f"needs {needed / 1e9:.1f} GB in {state.parent}, where {free / 1e9:.1f} GB are free: free disk space, or "
            f"resume with --num-workers {wrote}"
        )


def _convert(state: Path, facts: dict[str, Any], place: Path) -> None:
    """Convert the state to DeepSpeed's universal form in `place`, which appears when it is complete."""
    from deepspeed.checkpoint import ds_to_universal

    try:
        # Not flushed: it is read only once, by this process group.
        with atomic_folder(place, flush=False) as aside:
            with (
                symlink_without_brackets(state) as source,
                symlink_without_brackets(aside) as target,
                _discard_output(),
            ):
                ds_to_universal.main(
                    Namespace(
                        input_folder=str(source / TAG),
                        output_folder=str(target / TAG),
                        num_extract_workers=1,  # in this process: it may use CUDA, which forbids forking
                        num_merge_workers=1,
                        keep_temp_folder=False,
                        strict=True,
                        inject_missing_state=True,
                    )
                )
            _remove_first_shard(aside / TAG / "zero" / "optimizer_state.pt")
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise StateNotWritten(
            f"disk: the state after {facts['steps_done']} steps, which {facts['world_size']} workers wrote, could not "
            f"be converted in {place.parent} ({error}); the state is intact: free disk space, or resume with "
            f"--num-workers {facts['world_size']}"
        ) from error


def _remove_first_shard(file: Path) -> None:
    """Remove the first worker's shard, which DeepSpeed leaves in the shared optimizer state with ZeRO-3."""
    common = torch.load(file, weights_only=True, mmap=True)
    if "fp32_flat_groups" not in common:
        return
    del common["fp32_flat_groups"]
    moments = common["optimizer_state_dict"]["state"]
    common["optimizer_state_dict"]["state"] = {0: {"step": moments[0]["step"].clone()}}
    with atomic_write(file) as aside:
        torch.save(common, aside)


@contextmanager
def _discard_output() -> Iterator[None]:
    """Discard the output of the conversion."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
