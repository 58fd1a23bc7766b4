"""Memory for reads: used again only when nothing refers to it, and bounded by what is in use."""

import os
from pathlib import Path

import numpy as np
import torch

from steadydancer.datasets.shards.memory import MAX_FREE, ReusedMemory, read_into


def test_memory_is_used_again_once_nothing_refers_to_it() -> None:
    memory = ReusedMemory()
    view = memory.take(4096)
    tensor = torch.frombuffer(view[8:24], dtype=torch.float32)
    tensor.fill_(1.0)
    other = memory.take(4096)  # while the first view is held
    other[:] = b"\xff" * 4096
    del view
    memory.take(4096)[:] = b"\xff" * 4096  # a tensor still refers to the first block
    assert len(memory) == 3 and tensor.tolist() == [1.0] * 4
    part = tensor[1:2]
    del tensor, other
    for _ in range(20):
        memory.take(4096)[:] = b"\x00" * 4096
    assert len(memory) == 3 and part.tolist() == [1.0]


def test_smaller_reads_fit_into_larger_blocks_and_unused_ones_are_given_back() -> None:
    memory = ReusedMemory()
    held = [memory.take(1000) for _ in range(8)]
    assert len(memory) == 8
    del held
    assert len(memory.take(10)) == 10 and len(memory) == 8
    assert len(memory.take(2000)) == 2000 and len(memory) == MAX_FREE
    assert len(memory.take(0)) == 0


def test_a_view_begins_on_a_page() -> None:
    memory = ReusedMemory()
    views = [memory.take(size) for size in (1, 5000, 70_000)]
    assert [np.frombuffer(view, np.uint8).ctypes.data % 4096 for view in views] == [0, 0, 0]


def test_a_fork_does_not_write_into_the_memory_of_its_parent() -> None:
    memory = ReusedMemory()
    memory.take(16)[:] = b"p" * 16
    child = os.fork()
    if child == 0:
        memory.take(16)[:] = b"c" * 16
        os._exit(0)
    os.waitpid(child, 0)
    assert bytes(memory.take(16)) == b"p" * 16 and len(memory) == 1


def test_a_file_that_ends_early_fills_a_part(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(100)))
    with file.open("rb") as opened:
        assert bytes(read_into(opened.fileno(), memoryview(bytearray(20)), 10)) == bytes(range(10, 30))
        assert bytes(read_into(opened.fileno(), memoryview(bytearray(20)), 90)) == bytes(range(90, 100))
        assert bytes(read_into(opened.fileno(), memoryview(bytearray(20)), 200)) == b""
