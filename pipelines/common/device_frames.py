"""Frames of videos as tensors on a GPU, decoded by NVDEC (torchcodec), by the contract of `datasets.video.decode`.

Frames are picked by the times of our own index, upright, in one size. A process of its own decodes, so that a codec
that hangs or crashes ends only that process; its frames cross as shared memory of the device and are never copied to
the host. What a GPU does not read, or reads otherwise than PyAV, is read by `decode`, whose verdict counts.
"""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.arrays import Floats64
from ...datasets.child_processes import serving, start_child
from ...datasets.video import VideoError, VideoIndex, decode, video_index
from ...datasets.video.client import LIMITS, MAX_REQUESTS
from ...datasets.video.deadline import Deadline
from ...datasets.video.info import Identity, identity
from ...datasets.video.reader import MAX_DIFFERENCE, is_cross_checked, seconds_to_decode

if TYPE_CHECKING:
    from torch import Tensor

PathLike = str | os.PathLike[str]
START = serving("steadydancer.pipelines.common.device_decoder")

counts: Counter[str] = Counter()
"""Events of all readers of this process, by the names of `DeviceReader.counts`."""


class DeviceRefusalError(Exception):
    """The device does not read this file, or not as PyAV does."""


def is_installed() -> bool:
    """Return whether torchcodec is installed (the extra `gpu-decoding`)."""
    return importlib.util.find_spec("torchcodec") is not None


class DeviceReader:
    """Reads frames as tensors on a device, in a process that is started at the first request.

    Args:
        device: `cuda`, `cuda:N`; or `cpu`, the same code without a GPU.

    Attributes:
        counts: frames of how many requests came from the device (`device`) and from PyAV or decord (`host`); files
            `refused` by the device, of them `unfit`, whose frames differed; requests `cross_checked`; `lost` processes.
    """

    def __init__(self, device: str) -> None:
        """Set the device; nothing is started yet."""
        self.device = device
        self.counts: Counter[str] = Counter()
        self._refused: set[Identity] = set()
        self._checked_codecs: set[str] = set()  # of which one file was like PyAV's
        self._process: _Process | None = None

    def read(self, path: PathLike, times_s: Floats64, height: int | None = None, width: int | None = None) -> Tensor:
        """Decode the frames displayed at `times_s`, upright; return uint8 [F, H, W, 3] RGB on the device.

        Args:
            path: path of the file.
            times_s: [F] seconds after the first frame, in any order, as for `decode`.
            height: of the result; give both `height` and `width`, or neither.
            width: of the result.

        Raises:
            VideoError: the file cannot be read; the verdict is that of `decode`.
        """
        import torch

        index, file = video_index(path), identity(path)
        if file not in self._refused:
            try:
                frames = self._on_device(path, index, times_s, (height or index.info.height, width or index.info.width))
                self._count("device")
                return frames
            except DeviceRefusalError:
                self._refused.add(file)
                self._count("refused")
        self._count("host")
        return torch.from_numpy(decode(path, times_s, height, width)).to(self.device)

    def close(self) -> None:
        """End the process. Frames on a GPU that it has sent, and that are still in use, are lost."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _count(self, event: str) -> None:
        self.counts[event] += 1
        counts[event] += 1

    def _on_device(
        self, path: str | os.PathLike[str], index: VideoIndex, times_s: Floats64, size: tuple[int, int]
    ) -> Tensor:
        if reason := unsuitable(index):
            raise DeviceRefusalError(reason)
        positions = index.positions_at(times_s)
        if is_cross_checked(index) or index.info.codec not in self._checked_codecs:
            self._cross_check(path, index, positions)
            self._checked_codecs.add(index.info.codec)
        return self._frames(path, index, positions, size)

    def _cross_check(self, path: PathLike, index: VideoIndex, positions: NDArray[np.int64]) -> None:
        """Compare the frames with PyAV's, at their own size: scalers differ by more than decoders."""
        self._count("cross_checked")
        frames = self._frames(path, index, positions, (index.info.height, index.info.width)).cpu().numpy()
        expected = decode(path, index.times_s()[positions]).astype(np.int16)
        difference = np.abs(frames - expected).mean(axis=(1, 2, 3)).max()
        if difference > MAX_DIFFERENCE:
            self._count("unfit")
            raise DeviceRefusalError(f"frames differ from PyAV's by {difference:.1f} levels")

    def _frames(
        self, path: str | os.PathLike[str], index: VideoIndex, positions: NDArray[np.int64], size: tuple[int, int]
    ) -> Tensor:
        request = {
            "path": os.path.abspath(os.fsdecode(path)),  # noqa: PTH100 - as named
            "file": identity(path),
            "mappings": frame_mappings(index),
            "num_frames": index.info.num_frames,
            "positions": positions.tolist(),
            "times_s": index.times_s()[positions].tolist(),
            "whole": (index.info.height, index.info.width),
            "size": size,
        }
        if self._process is None or not self._process.is_usable():
            self.close()
            self._process = _Process(self.device)
        try:
            kind, answer = self._process.request(request, seconds_to_decode(index, positions))
        except (EOFError, OSError, VideoError) as error:  # it crashed or hung; the file's verdict is PyAV's
            self._count("lost")
            self.close()
            raise DeviceRefusalError(str(error)) from error
        except BaseException:
            self.close()  # the next request would read the answer of this one
            raise
        if kind != "frames":
            raise DeviceRefusalError(answer)
        frames: Tensor = answer
        return frames


