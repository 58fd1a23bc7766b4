"""The decoding process as its parent sees it: started once, asked, timed, killed, replaced.

Requests of one process are answered one after another by one child (`video_child`). `STEADYDANCER_DECODE=in-process`
decodes in the asking process instead, for a debugger's sake.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from .deadline import Deadline, Limits
from .info import VideoError
from .reader import VideoReader
from .worker import EMPTIED, LENGTH, perform

LIMITS = Limits()

# A child that served so many requests, or kept so much memory, makes room for a new one.
MAX_REQUESTS = 1000
MAX_RESIDENT_BYTES = 1 << 30

# What the child runs. It finds modules where this process does, and nowhere else.
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from steadydancer.datasets.video.worker import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)


class _WorkerDied(Exception):
    """The child is gone; the message says how."""


class _Worker:
    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self._words = os.memfd_create("stderr")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, json.dumps(sys.path), str(theirs.fileno()), str(lifeline)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._words,
                pass_fds=(theirs.fileno(), lifeline),
                # One arena: freed frames of one size are taken by those of the next.
                env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
            )
        finally:
            theirs.close()
            os.close(lifeline)
        self._answers = select.poll()  # select() knows no descriptors above 1023
        self._answers.register(self._control, select.POLLIN)
        self._staging: mmap.mmap | None = None
        self.num_requests = 0
        self.resident_bytes = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_usable(self) -> bool:
        """Alive, and neither old nor fat."""
        young = self.num_requests < MAX_REQUESTS and self.resident_bytes < MAX_RESIDENT_BYTES
        return young and self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
        """The answer, and its frames if it has some. Raises `_WorkerDied`, and `VideoError` (`timeout`)."""
        self.num_requests += 1
        deadline = Deadline(self.pid, LIMITS)
        data = json.dumps(request).encode()
        frames: np.ndarray | None = None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # how it died is told by what it answers
            self._control.sendall(LENGTH.pack(len(data)) + data)
        while True:
            message, descriptor = self._receive(deadline)
            match message:
                case {"expects_s": seconds}:
                    deadline.extend(seconds)
                case {"staging_bytes": size}:
                    self._staging = _mapped(descriptor, size)
                case {"shape": shape}:
                    frames = np.empty(shape, np.uint8)
                case {"wanted": wanted, "start": start}:
                    self._empty(wanted, start, frames)
                case _:
                    self.resident_bytes = message["resident_bytes"]
                    return message, frames

    def _empty(self, wanted: list[list[int]], start: int, frames: np.ndarray | None) -> None:
        """Take pictures out of the shared memory."""
        assert self._staging is not None and frames is not None
        picture_bytes = int(np.prod(frames.shape[1:]))
        pictures = np.frombuffer(self._staging, np.uint8, len(wanted) * picture_bytes, start)
        for where, picture in zip(wanted, pictures.reshape(-1, *frames.shape[1:]), strict=True):
            for place in where:
                frames[place] = picture
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.sendall(EMPTIED)

    def end(self) -> None:
        """Kill it and forget it."""
        self._process.kill()
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Close what leads to it: in a forked process it is somebody else's."""
        self._control.close()
        for descriptor in (self._lifeline, self._words):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _receive(self, deadline: Deadline) -> tuple[dict[str, Any], int | None]:
        self._wait(deadline)
        try:
            header, descriptors, *_ = socket.recv_fds(self._control, LENGTH.size, 1)
            if header:
                body = bytearray()
                while len(body) < LENGTH.unpack(header)[0]:
                    self._wait(deadline)
                    body += self._control.recv(LENGTH.unpack(header)[0] - len(body)) or self._raise_died()
                return json.loads(body), descriptors[0] if descriptors else None
        except ConnectionResetError:
            pass
        return self._raise_died()

    def _wait(self, deadline: Deadline) -> None:
        while not self._answers.poll(500):
            deadline.check()

    def _raise_died(self) -> Any:
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        words = Path(f"/proc/self/fd/{self._words}").read_text(errors="replace").strip().splitlines()
        raise _WorkerDied(f"{how}: {words[-1][:200]}" if words else how)


_lock = threading.Lock()
_worker: _Worker | None = None
_reader: VideoReader | None = None
counts: Counter[str] = Counter()
"""What happened in this process: requests by decoder, cross-checks, files that decord is unfit for, lost children."""
waited_s = 0.0
"""Seconds spent in requests."""


def request(operation: str, path: str | os.PathLike[str], **arguments: Any) -> tuple[Any, np.ndarray | None]:
    """Have the child do one operation of `VideoReader` on a file; returns its result and its frames.

    A child that dies is replaced and asked once more, for it may have been killed by somebody.

    Raises:
        VideoError: what is wrong with the file; `timeout` or `decoder_crash` if the decoder hung or died twice.
        RuntimeError: the code failed.
    """
    global waited_s
    start = time.perf_counter()
    try:
        if os.environ.get("STEADYDANCER_DECODE") == "in-process":
            return _request_in_process(operation, path, **arguments)
        return _request_worker(operation, path, **arguments)
    finally:
        waited_s += time.perf_counter() - start


def _request_worker(operation: str, path: str | os.PathLike[str], **arguments: Any) -> tuple[Any, np.ndarray | None]:
    words = {"operation": operation, "path": os.path.abspath(os.fsdecode(path)), **arguments}  # noqa: PTH100 - as named
    with _lock:
        for attempt in (1, 2):
            try:
                answer, frames = _running_worker().ask(words)
                break
            except _WorkerDied as death:
                stop_worker()
                counts["crashes"] += 1
                if attempt == 2:
                    raise VideoError("decoder_crash", f"the decoder died of it twice ({death})") from None
            except BaseException as error:  # an interrupted request would leave its answer to the next
                stop_worker()
                counts["timeouts"] += isinstance(error, VideoError)
                raise
        counts.update(answer["counts"])
    if "bad" in answer:
        raise VideoError(*answer["bad"])
    if "fault" in answer:
        raise RuntimeError(f"decoding {path} failed in the code:\n{answer['fault']}")
    return answer["result"], frames


def _request_in_process(
    operation: str, path: str | os.PathLike[str], **arguments: Any
) -> tuple[Any, np.ndarray | None]:
    global _reader
    with _lock:
        _reader = _reader or VideoReader()
        try:
            result, pictures = perform(_reader, operation, os.fsdecode(path), **arguments)
            return result, None if pictures is None else pictures.array()
        finally:
            counts.update(_reader.counts)
            _reader.counts.clear()


def worker_pid() -> int | None:
    """Of the child that would be asked next, None if one would have to be started."""
    return _worker.pid if _worker is not None and _worker.is_usable() else None


def stop_worker() -> None:
    """End the child; the next request starts another."""
    global _worker
    if _worker is not None:
        _worker.end()
        _worker = None


def _running_worker() -> _Worker:
    global _worker
    if _worker is None or not _worker.is_usable():
        stop_worker()
        _worker = _Worker()
    return _worker


def _mapped(descriptor: int | None, size: int) -> mmap.mmap:
    assert descriptor is not None
    try:
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def _forget_worker() -> None:
    """In a forked process: the child belongs to the parent, and the lock may be held by a thread that is not here."""
    global _worker, _lock
    _lock = threading.Lock()
    if _worker is not None:
        _worker.forget()
        _worker = None


os.register_at_fork(after_in_child=_forget_worker)
atexit.register(stop_worker)
