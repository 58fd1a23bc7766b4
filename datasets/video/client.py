"""Client of the decoding worker: start it, send requests, enforce time limits, stop and replace it.

One worker process (see `worker`) answers the requests of this process in order. `STEADYDANCER_DECODE=in-process`
decodes in this process instead, for debugging.
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
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..child_processes import start_child
from .deadline import Deadline, Limits
from .info import VideoError
from .reader import VideoReader
from .worker import EMPTIED, LENGTH, perform

LIMITS = Limits()

# Replace the worker after this many requests or bytes of resident memory.
MAX_REQUESTS = 1000
MAX_RESIDENT_BYTES = 1 << 30

# Code of the worker. It imports modules from the paths of this process only.
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from steadydancer.datasets.video.worker import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)


class _WorkerDied(Exception):
    """The worker ended. The message has the signal or exit status, and its last line of stderr."""


class _Worker:
    def __init__(self) -> None:
        self._stderr = os.memfd_create("stderr")
        self._process, self._control, self._lifeline = start_child(
            START,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            # One arena, so that memory of freed frames is reused for frames of another size.
            env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        )
        self._answers = select.poll()  # select() does not support descriptors above 1023
        self._answers.register(self._control, select.POLLIN)
        self._staging: mmap.mmap | None = None
        self.num_requests = 0
        self.resident_bytes = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_usable(self) -> bool:
        """Check whether the process is alive and below both recycling limits."""
        within_limits = self.num_requests < MAX_REQUESTS and self.resident_bytes < MAX_RESIDENT_BYTES
        return within_limits and self._process.poll() is None

    def request(self, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
        """Send a request and return the answer and its frames, if any.

        Raises:
            _WorkerDied: the worker ended.
            VideoError: `timeout`.
        """
        self.num_requests += 1
        deadline = Deadline(self.pid, LIMITS)
        data = json.dumps(request).encode()
        frames: np.ndarray | None = None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `_receive` reports a dead worker
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
        """Copy pictures from the shared memory to `frames`."""
        assert self._staging is not None and frames is not None
        picture_bytes = int(np.prod(frames.shape[1:]))
        pictures = np.frombuffer(self._staging, np.uint8, len(wanted) * picture_bytes, start)
        for where, picture in zip(wanted, pictures.reshape(-1, *frames.shape[1:]), strict=True):
            for place in where:
                frames[place] = picture
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.sendall(EMPTIED)

    def end(self) -> None:
        """Kill the process and close its descriptors."""
        self._process.kill()
        self._process.wait()
        self.forget()

    def forget(self) -> None:
        """Close the descriptors without killing the process. In a forked process it belongs to the parent."""
        self._control.close()
        for descriptor in (self._lifeline, self._stderr):
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
        lines = Path(f"/proc/self/fd/{self._stderr}").read_text(errors="replace").strip().splitlines()
        raise _WorkerDied(f"{how}: {lines[-1][:200]}" if lines else how)


_lock = threading.Lock()
_worker: _Worker | None = None
_reader: VideoReader | None = None
counts: Counter[str] = Counter()
"""Events of this process: requests by decoder, cross-checks, files that decord cannot read, lost workers."""
waited_s = 0.0
"""Seconds spent in requests."""


def request(operation: str, path: str | os.PathLike[str], **arguments: Any) -> tuple[Any, np.ndarray | None]:
    """Run one operation of `VideoReader` on a file in the worker and return its result and frames.

    If the worker dies, a new one gets the request once more, because another process may have killed the first one.

    Raises:
        VideoError: the file is faulty, or `timeout`, or `decoder_crash` after two crashes.
        RuntimeError: the worker failed with an unexpected error.
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
    message = {"operation": operation, "path": os.path.abspath(os.fsdecode(path)), **arguments}  # noqa: PTH100 - as named
    with _lock:
        for attempt in (1, 2):
            try:
                answer, frames = _running_worker().request(message)
                break
            except _WorkerDied as death:
                stop_worker()
                counts["crashes"] += 1
                if attempt == 2:
                    raise VideoError("decoder_crash", f"the decoder crashed twice on this file ({death})") from None
            except BaseException as error:  # the next request would read the answer of an interrupted one
                stop_worker()
                counts["timeouts"] += isinstance(error, VideoError)
                raise
        counts.update(answer["counts"])
    if "video_error" in answer:
        raise VideoError(*answer["video_error"])
    if "traceback" in answer:
        raise RuntimeError(f"decoding {path} failed with an unexpected error:\n{answer['traceback']}")
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
    """Return the process id of the worker for the next request, or None if it is not running."""
    return _worker.pid if _worker is not None and _worker.is_usable() else None


def stop_worker() -> None:
    """Stop the worker. The next request starts another."""
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
    """Reset the state in a forked process: the worker belongs to the parent, and the lock may be locked forever."""
    global _worker, _lock
    _lock = threading.Lock()
    if _worker is not None:
        _worker.forget()
        _worker = None


os.register_at_fork(after_in_child=_forget_worker)
atexit.register(stop_worker)
