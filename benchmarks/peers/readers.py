"""Read all samples of a cache once with one library, in a process of its own; print seconds as JSON lines.

`reading.py` starts this file with the interpreter of the library's environment. Every side ends in the same six tensors
by the same parser, which copies nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

CONDITIONS = "conditions.safetensors"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def parse(data: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file in memory, which share its memory."""
    view = memoryview(data)
    begin = 8 + int.from_bytes(view[:8], "little")
    rows = json.loads(bytes(view[8:begin]))
    tensors = {}
    for name, row in rows.items():
        if name != "__metadata__":
            start, stop = row["data_offsets"]
            part = view[begin + start : begin + stop]
            tensors[name] = torch.frombuffer(part, dtype=DTYPES[row["dtype"]]).reshape(row["shape"])
    return tensors


def steadydancer(cache: Path, reuse_memory: bool = True) -> Callable[[int], Iterator[Any]]:
    """Read by the index, in random order."""
    from steadydancer.datasets.shards import ShardDataset

    data = ShardDataset(cache / "latents", reuse_memory=reuse_memory)

    def read(turn: int) -> Iterator[Any]:
        for key in random.Random(turn).sample(data.keys, len(data)):
            yield data.read(key)["conditions"]

    return read


def steadydancer_new_memory(cache: Path) -> Callable[[int], Iterator[Any]]:
    """Read by the index to new memory, in random order."""
    return steadydancer(cache, reuse_memory=False)


def pread(cache: Path) -> Callable[[int], Iterator[Any]]:
    """Read the same bytes from known offsets, in random order, and check nothing."""
    import tarfile

    places = []
    for shard in sorted((cache / "latents/shards").glob("*.tar")):
        file = os.open(shard, os.O_RDONLY)
        with tarfile.open(shard) as tar:
            places += [(file, member.size, member.offset_data) for member in tar if member.name.endswith(CONDITIONS)]

    def read(turn: int) -> Iterator[Any]:
        for place in random.Random(turn).sample(places, len(places)):
            yield os.pread(*place)

    return read


def webdataset(cache: Path) -> Callable[[int], Iterator[Any]]:
    """Read shards from their beginning to their end."""
    import webdataset as wds

    shards = sorted(map(str, (cache / "latents/shards").glob("*.tar")))

    def read(_: int) -> Iterator[Any]:
        return (sample[CONDITIONS] for sample in wds.WebDataset(shards, shardshuffle=False))

    return read


def energon(cache: Path) -> Callable[[int], Iterator[Any]]:
    """Read our cache in Energon's random order, each sample by itself."""
    return energon_reader(cache / "latents")


def energon_reader(path: Path | str) -> Callable[[int], Iterator[Any]]:
    """Open a cache with Energon."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        get_train_dataset,
        stateless,
    )
    from megatron.energon.savable_loader import BasicDataLoader

    class Crude(DefaultTaskEncoder):  # type: ignore[misc]
        cookers = (Cooker(stateless(lambda sample: sample)),)
        decoder = None

    dataset = get_train_dataset(
        path,
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=1,
        task_encoder=Crude(),
        repeat=False,
    )
    # A favour: `get_loader` collects garbage every ten samples, which costs most.
    loader = BasicDataLoader(dataset, gc_collect_every_n_steps=0)

    def read(_: int) -> Iterator[Any]:
        return (sample[CONDITIONS] for sample in loader)

    return read


def mosaic(cache: Path) -> Callable[[int], Iterator[Any]]:
    """Read by number, in random order."""
    from streaming import StreamingDataset

    data = StreamingDataset(local=str(cache / "mosaic"), shuffle=False, batch_size=1)

    def read(turn: int) -> Iterator[Any]:
        for index in random.Random(turn).sample(range(len(data)), len(data)):
            yield data[index]["conditions"]

    return read


def mosaic_iteration(cache: Path) -> Callable[[int], Iterator[Any]]:
    """Read in Mosaic's random order."""
    from streaming import StreamingDataset

    data = StreamingDataset(local=str(cache / "mosaic"), shuffle=True, batch_size=1)

    def read(_: int) -> Iterator[Any]:
        return (sample["conditions"] for sample in data)

    return read


SIDES = {
    one.__name__: one
    for one in (steadydancer, steadydancer_new_memory, pread, webdataset, energon, mosaic, mosaic_iteration)
}


def one_pass(samples: Iterator[Any], holds: bool, digests: list[int] | None = None) -> tuple[int, int]:
    """Parse all samples; return their number and bytes.

    Args:
        samples: bytes of each sample.
        holds: whether a sample's tensors live while the next one is read.
        digests: gets a checksum of each sample.
    """
    number, size, tensors = 0, 0, None
    for data in samples:
        tensors = parse(data)
        number, size = number + 1, size + len(data)
        if digests is not None:
            digests.append(zlib.crc32(data))
        if not holds:
            del data, tensors
    return number, size


def passes(side: str, cache: Path, cold: bool, number: int) -> Iterator[dict[str, Any]]:
    """Measure passes over all samples; `cold`: the page cache is emptied of them before each pass."""
    read = SIDES[side](cache)
    digests: list[int] = []
    one_pass(read(0), True, digests)  # the page cache is warm, and files are open
    for turn in range(1, number + 1):
        for loop, holds in (("held", True),) if cold else (("held", True), ("dropped", False)):
            if cold:
                forget(cache)
            start, cpu = time.perf_counter(), time.process_time()
            count, size = one_pass(read(turn), holds)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - start
            yield {"loop": loop, "samples": count, "bytes": size, "cpu_s": cpu, "wall_s": wall,
                   "digest": zlib.crc32(repr(sorted(digests)).encode())}  # fmt: skip


def forget(folder: Path) -> None:
    """Remove the files of a folder from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side")
    parser.add_argument("cache", type=Path)
    parser.add_argument("--how", choices=("warm", "cold", "workers", "store"), default="warm")
    parser.add_argument("--passes", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="The given buffer is not writable")
    if arguments.how in ("warm", "cold"):
        lines = passes(arguments.side, arguments.cache, arguments.how == "cold", arguments.passes)
    elif arguments.how == "workers":
        import workers

        lines = iter([workers.measure(arguments.side, arguments.cache)])
    else:
        import store

        lines = iter([store.measure(arguments.side)])
    for line in lines:
        print(json.dumps({"side": arguments.side, **line}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
