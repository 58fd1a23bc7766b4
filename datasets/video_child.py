"""The process that decodes: it answers one request after another and ends with the process that started it.

Codecs meet hostile files here. A hang or a crash costs this process, and its parent (`video_process`) tells which file
it was. Nothing heavy is imported: it must start fast.

A message is four bytes of length and a JSON object; with the parent's answer comes the descriptor of an anonymous file
in memory that holds the frames, so that they are neither copied nor serialised.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import struct
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .video_file import VideoError, VideoIndex
from .video_reader import VideoReader

LENGTH = struct.Struct("!I")


class Frames:
    """Memory for one answer's frames: an anonymous file that the parent maps as well."""

    def __init__(self) -> None:
        self.descriptor: int | None = None
        self.shape: tuple[int, ...] = ()

    def allocate(self, shape: tuple[int, ...]) -> np.ndarray:
        """A uint8 array in a new file."""
        self.descriptor, self.shape = os.memfd_create("frames"), shape
        size = int(np.prod(shape))
        os.ftruncate(self.descriptor, size)
        return np.frombuffer(mmap.mmap(self.descriptor, size), np.uint8).reshape(shape)

    def release(self) -> None:
        """Leave the memory to the parent."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor, self.shape = None, ()


def serve(control_descriptor: int, lifeline: int) -> None:
    """Answer requests until the parent is gone.

    Args:
        control_descriptor: a socket, for requests and answers.
        lifeline: the reading end of a pipe that nobody writes to and only the parent could.
    """
    _end_with_the_parent(lifeline)
    _expect_the_worst()
    control = socket.socket(fileno=control_descriptor)
    memory = Frames()
    reader = VideoReader(memory.allocate, lambda seconds: _send(control, {"expects_s": seconds}))
    while True:
        header = control.recv(LENGTH.size, socket.MSG_WAITALL)
        if len(header) < LENGTH.size:
            return
        request = json.loads(control.recv(LENGTH.unpack(header)[0], socket.MSG_WAITALL))
        reader.counts.clear()
        answer = _answer(reader, request)
        state = {"shape": memory.shape, "counts": dict(reader.counts), "resident_bytes": _resident_bytes()}
        _send(control, answer | state, memory.descriptor)
        memory.release()


def _answer(reader: VideoReader, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": perform(reader, **request)}
    except VideoError as error:
        return {"bad": [error.reason, error.detail]}
    except MemoryError as error:
        return {"bad": ["too_big", f"not enough memory: {error}"]}
    except Exception:
        return {"fault": traceback.format_exc()}


def perform(reader: VideoReader, operation: str, path: str, **arguments: Any) -> Any:
    """One operation of `VideoReader`: what it gives besides frames, in words that JSON knows."""
    if operation == "index":
        return _to_words(reader.index(path, **arguments))
    if operation == "frames":
        size = arguments["size"]
        reader.frames(path, np.array(arguments["times_s"]), (size[0], size[1]) if size else None)
        return None
    times_s, _ = getattr(reader, operation)(path, **arguments)
    return times_s.tolist()


def _to_words(index: VideoIndex) -> dict[str, Any]:
    return {
        "pts": index.pts.tolist(),
        "time_base": str(index.time_base),
        "info": asdict(index.info),
        "timed": index.timed,
        "suits_decord": index.suits_decord,
        "entries": index.entries.tolist(),
        "entry_times": index.entry_times.tolist(),
    }


def _send(control: socket.socket, message: dict[str, Any], descriptor: int | None = None) -> None:
    data = json.dumps(message).encode()
    socket.send_fds(control, [LENGTH.pack(len(data))], [] if descriptor is None else [descriptor])
    control.sendall(data)


def _end_with_the_parent(lifeline: int) -> None:
    """Let the kernel end this process when the pipe's other end closes, even if a codec hangs with the GIL held.

    SIGIO ends a process by default. (A death signal would come when the parent's starting *thread* ends.)
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        os.read(lifeline, 1)  # no writer any more: the parent was gone before
        os._exit(0)


def _expect_the_worst() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900")  # short of memory, the kernel takes this one first


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
