"""Forward-reading decoders: PyAV, which can start at a random access point, and decord, which cannot."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any, cast

import av
import numpy as np
from av.error import FFmpegError

from .display import Display, Size, decoder_of
from .info import DEMUX_OPTIONS, VideoError, VideoIndex, error_message, opened
from .interlacing import deinterlace

# decord reads this once, when its library loads. Above 0, it may replace damaged frames by earlier ones.
# DECORD_EOF_RETRY_MAX keeps its default: it counts polls, and with 64 a valid 4K file failed.
os.environ.setdefault("DECORD_REWIND_RETRY_MAX", "0")

# A seek flushes the decoder, which costs about as much as a few frames.
_MIN_FRAMES_TO_SEEK = 8

# decord returns times in single precision.
_MAX_TIME_DIFFERENCE_S = 2e-3


class PyavCursor:
    """Decoder at one frame of a file. It reads forward to later frames and seeks to the nearest entry for others."""

    def __init__(self, path: str | os.PathLike[str], index: VideoIndex) -> None:
        self._path, self._index = path, index
        self._entry_of = dict(zip(index.entry_times.tolist(), index.entries.tolist(), strict=True))
        self._open()

    def picture(self, position: int, size: Size, filter_name: str = "BILINEAR") -> np.ndarray:
        """Return the frame at `position`, uint8 [H, W, 3], upright, scaled by a filter of swscale.

        Raises:
            VideoError: the frame is missing or damaged.
        """
        try:
            self._advance(position)
        except FFmpegError as error:
            message = f"frame {self._position + 1} cannot be decoded: {error_message(error)}"
            raise VideoError("corrupt_frames", message) from error
        return self._display.picture(self._frame, size, filter_name)

    def _open(self) -> None:
        with opened(self._path) as name:
            self._container: Any = av.open(name, options=DEMUX_OPTIONS, metadata_errors="replace")
        self._stream = cast(Any, self._container.streams.best("video"))
        self._context = decoder_of(self._stream)
        self._display = Display(self._index, self._context)
        self._begin(self._container.demux(self._stream), 0)

    def _begin(self, packets: Iterator[Any], position: int) -> None:
        checked = self._checked((frame for packet in packets for frame in self._context.decode(packet)), position)
        self._frames = deinterlace(checked, self._index.deinterlacing) if self._index.deinterlacing else checked
        self._frame: Any = None
        self._position = position - 1

    def _checked(self, frames: Iterator[Any], position: int) -> Iterator[Any]:
        """Yield decoded frames from `position` on. Raises `VideoError` at a damaged frame or a wrong timestamp."""
        for place, frame in enumerate(frames, position):
            if frame.is_corrupt:
                raise VideoError("corrupt_frames", f"frame {place} is damaged")
            if self._index.timed and frame.pts is not None and place < len(self._index.pts):
                _compare_times(frame.pts, int(self._index.pts[place]), place)
            yield frame

    def _advance(self, target: int) -> None:
        behind = target < self._position or (target == self._position and self._frame is None)
        if behind or self._entry_before(target) > self._position + _MIN_FRAMES_TO_SEEK:
            self._seek(target)
        while self._position < target:
            frame: Any = next(self._frames, None)
            if frame is None:
                num_frames = self._index.info.num_frames
                raise VideoError(
                    "corrupt_frames", f"the stream ended after {self._position + 1} of {num_frames} frames"
                )
            self._frame = frame
            self._position += 1
            self._display.check(frame)

    def _entry_before(self, target: int) -> int:
        # The deinterlacer needs the previous frame.
        return self._index.entry_before(max(0, target - 1) if self._index.deinterlacing else target)

    def _seek(self, target: int) -> None:
        """Start again at the last entry before `target` that the container finds, else at the start of the file."""
        entry = self._entry_before(target)
        if entry > 0:
            place = int(np.searchsorted(self._index.entries, entry))
            self._container.seek(int(self._index.entry_times[place]), stream=self._stream)
            packets = self._container.demux(self._stream)
            first: Any = next(packets, None)
            landed = self._entry_of.get(first.dts) if first is not None and first.size else None
            # The container may list fewer key frames than the packets have, or other ones.
            if landed is not None and landed <= target and first.pts == self._index.pts[landed]:
                self._begin(_after(first, packets), landed)
                return
        self._container.close()
        self._open()


def key_pictures(
    path: str | os.PathLike[str], index: VideoIndex, positions: list[int], size: Size
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (position, frame) at some entries of the index, in order, by decoding only their packets.

    It reads packets in order, without seeking. An entry decoded alone gives the same frame as in a full pass.

    Raises:
        VideoError: a key frame is missing or damaged.
    """
    wanted = {
        int(time): int(position)
        for position, time in zip(index.entries, index.entry_times, strict=True)
        if position in positions
    }
    if not wanted:
        return
    with opened(path) as name:
        container: Any = av.open(name, options=DEMUX_OPTIONS, metadata_errors="replace")
    with container:
        stream = cast(Any, container.streams.best("video"))
        context = decoder_of(stream)
        display = Display(index, context)
        try:
            for packet in container.demux(stream):
                position = wanted.get(packet.dts) if packet.size and packet.is_keyframe else None
                if position is None:
                    continue
                frames = [*context.decode(packet), *context.decode(None)]
                context.flush_buffers()
                if len(frames) != 1 or frames[0].is_corrupt or frames[0].pts != index.pts[position]:
                    raise VideoError("corrupt_frames", f"key frame {position} is damaged")
                display.check(frames[0])
                yield position, display.picture(frames[0], size)
                del wanted[packet.dts]
                if not wanted:
                    return
        except FFmpegError as error:
            raise VideoError("corrupt_frames", f"a key frame cannot be decoded: {error_message(error)}") from error
    if wanted:
        raise VideoError("corrupt_frames", f"key frame {min(wanted.values())} is missing")


