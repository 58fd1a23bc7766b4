"""Memory for reads that is used again: new memory costs a page fault for every 4 KiB, half of the time of a read."""

import mmap
import os
import sys
from threading import Lock

MAX_FREE = 2  # blocks that are kept without being in use


def _references(blocks: list[mmap.mmap], index: int) -> int:
    return sys.getrefcount(blocks[index])


_UNUSED = _references([mmap.mmap(-1, 1)], 0)  # references to a block that only its list holds


class ReusedMemory:
    """Page-aligned memory of one process; a block is used again when nothing refers to a view of it any more."""

    def __init__(self) -> None:
        """Start without memory."""
        self._blocks: list[mmap.mmap] = []
        self._lock = Lock()

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self._blocks)

    def take(self, size: int) -> memoryview:
        """Return `size` writable bytes whose content is undefined, in a block that nothing else refers to."""
        with self._lock:
            free = [index for index in range(len(self._blocks)) if _references(self._blocks, index) <= _UNUSED]
            fitting = [index for index in free if len(self._blocks[index]) >= size]
            if fitting:
                smallest = min(fitting, key=lambda index: len(self._blocks[index]))
                return memoryview(self._blocks[smallest])[:size]
            for index in reversed(free[: max(0, len(free) - MAX_FREE + 1)]):  # the oldest
                del self._blocks[index]
            # Private: the children of a fork must not write into each other's samples.
            self._blocks.append(mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            return memoryview(self._blocks[-1])[:size]


def read_into(file_descriptor: int, view: memoryview, offset: int) -> memoryview:
    """Fill a view from a file; return the part that was filled, which is shorter at the end of the file."""
    done = 0
    while done < len(view) and (count := os.preadv(file_descriptor, [view[done:]], offset + done)):
        done += count
    return view[:done]
