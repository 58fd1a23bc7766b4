"""Processes that this package starts: they end with the process that started them, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
from typing import Any, NamedTuple


class Child(NamedTuple):
    """A process that was started.

    Attributes:
        process: the process.
        control: this side of the socket between the two.
        lifeline: descriptor that ends the process when it is closed.
    """

    process: subprocess.Popen[bytes]
    control: socket.socket
    lifeline: int


def serving(module: str) -> str:
    """Return code for `start_child` that calls `serve(DESCRIPTOR OF THE SOCKET, *arguments)` of a module."""
    return (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        "from steadydancer.datasets.child_processes import exit_with_parent; exit_with_parent(int(sys.argv[3])); "
        f"from {module} import serve; serve(int(sys.argv[2]), *sys.argv[4:])"
    )


def start_child(code: str, *arguments: str, **options: Any) -> Child:
    """Start Python code with a socket to this process and a lifeline for `exit_with_parent`.

    Args:
        code: gets in `sys.argv`, from 1: the module paths of this process as JSON, the socket's descriptor, the
            lifeline, and the arguments. It is to import modules from these paths only.
        arguments: for the code.
        options: of `subprocess.Popen`. Standard input is empty.
    """
    ours, theirs = socket.socketpair()
    lifeline, kept = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, json.dumps(sys.path), str(theirs.fileno()), str(lifeline), *arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), lifeline),
            **options,
        )
    finally:
        theirs.close()
        os.close(lifeline)
    return Child(process, ours, kept)


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
