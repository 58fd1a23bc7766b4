"""Read and write video files: probe, decode by time, encode. Nothing outside the video modules touches a codec.

Files are read in a process of their own (`video_process`), which may hang or crash without harm.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from ..storage.atomic import atomic_write
from . import client as video_process
from . import sound as video_sound
from .display import is_hd
from .info import DEMUX_OPTIONS, MAX_DURATION_S, MAX_PIXELS, VideoError, VideoIndex, VideoInfo, error_message, opened
from .sound_samples import RATE_HZ

__all__ = [
    "MAX_DURATION_S",
    "MAX_PIXELS",
    "VideoError",
    "VideoInfo",
    "decode",
    "decode_key_frames",
    "decode_low_resolution",
    "decode_sparse",
    "decoding_counts",
    "decoding_seconds",
    "encode",
    "frame_times_s",
    "low_resolution_pieces",
    "probe",
    "read_metadata",
    "size_for_area",
]


def probe(
    path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, max_duration_s: float = MAX_DURATION_S
) -> VideoInfo:
    """Read container and packets, decode one frame (for its display matrix), and describe the video stream.

    Raises `VideoError`: `unreadable` (missing, empty, no file, no known container), `no_video` (sound only, still
    image), `truncated` (packets missing at the end), `corrupt_frames` (no frame decodes), `vfr_bad_ts` (times by which
    no frame can be picked), `unsupported_hdr` (PQ, HLG, or BT.2020 in more than 8 bits), `too_big` (above
    `max_pixels` or `max_duration_s`); as all reading does, `timeout` and `decoder_crash`.
    """
    return _index(path, max_pixels, max_duration_s).info


def frame_times_s(path: str | os.PathLike[str]) -> np.ndarray:
    """Presentation times [n] of all frames in seconds, float64, increasing, 0 at the first frame."""
    return _index(path).times_s()


def decode(
    path: str | os.PathLike[str], times_s: np.ndarray, height: int | None = None, width: int | None = None
) -> np.ndarray:
    """Frames shown at `times_s` [F] (seconds after the first frame, any order): uint8 [F, H, W, 3] RGB, upright.

    The frame shown at t is the last one whose time is ≤ t; after the end the last frame stays. `height` and `width`
    (both or neither) scale inside the decoder. A run of frames that has to be read from the start is decord's, in one
    pass without seeking, because its seeks return wrong frames on open groups; PyAV reads what decord cannot, sparse
    frames, and what lies behind a picture at which decoding can begin anew. Spans asked for in their order are read
    on, so that a file's clips cost one pass. Raises `VideoError`; where decord fails, PyAV's verdict is reported.
    """
    if (height is None) != (width is None):
        raise ValueError(f"give both height and width or neither: height={height}, width={width}")
    times = np.asarray(times_s, np.float64)
    if times.ndim != 1 or len(times) == 0 or not (times >= 0).all():
        raise ValueError(f"times_s must be one or more times ≥ 0: {times_s}")
    size = None if height is None else [int(height), int(width or 0)]
    return _frames(video_process.request("frames", path, times_s=times.tolist(), size=size)[1])


def decode_low_resolution(path: str | os.PathLike[str], every_s: float, max_side: int) -> tuple[np.ndarray, np.ndarray]:
    """One pass of small frames: the times asked [n] (0, every_s, … below the duration) and the frames shown then.

    Frames are uint8 [n, h, w, 3]; the longer side is `max_side` pixels, or as stored if that is smaller. The frames
    that `decode_sparse` may ask for are kept on the way, and cost no second pass soon after.
    """
    times_s, frames = video_process.request("low_resolution", path, every_s=every_s, max_side=max_side)
    return np.array(times_s), _frames(frames)


def low_resolution_pieces(
    path: str | os.PathLike[str], every_s: float, max_side: int, piece_frames: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same pass in pieces of so many frames: (times, frames) of each, for sources whose pass is too large to hold.

    Other files may be asked for in between, but then what was read of this one is read again.
    """
    first = 0
    while True:
        piece = {"first": first, "count": piece_frames}
        times_s, frames = video_process.request("low_resolution", path, every_s=every_s, max_side=max_side, **piece)
        if times_s:
            yield np.array(times_s), _frames(frames)
        if len(times_s) < piece_frames:
            return
        first += piece_frames


