"""Read and write video files: probe, decode by time, encode. Nothing outside the video modules touches a codec."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from .video_index import DEMUX_OPTIONS, MAX_PIXELS, VideoError, VideoIndex, VideoInfo, error_message, opened, read_index

__all__ = [
    "MAX_PIXELS",
    "VideoError",
    "VideoInfo",
    "decode",
    "decode_low_resolution",
    "encode",
    "frame_times_s",
    "probe",
    "read_metadata",
    "size_for_area",
]

# decord reads this once, when its library loads. Above 0 it may put earlier frames in the place of damaged ones.
# DECORD_EOF_RETRY_MAX keeps its default: it counts polls, and with 64 a good 4K file failed.
os.environ.setdefault("DECORD_REWIND_RETRY_MAX", "0")


def probe(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> VideoInfo:
    """Read container and packets, decode one frame (for its display matrix), and describe the video stream.

    Raises `VideoError`: `unreadable` (missing, empty, no file, no known container), `no_video` (sound only, still
    image), `truncated` (packets missing at the end), `corrupt_frames` (no frame decodes), `too_big` (above
    `max_pixels`).
    """
    return read_index(path, max_pixels).info


def frame_times_s(path: str | os.PathLike[str]) -> np.ndarray:
    """Presentation times [n] of all frames in seconds, float64, increasing, 0 at the first frame."""
    return read_index(path, None).times_s()


def decode(
    path: str | os.PathLike[str], times_s: np.ndarray, height: int | None = None, width: int | None = None
) -> np.ndarray:
    """Frames shown at `times_s` [F] (seconds after the first frame, any order): uint8 [F, H, W, 3] RGB, upright.

    The frame shown at t is the last one whose time is ≤ t; after the end the last frame stays. `height` and `width`
    (both or neither) scale inside the decoder. Reads from the start without seeking, because seeking returns wrong
    frames on open-GOP files. Raises `VideoError`; what decord cannot read PyAV tries, and PyAV's verdict is reported.
    """
    if (height is None) != (width is None):
        raise ValueError(f"give both height and width or neither: height={height}, width={width}")
    index = read_index(path, None)
    # A microsecond: times computed in floating point must not fall just short of the frame they name.
    shown = np.searchsorted(index.times_s(), np.asarray(times_s, np.float64) + 1e-6, side="right") - 1
    if len(shown) == 0 or shown.min() < 0:
        raise ValueError(f"times_s must be one or more times ≥ 0: {times_s}")
    size = (height or index.info.height, width or index.info.width)
    wanted, where = np.unique(shown, return_inverse=True)
    for read in (_read_with_decord, _read_with_pyav):
        frames = _collect(read(path, index, size), wanted, size)
        if frames is not None:
            return frames[where]
    raise VideoError("corrupt_frames", f"the stream ended before frame {wanted[-1]} of {index.info.num_frames}")


def decode_low_resolution(path: str | os.PathLike[str], every_s: float, max_side: int) -> tuple[np.ndarray, np.ndarray]:
    """One pass of small frames: the times asked [n] (0, every_s, … below the duration) and the frames shown then.

    Frames are uint8 [n, h, w, 3]; the longer side is `max_side` pixels, or as stored if that is smaller.
    """
    info = probe(path)
    scale = min(1.0, max_side / max(info.height, info.width))
    times_s = np.arange(0.0, info.duration_s - 1e-6, every_s)
    return times_s, decode(path, times_s, max(1, round(info.height * scale)), max(1, round(info.width * scale)))


def encode(
    frames: np.ndarray | Iterable[np.ndarray],
    path: str | os.PathLike[str],
    fps: float | Fraction = 16,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write uint8 [F, H, W, 3] RGB as an H.264 (yuv420p, crf 18) mp4 with a constant frame rate.

    `frames` may come in pieces, an iterable of such arrays of one size: only one of them is held at a time, and the
    file is the same. The same input gives the same bytes. H and W must be even (`ValueError` otherwise). The file
    appears under its name only when it is whole.
    """
    pieces = iter([frames] if isinstance(frames, np.ndarray) else frames)
    first = next(pieces, np.empty((0, 0, 0, 3), np.uint8))
    _check_frames(first, first.shape[1:3])
    path = Path(path)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        # Without use_metadata_tags the mp4 muxer drops every key it does not know; faststart: browsers play at once.
        movflags = {"movflags": "use_metadata_tags+faststart"}
        with aside.open("wb") as file:
            # Named by number: libav takes no name that is not UTF-8.
            with av.open(f"/dev/fd/{file.fileno()}", "w", format="mp4", container_options=movflags) as container:
                container.metadata.update(metadata or {})
                _write_h264(container, chain([first], pieces), Fraction(fps).limit_denominator(100_000))
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What `encode` was given as metadata, and what the container adds. Raises `VideoError` (`unreadable`)."""
    with opened(path) as name:
        try:
            with av.open(name, options=DEMUX_OPTIONS, metadata_errors="replace") as container:
                return dict(container.metadata)
        except FFmpegError as error:
            raise VideoError("unreadable", f"no container that could be read: {error_message(error)}") from error


def size_for_area(image_height: int, image_width: int, max_area_px: int) -> tuple[int, int]:
    """The release's size rule: (height, width), multiples of 16, near the image's aspect, area ≤ `max_area_px`."""
    ratio = image_height / image_width
    return int(math.sqrt(max_area_px * ratio) // 16) * 16, int(math.sqrt(max_area_px / ratio) // 16) * 16


# A reader yields, for every frame in order of presentation, a function that makes the picture: most frames are passed
# over, and their conversion would cost as much as their decoding. It ends early where another reader should be tried.
_Picture = Callable[[], np.ndarray]


def _collect(pictures: Iterator[_Picture], wanted: np.ndarray, size: tuple[int, int]) -> np.ndarray | None:
    """The pictures at the positions `wanted` (increasing), or None if there are not so many."""
    frames = np.empty((len(wanted), *size, 3), np.uint8)
    found = 0
    for position, picture in enumerate(pictures):
        if position == wanted[found]:
            frames[found] = picture()
            found += 1
            if found == len(wanted):
                return frames
    return None


def _read_with_decord(path: str | os.PathLike[str], index: VideoIndex, size: tuple[int, int]) -> Iterator[_Picture]:
    import decord

    decord.logging.set_level(decord.logging.QUIET)  # what it cannot read is told by exceptions
    height, width = size
    with opened(path) as name:
        try:
            reader = decord.VideoReader(name, ctx=decord.cpu(0), width=width, height=height, num_threads=1)
            # Another count means another idea of which frames are shown (edit lists, dropped packets).
            for _ in range(len(reader) if len(reader) == index.info.num_frames else 0):
                frame = reader.next()
                # decord takes the padding of narrow rows for more channels: 48 pixels come as [H, 48, 4].
                if tuple(frame.shape) != (height, width, 3):
                    return
                yield frame.asnumpy
        # Its errors carry no type: PyAV finds out which it is. StopIteration: the stream ended early.
        except (decord.DECORDError, RuntimeError, StopIteration):
            return


def _read_with_pyav(path: str | os.PathLike[str], index: VideoIndex, size: tuple[int, int]) -> Iterator[_Picture]:
    height, width = size
    turns = index.info.rotation_deg // 90
    stored_height, stored_width = (height, width) if turns % 2 == 0 else (width, height)

    def picture(frame: Any) -> np.ndarray:
        small = frame.reformat(stored_width, stored_height, "rgb24", interpolation="BILINEAR")
        return np.rot90(small.to_ndarray(), -turns)

    position = 0
    with opened(path) as name, av.open(name, options=DEMUX_OPTIONS, metadata_errors="replace") as container:
        stream: Any = container.streams.best("video")
        stream.codec_context.thread_count = 1
        try:
            for frame in container.decode(stream):
                if frame.pts is not None and position < len(index.pts) and frame.pts > index.pts[position]:
                    raise VideoError("corrupt_frames", f"frame {position} is missing")
                yield partial(picture, frame)
                position += 1
        except FFmpegError as error:
            raise VideoError("corrupt_frames", f"frame {position} does not decode: {error_message(error)}") from error


def _check_frames(frames: np.ndarray, size: tuple[int, ...]) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) == 0:
        raise ValueError(f"frames must be uint8 [F ≥ 1, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    if frames.shape[1:3] != size:
        raise ValueError(f"all frames of a video have one size: {list(frames.shape[1:3])} came after {list(size)}")
    height, width = size
    if height % 2 or width % 2:
        raise ValueError(f"yuv420p needs even sides, not height {height}, width {width}: crop or pad the frames")


def _write_h264(container: Any, pieces: Iterable[np.ndarray], fps: Fraction) -> None:
    # Without cpu-independent the assembly of x264 gave one input four different files, and several threads decide
    # otherwise than one.
    options = {"crf": "18", "threads": "1", "x264-params": "cpu-independent=1"}
    stream = container.add_stream("libx264", rate=fps, options=options)
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    position = 0
    for frames in pieces:
        if position == 0:
            stream.height, stream.width = frames.shape[1:3]
        _check_frames(frames, (stream.height, stream.width))
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = position, 1 / fps
            container.mux(stream.encode(frame))
            position += 1
    container.mux(stream.encode(None))
