"""What a video file is: find its stream and the times of its frames by reading packets, or say what is wrong with it.

Files are opened through ``/dev/fd/N``: the decoders then see content and no name, so a name in any encoding works,
a wrong suffix misleads nobody, and a name that looks like a protocol or a frame pattern is not taken for one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
from av.error import FFmpegError

Reason = Literal["unreadable", "no_video", "truncated", "corrupt_frames", "too_big", "timeout", "decoder_crash"]

MAX_PIXELS = 4096 * 4096
"""Largest frame that `probe` lets through: one RGB frame of it is 48 MiB."""

# Formats that open further files (playlists, concat scripts, image sequences) stay out: a clip must be one file.
_VIDEO_FORMATS = "mov,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,h264,hevc,ivf,rm,mxf,wtv,nut"
_STILL_FORMATS = "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe,gif_pipe,j2k_pipe"
_SOUND_FORMATS = "mp3,wav,flac,aac,aiff,ac3"
DEMUX_OPTIONS = {"format_whitelist": f"{_VIDEO_FORMATS},{_STILL_FORMATS},{_SOUND_FORMATS}"}
_STILL_BRANDS = ("avif", "heic", "heix", "mif1")


class VideoError(Exception):
    """A file that cannot be used as a video: `reason` is a class of faults, `detail` what was seen in this file."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about its video stream. Sizes are pixels as shown, after the turn of `rotation_deg`."""

    codec: str
    width: int
    height: int
    rotation_deg: int
    """Clockwise turn that makes the stored frames upright: 0, 90, 180 or 270."""
    fps: float
    """Mean frame rate over the whole file, frames / seconds."""
    duration_s: float
    """From the first frame shown to the end of the last one."""
    num_frames: int
    pixel_format: str


@dataclass(frozen=True)
class VideoIndex:
    """Presentation times of all frames, in order, in units of `time_base` seconds."""

    pts: np.ndarray
    time_base: Fraction
    info: VideoInfo

    def times_s(self) -> np.ndarray:
        """Seconds after the first frame, float64 [n]."""
        return (self.pts - self.pts[0]) * float(self.time_base)


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[str]:
    """A nameless path to an open regular file."""
    try:
        # Non-blocking, or opening a pipe without a writer would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise VideoError("unreadable", f"cannot open: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise VideoError("unreadable", "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file")
        if status.st_size == 0:
            raise VideoError("unreadable", "the file is empty")
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


def read_index(path: str | os.PathLike[str], max_pixels: int | None) -> VideoIndex:
    """Read all packets and decode one frame; `max_pixels` None lets any size through. Raises `VideoError`."""
    with opened(path) as name:
        try:
            with av.open(name, options=DEMUX_OPTIONS, metadata_errors="replace") as container:
                stream = _video_stream(container, max_pixels)
                return _describe(stream, *_read_packets(container, stream))
        except (FFmpegError, EOFError) as error:
            raise VideoError("unreadable", f"no container that could be read: {error_message(error)}") from error


def _video_stream(container: Any, max_pixels: int | None) -> Any:
    brand = container.metadata.get("major_brand", "").strip()
    if container.format.name in _STILL_FORMATS.split(",") or brand in _STILL_BRANDS:
        raise VideoError("no_video", f"a still image ({brand or container.format.name})")
    stream = container.streams.best("video")
    if stream is None:
        kinds = sorted({stream.type for stream in container.streams})
        raise VideoError("no_video", f"no video stream; streams: {', '.join(kinds) or 'none'}")
    if stream.disposition & av.stream.Disposition.attached_pic:
        raise VideoError("no_video", "only a cover picture")
    context = stream.codec_context
    if context is None:
        raise VideoError("unreadable", "no decoder for the video stream")
    pixels = context.width * context.height
    if max_pixels is not None and pixels > max_pixels:
        raise VideoError("too_big", f"{context.width}×{context.height} has more than {max_pixels} pixels")
    context.thread_count = 1
    return stream


def _read_packets(container: Any, stream: Any) -> tuple[np.ndarray, int, Any]:
    """Sorted times of the frames shown, the duration (0: not given) of the last one, and the first frame."""
    times: list[tuple[int | None, int]] = []
    num_packets = 0
    first_frame = None
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise VideoError("truncated", f"packet {num_packets} is cut off")
            if first_frame is None:
                first_frame = _first_frame(packet)
            num_packets += packet.size > 0
            # Discarded packets lie outside the edit list: they are decoded, for the sake of others, and not shown.
            if packet.size > 0 and not packet.is_discard:
                times.append((packet.dts if packet.pts is None else packet.pts, packet.duration or 0))
    except FFmpegError as error:
        raise VideoError("truncated", f"reading stopped after {num_packets} packets: {error_message(error)}") from error
    # Only mp4's table of samples is exact; other containers announce an estimate.
    if "mp4" in container.format.name and num_packets < stream.frames:
        raise VideoError("truncated", f"{num_packets} of {stream.frames} packets are there")
    if len(times) == 0:
        raise VideoError("no_video", "the video stream holds no packet")
    if first_frame is None:
        raise VideoError("corrupt_frames", f"none of {num_packets} packets gives a frame")
    if any(time is None for time, _ in times):
        return np.arange(len(times)), 0, first_frame
    pts, durations = np.array(sorted(times), np.int64).T
    return pts, int(durations[-1]), first_frame


def _first_frame(packet: Any) -> Any:
    try:
        return next(iter(packet.decode()), None)
    except FFmpegError as error:
        raise VideoError("corrupt_frames", f"the first frame does not decode: {error_message(error)}") from error


def _describe(stream: Any, pts: np.ndarray, last_duration: int, frame: Any) -> VideoIndex:
    rotation_deg = round(-frame.rotation / 90) * 90 % 360
    height, width = (frame.height, frame.width) if rotation_deg % 180 == 0 else (frame.width, frame.height)
    time_base = stream.time_base
    step = float(np.median(np.diff(pts))) if len(pts) > 1 else 1 / float((stream.guessed_rate or 25) * time_base)
    duration_s = float((int(pts[-1] - pts[0]) + (last_duration or step)) * time_base)
    return VideoIndex(
        pts,
        time_base,
        VideoInfo(
            codec=stream.codec_context.codec.canonical_name,
            width=width,
            height=height,
            rotation_deg=rotation_deg,
            fps=len(pts) / duration_s,
            duration_s=duration_s,
            num_frames=len(pts),
            pixel_format=frame.format.name,
        ),
    )


def error_message(error: BaseException) -> str:
    """The library's own words, without the name the file was opened by."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