def unsuitable(index: VideoIndex) -> str | None:
    """Return why frames of a file are not read on a device; None if they are.

    Colours without a tag, alpha, fields and sizes that change are handled by our own reader alone.
    """
    info = index.info
    reasons = {
        "no presentation times": not index.timed,
        "fields": bool(index.deinterlacing),
        "an alpha channel": info.transparent,
        "colours without a tag": info.assumed_bt709,
        "a pixel format other than 8 bits 4:2:0": info.pixel_format not in ("yuv420p", "yuvj420p", "nv12"),
        "a mirror": info.mirrored,  # torchcodec turns frames, and knows no mirror
        "pixels that are not square": index.stored[2] != 1,
        "not H.264 or H.265 in mp4 or Matroska": not (index.suits_decord or info.rotation_deg),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def frame_mappings(index: VideoIndex) -> str:
    """Return our index as torchcodec reads it, so that it seeks only to entries from which decoding is right."""
    entries = {0, *index.entries.tolist()}
    end = index.pts[0] + round(index.info.duration_s / float(index.time_base))
    durations = np.diff(index.pts, append=max(end, index.pts[-1] + 1))
    frames = [
        {"pts": pts, "duration": duration, "key_frame": int(position in entries)}
        for position, (pts, duration) in enumerate(zip(index.pts.tolist(), durations.tolist(), strict=True))
    ]
    return json.dumps({"frames": frames})


class _Process:
    def __init__(self, device: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["LD_LIBRARY_PATH"] = os.pathsep.join([*ffmpeg_folders(), os.environ.get("LD_LIBRARY_PATH", "")])
        self._process, control, self._lifeline = start_child(
            START, device, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        self._connection = Connection(control.detach())
        self._num_requests = 0

    def is_usable(self) -> bool:
        return self._num_requests < MAX_REQUESTS and self._process.poll() is None

    def request(self, request: dict[str, Any], expected_s: float) -> tuple[str, Any]:
        """Send a request and return the answer: its kind, and frames or words.

        Raises:
            EOFError: the process ended.
            VideoError: `timeout`.
        """
        self._num_requests += 1
        deadline = Deadline(self._process.pid, LIMITS)
        deadline.extend(expected_s)
        self._connection.send_bytes(ForkingPickler.dumps(request))
        while not self._connection.poll(0.5):
            deadline.check()
        kind, answer = ForkingPickler.loads(self._connection.recv_bytes())
        return kind, answer

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()
        os.close(self._lifeline)


@functools.cache
def ffmpeg_folders() -> tuple[str, ...]:
    """Return folders with the FFmpeg of PyAV under the names by which torchcodec looks for it.

    Both then read a file by the same code, and the machine needs no FFmpeg. Empty if PyAV was built against another.
    """
    files = importlib.metadata.files("av") or []
    found = {match: file for file in files if (match := re.match(r"(lib(?:av|sw)\w+)-\w+(\.so\.\d+)", file.name))}
    if not found:
        return ()
    folder = tempfile.TemporaryDirectory(prefix="steadydancer-ffmpeg-")
    atexit.register(folder.cleanup)
    links = Path(folder.name)
    for match, file in found.items():
        link = links / f"{match[1]}{match[2]}"
        link.symlink_to(Path(str(file.locate())))
    return str(links), str(Path(str(next(iter(found.values())).locate())).parent)
