"""Worker process for decoding. It answers requests in order and exits with the process that started it.

Codecs may hang or crash on broken or hostile files. That ends only this process, and the parent (`client`) reports the
file. The module imports nothing heavy, so that the worker starts fast.

A message is four bytes of length and a JSON object. Frames are passed through one small shared-memory buffer that is
reused: new memory for each clip would cost a tenth of the decoding time and would stay shared with forks of the parent.
"""

from __future__ import annotations

import contextlib
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

from ..child_processes import exit_with_parent
from .info import VideoError, VideoIndex
from .reader import Pictures, VideoReader
from .sound_samples import decode_sound

LENGTH = struct.Struct("!I")
EMPTIED = b"+"

_STAGING_BYTES = 32 << 20


class Staging:
    """Shared-memory double buffer: this process fills one half while the parent reads the other."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._memory: mmap.mmap | None = None
        self._half_bytes = 0
        self._half = 0
        self._unacknowledged = 0

    def send(self, pictures: Pictures) -> None:
        """Send each picture once with its indices in the result. Returns when the parent has copied all of them."""
        height, width, channels = pictures.shape[1:]
        picture_bytes = height * width * channels
        self._reserve(picture_bytes)
        _send(self._control, {"shape": pictures.shape})
        wanted: list[list[int]] = []
        try:
            for where, picture in pictures.stream:
                start = self._half * self._half_bytes + len(wanted) * picture_bytes
                slot = np.frombuffer(self._memory or b"", np.uint8, picture_bytes, start)
                slot.reshape(picture.shape)[:] = picture
                wanted.append(where.tolist())
                if (len(wanted) + 1) * picture_bytes > self._half_bytes:
                    self._submit(wanted)
                    wanted = []
            if wanted:
                self._submit(wanted)
        finally:
            self._wait_until_emptied(0)

    def _submit(self, wanted: list[list[int]]) -> None:
        """Offer the full half, and wait until the parent has emptied the other."""
        _send(self._control, {"wanted": wanted, "start": self._half * self._half_bytes})
        self._unacknowledged += 1
        self._half = 1 - self._half
        self._wait_until_emptied(1)

    def _wait_until_emptied(self, num_left: int) -> None:
        while self._unacknowledged > num_left:
            self._control.recv(1)
            self._unacknowledged -= 1

    def _reserve(self, picture_bytes: int) -> None:
        if self._memory is not None and picture_bytes <= self._half_bytes:
            return
        self._half_bytes = max(_STAGING_BYTES // 2, picture_bytes)
        descriptor = os.memfd_create("frames")
        os.ftruncate(descriptor, 2 * self._half_bytes)
        self._memory = mmap.mmap(descriptor, 2 * self._half_bytes)
        _send(self._control, {"staging_bytes": 2 * self._half_bytes}, descriptor)
        os.close(descriptor)


def serve(control_descriptor: int, lifeline: int) -> None:
    """Answer requests until the parent exits.

    Args:
        control_descriptor: socket for requests and answers.
        lifeline: read end of an unused pipe whose write end only the parent has open.
    """
    exit_with_parent(lifeline)
    _contain_crashes()
    control = socket.socket(fileno=control_descriptor)
    reader = VideoReader(lambda seconds: _send(control, {"expects_s": seconds}))
    staging = Staging(control)
    while True:
        header = control.recv(LENGTH.size, socket.MSG_WAITALL)
        if len(header) < LENGTH.size:
            return
        request = json.loads(control.recv(LENGTH.unpack(header)[0], socket.MSG_WAITALL))
        answer = _answer(reader, staging, request)
        _send(control, answer | {"counts": dict(reader.counts), "resident_bytes": _resident_bytes()})
        reader.counts.clear()


def _answer(reader: VideoReader, staging: Staging, request: dict[str, Any]) -> dict[str, Any]:
    try:
        result, pictures = perform(reader, **request)
        if pictures is not None:
            staging.send(pictures)
        return {"result": result}
    except VideoError as error:
        return {"video_error": [error.reason, error.detail]}
    except MemoryError as error:
        return {"video_error": ["too_big", f"not enough memory: {error}"]}
    except Exception:
        return {"traceback": traceback.format_exc()}


def perform(reader: VideoReader, operation: str, path: str, **arguments: Any) -> tuple[Any, Pictures | None]:
    """Run one operation of `VideoReader` and return its result without pictures, as JSON values, and its pictures."""
    if operation == "index":
        return _to_json(reader.index(path, **arguments)), None
    if operation == "frames":
        size = arguments["size"]
        return None, reader.frames(path, np.array(arguments["times_s"]), (size[0], size[1]) if size else None)
    if operation == "sound":
        index = reader.index(path)
        return decode_sound(path, float(index.pts[0] * index.time_base), **arguments)
    times_s, pictures = getattr(reader, operation)(path, **arguments)
    return times_s.tolist(), pictures


def _to_json(index: VideoIndex) -> dict[str, Any]:
    return {
        "pts": index.pts.tolist(),
        "time_base": str(index.time_base),
        "info": asdict(index.info),
        "timed": index.timed,
        "suits_decord": index.suits_decord,
        "entries": index.entries.tolist(),
        "entry_times": index.entry_times.tolist(),
        "stored": index.stored,
        "deinterlacing": index.deinterlacing,
    }


def _send(control: socket.socket, message: dict[str, Any], descriptor: int | None = None) -> None:
    data = json.dumps(message).encode()
    socket.send_fds(control, [LENGTH.pack(len(data))], [] if descriptor is None else [descriptor])
    control.sendall(data)


def _contain_crashes() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900")  # the first process to kill when memory runs out


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