def _compare_times(pts: int, expected: int, position: int) -> None:
    if pts > expected:
        raise VideoError("corrupt_frames", f"frame {position} is missing")
    if pts < expected:
        raise VideoError("vfr_bad_ts", f"frame {position} has an earlier timestamp than expected")


def _after(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def has_decord() -> bool:
    """Return whether decord is installed. It has wheels for Linux on x86_64 alone; elsewhere PyAV reads every frame."""
    return importlib.util.find_spec("decord") is not None


class DecordRefusal(Exception):
    """decord cannot read this file, or not at this size. Its errors have no type, so PyAV determines the reason."""


class DecordCursor:
    """Decoder at one frame of a file, which reads forward in one size. It never seeks, because decord's seeks return
    wrong frames on open GOPs.
    """

    def __init__(self, path: str | os.PathLike[str], index: VideoIndex, size: Size) -> None:
        import decord

        decord.logging.set_level(decord.logging.QUIET)  # exceptions report the failures
        self._errors = (decord.DECORDError, RuntimeError, StopIteration)  # StopIteration: the stream ended early
        self.size = size
        self.position = -1
        self._frame: Any = None
        with opened(path) as name:
            try:
                self._reader = decord.VideoReader(name, decord.cpu(0), width=size[1], height=size[0], num_threads=1)
            except self._errors as error:
                raise DecordRefusal("decord cannot open the file") from error
        # A different count or different times mean a different set of displayed frames (edit lists, dropped packets).
        if len(self._reader) != index.info.num_frames:
            raise DecordRefusal(f"decord reports {len(self._reader)} frames, the packets {index.info.num_frames}")
        times_s = np.sort(self._reader.get_frame_timestamp(np.arange(len(self._reader)))[:, 0]).astype(np.float64)
        if np.abs(times_s - times_s[0] - index.times_s()).max() > _MAX_TIME_DIFFERENCE_S:
            raise DecordRefusal("decord's timestamps differ from those of the packets")

    def picture(self, position: int) -> np.ndarray:
        """Return the frame at `position`, which must not precede the current one. Raises `DecordRefusal`."""
        try:
            while self.position < position:
                self._frame = self._reader.next()
                self.position += 1
        except self._errors as error:
            raise DecordRefusal(f"decord stops at frame {self.position + 1}") from error
        # decord returns the padding of narrow rows as a channel: 48 pixels give [H, 48, 4].
        if tuple(self._frame.shape) != (*self.size, 3):
            raise DecordRefusal(f"decord adds padding to rows of {self.size[1]} pixels")
        return self._frame.asnumpy()