def decode_key_frames(
    path: str | os.PathLike[str], largest_gap_s: float, least_pixels: int, count: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A few frames at which decoding can begin anew, at a tenth of a pass's cost: times [n] and uint8 [n, h, w, 3].

    As few as leave no longer gap than `largest_gap_s` between them and to the end; of these only the first
    `count`, if that is given. None (n = 0) where the file has not enough of them, or holds fewer pixels in all its
    frames than `least_pixels`. Their size is that of `decode_sparse`.
    """
    arguments = {"largest_gap_s": largest_gap_s, "least_pixels": least_pixels, "count": count}
    times_s, frames = video_process.request("key_frames", path, **arguments)
    return np.array(times_s), _frames(frames)


def decode_sparse(
    path: str | os.PathLike[str], start_s: float, end_s: float, num_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """A few frames of a span, for scores: their times [n] and the frames, uint8 [n, h, w, 3], n ≤ `num_frames`.

    The times are multiples of half a second, spread over the span; `num_frames` times freely spread where the span
    holds fewer than two of those. The shorter side is 256 pixels, or as stored if that is smaller; both are even.
    """
    arguments = {"start_s": start_s, "end_s": end_s, "num_frames": num_frames}
    times_s, frames = video_process.request("sparse", path, **arguments)
    return np.array(times_s), _frames(frames)


def decoding_seconds() -> float:
    """How long this process has waited for frames and indices since it began."""
    return video_process.waited_s


def decoding_counts() -> dict[str, int]:
    """What happened since this process began; what did not happen has no entry.

    Requests by reader: `decord`, `pyav`, `kept` (from an earlier pass), `key_frames` alone. Files that decord cannot
    read: `decord_refused`, among them `decord_unfit`, whose frames were not PyAV's (which were given). Frames held
    against PyAV's: `cross_checked`. Children lost: `crashes`, `timeouts`.
    """
    return dict(video_process.counts)


def _index(
    path: str | os.PathLike[str], max_pixels: int | None = None, max_duration_s: float | None = None
) -> VideoIndex:
    words, _ = video_process.request("index", path, max_pixels=max_pixels, max_duration_s=max_duration_s)
    return VideoIndex(
        np.array(words["pts"], np.int64),
        Fraction(words["time_base"]),
        VideoInfo(**words["info"]),
        words["timed"],
        words["suits_decord"],
        np.array(words["entries"], np.int64),
        np.array(words["entry_times"], np.int64),
        tuple(words["stored"]),
        words["deinterlacing"],
    )


def _frames(frames: np.ndarray | None) -> np.ndarray:
    assert frames is not None
    return frames


def encode(
    frames: np.ndarray | Iterable[np.ndarray],
    path: str | os.PathLike[str],
    fps: float | Fraction = 16,
    metadata: dict[str, str] | None = None,
    lossless: bool = False,
    sound: video_sound.Sound | None = None,
) -> None:
    """Write uint8 [F, H, W, 3] RGB as an H.264 (yuv420p, crf 18) mp4 with a constant frame rate.

    Its colours are stored by the matrix that players take for a video of this size (BT.709 for HD, else BT.601), and
    stream and container name it: players that read tags and players that do not show the same.

    `lossless` keeps every bit of the RGB (qp 0, gbrp): FFmpeg and what is built on it read such files, browsers do not.
    `sound` is written beside the pictures as AAC, as long as they last.

    `frames` may come in pieces, an iterable of such arrays of one size: only one of them is held at a time, and the
    file is the same. The same input gives the same bytes. H and W must be even (`ValueError` otherwise). The file
    appears under its name only when it is whole.
    """
    pieces = iter([frames] if isinstance(frames, np.ndarray) else frames)
    first = next(pieces, np.empty((0, 0, 0, 3), np.uint8))
    _check_frames(first, first.shape[1:3])
    path = Path(path)
    # Without use_metadata_tags the mp4 muxer drops every key it does not know; faststart: browsers play at once.
    movflags = {"movflags": "use_metadata_tags+faststart+write_colr"}
    # Named by number: libav takes no name that is not UTF-8.
    with (
        atomic_write(path, keeps_suffix=False) as aside,
        aside.open("wb") as file,
        av.open(f"/dev/fd/{file.fileno()}", "w", format="mp4", container_options=movflags) as container,
    ):
        container.metadata.update(metadata or {})
        _write_h264(container, chain([first], pieces), Fraction(fps).limit_denominator(100_000), lossless, sound)


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


def _check_frames(frames: np.ndarray, size: tuple[int, ...]) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) == 0:
        raise ValueError(f"frames must be uint8 [F ≥ 1, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    if frames.shape[1:3] != size:
        raise ValueError(f"all frames of a video have one size: {list(frames.shape[1:3])} came after {list(size)}")
    height, width = size
    if height % 2 or width % 2:
        raise ValueError(f"yuv420p needs even sides, not height {height}, width {width}: crop or pad the frames")


def _write_h264(
    container: Any, pieces: Iterable[np.ndarray], fps: Fraction, lossless: bool, sound: video_sound.Sound | None
) -> None:
    # Without cpu-independent the assembly of x264 gave one input four different files, and several threads decide
    # otherwise than one.
    options = {"qp": "0"} if lossless else {"crf": "18"}
    options |= {"threads": "1", "x264-params": "cpu-independent=1"}
    stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=fps, options=options)
    stream.pix_fmt = "rgb24" if lossless else "yuv420p"
    stream.codec_context.thread_count = 1
    audio = None if sound is None else video_sound.add_stream(container, sound)
    scaler, matrix, position = VideoReformatter(), Colorspace.ITU601, 0
    for frames in pieces:
        if position == 0:
            stream.height, stream.width = frames.shape[1:3]
            if not lossless:
                matrix = _tag_colours(stream)
        _check_frames(frames, (stream.height, stream.width))
        for pixels in frames:
            frame: Any = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if not lossless:
                to = {"dst_colorspace": matrix, "dst_color_range": ColorRange.MPEG}
                frame = scaler.reformat(frame, format="yuv420p", **to)
            frame.pts, frame.time_base = position, 1 / fps
            container.mux(stream.encode(frame))
            position += 1
    container.mux(stream.encode(None))
    if sound is not None:
        longest = round(float(position / fps) * RATE_HZ)
        video_sound.write(container, audio, video_sound.Sound(sound.samples[:longest]))


def _tag_colours(stream: Any) -> Colorspace:
    """Name the colours of a stream that is written; returns the matrix by which they are to be stored.

    sRGB has the primaries of BT.709, and players show its curve and BT.709's alike.
    """
    context, hd = stream.codec_context, is_hd(stream.width, stream.height)
    context.colorspace = 1 if hd else 6  # as numbered in ISO/IEC 23091-2
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    context.color_range = ColorRange.MPEG
    return Colorspace.ITU709 if hd else Colorspace.ITU601
