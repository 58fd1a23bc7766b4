"""Samples from four processes: each library's own loader over the same cache, endless, with one sample a batch.

Processes parse the bytes, and torch hands the tensors over in shared memory, as it does for all sides alike.
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from readers import CONDITIONS, parse
from torch.utils.data import DataLoader, Dataset, Sampler

NUM_WORKERS = 4
SKIPPED, MEASURED = 64, 256  # samples: the first ones find queues that are not yet full


class _Samples(Dataset[Any]):
    def __init__(self, latents: Path) -> None:
        self._latents = latents

    @cached_property
    def _data(self) -> Any:  # opened by each process
        from steadydancer.datasets.shards import ShardDataset

        return ShardDataset(self._latents, reuse_memory=True)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, number: int) -> Any:
        return parse(self._data.read(self._data.keys[number])["conditions"])


class _Endless(Sampler[int]):
    def __init__(self, number: int) -> None:
        self._number = number

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(0)
        while True:
            yield from rng.sample(range(self._number), self._number)


def steadydancer(cache: Path) -> Iterable[Any]:
    """Read by the index, in random order."""
    data = _Samples(cache / "latents")
    return DataLoader(data, batch_size=None, sampler=_Endless(len(data)), num_workers=NUM_WORKERS)


def webdataset(cache: Path) -> Iterable[Any]:
    """Read whole shards, one shard a process at a time."""
    import webdataset as wds

    shards = sorted(map(str, (cache / "latents/shards").glob("*.tar")))
    data = wds.WebDataset(shards, shardshuffle=False).map(_parse_member).repeat()
    return wds.WebLoader(data, batch_size=None, num_workers=NUM_WORKERS)  # type: ignore[no-any-return]


def _parse_member(sample: dict[str, Any]) -> Any:
    return parse(sample[CONDITIONS])


def energon(cache: Path) -> Iterable[Any]:
    """Read in Energon's random order, each sample by itself."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        get_train_dataset,
        stateless,
    )
    from megatron.energon.savable_loader import BasicDataLoader

    kept = ("__key__", "__restore_key__", "__subflavors__", "__sources__")

    @stateless  # type: ignore[untyped-decorator]
    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        return {**{name: sample[name] for name in kept if name in sample}, **parse(sample[CONDITIONS])}

    class Crude(DefaultTaskEncoder):  # type: ignore[misc]
        cookers = (Cooker(cook),)
        decoder = None

    dataset = get_train_dataset(
        cache / "latents",
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=NUM_WORKERS),
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=1,
        task_encoder=Crude(),
    )
    return BasicDataLoader(dataset, gc_collect_every_n_steps=0)  # type: ignore[no-any-return]


def mosaic(cache: Path) -> Iterable[Any]:
    """Read in Mosaic's random order; its epochs end, and processes wait for each other there."""
    from streaming import StreamingDataLoader, StreamingDataset

    class Parsed(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Any:
            return parse(super().__getitem__(at)["conditions"])

    data = Parsed(local=str(cache / "mosaic"), shuffle=True, batch_size=1)
    loader = StreamingDataLoader(data, batch_size=None, num_workers=NUM_WORKERS, persistent_workers=True)

    def epochs() -> Iterator[Any]:
        while True:
            yield from loader

    return epochs()


SIDES = {one.__name__: one for one in (steadydancer, webdataset, energon, mosaic)}


def measure(side: str, cache: Path) -> dict[str, Any]:
    """Read `MEASURED` samples of a running stream; return CPU seconds of all processes and seconds by the clock."""
    samples = iter(SIDES[side](cache))
    size, tensors = 0, next(samples)
    for tensors in islice(samples, SKIPPED):  # noqa: B007 (held)
        continue
    start, cpu = time.perf_counter(), _cpu_seconds()
    for tensors in islice(samples, MEASURED):  # the last sample is held while the next one arrives
        size += sum(one.nbytes for name, one in tensors.items() if not name.startswith("__"))
    cpu, wall = _cpu_seconds() - cpu, time.perf_counter() - start
    return {"samples": MEASURED, "bytes": size, "cpu_s": cpu, "wall_s": wall}


def _cpu_seconds() -> float:
    """Return CPU seconds of this process and of its descendants, alive or waited for."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = time.process_time() + ended.ru_utime + ended.ru_stime
    for pid in below - {os.getpid()}:
        try:
            total += time.clock_gettime((~pid << 3) | 2)  # Linux clock id of another process's CPU time
        except OSError:
            continue
    return total
