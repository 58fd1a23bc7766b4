"""Processes that this package starts: they end with the process that started them, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os


def exit_with_parent(lifeline: int) -> None:
    """Let the kernel end this process when the write end of a pipe closes, even if a library hangs with the GIL held.

    SIGIO ends a process by default. (A parent-death signal would be sent when the starting *thread* ends.)

    Args:
        lifeline: read end of an unused pipe whose write end only the parent has open.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        os.read(lifeline, 1)  # end of file: the parent has already exited
        os._exit(0)
