"""Read video files: probe, decode by time. No other package of the project uses a codec.

Files are read in a worker process (see `client`), so that a hang or crash of a codec does not affect the caller.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.error import FFmpegError

from . import client
from .info import DEMUX_OPTIONS, MAX_DURATION_S, MAX_PIXELS, VideoError, VideoIndex, VideoInfo, error_message, opened


def probe(
    path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, max_duration_s: float = MAX_DURATION_S
) -> VideoInfo:
    """Read container and packets, decode one frame (for its display matrix), and describe the video stream.

    Args:
        path: path of the file.
        max_pixels: largest width × height.
        max_duration_s: longest duration in seconds.

    Raises:
        VideoError: `unreadable` (missing, empty, not a file, unknown container), `no_video` (sound only, still image),
            `truncated` (packets missing at the end), `corrupt_frames` (no frame decodes), `vfr_bad_ts` (timestamps
            that do not identify frames), `unsupported_hdr` (PQ, HLG, or BT.2020 with more than 8 bits),
            `unsupported_colours`, `unsupported_orientation`, `interlaced`, `too_big` (above `max_pixels` or
            `max_duration_s`). Every function that reads can also raise `timeout` and `decoder_crash`.
    """
    return video_index(path, max_pixels, max_duration_s).info


def frame_times_s(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the presentation times [n] of all frames in seconds, float64, increasing, 0 at the first frame."""
    return video_index(path).times_s()


def decode(
    path: str | os.PathLike[str], times_s: np.ndarray, height: int | None = None, width: int | None = None
) -> np.ndarray:
    """Decode the frames displayed at `times_s`, upright.

    decord reads dense runs that must be decoded from the start of the file, in one pass without seeking, because its
    seeks return wrong frames on open GOPs. PyAV reads everything else: files that decord cannot read, sparse frames,
    and spans after a random access point. Spans requested in order continue the current pass, so that all clips of a
    file cost one pass.

    Args:
        path: path of the file.
        times_s: [F] seconds after the first frame, in any order. The frame displayed at t is the last one with a time
            ≤ t; after the end it is the last frame.
        height: scale to this height inside the decoder. Give both `height` and `width`, or neither.
        width: scale to this width.

    Returns:
        uint8 [F, H, W, 3] RGB.

    Raises:
        VideoError: the file cannot be read, or its aspect changes (`changing_aspect`). If decord fails, PyAV decides.
    """
    if (height is None) != (width is None):
        raise ValueError(f"height={height}, width={width}: pass both or neither")
    times = np.asarray(times_s, np.float64)
    if times.ndim != 1 or len(times) == 0 or not (times >= 0).all():
        raise ValueError(f"times_s must be a 1-D array of one or more times ≥ 0, not {times_s}")
    size = None if height is None else [int(height), int(width or 0)]
    return _frames(client.request("frames", path, times_s=times.tolist(), size=size)[1])


def decode_low_resolution(path: str | os.PathLike[str], every_s: float, max_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Decode small frames at regular times in one pass.

    The pass also caches the frames that `decode_sparse` uses, so that sparse frames of this file, if requested next,
    cost no second pass.

    Args:
        path: path of the file.
        every_s: interval in seconds.
        max_side: longer side in pixels. Smaller videos keep their size.

    Returns:
        Times [n] (0, every_s, … below the duration) and frames uint8 [n, h, w, 3].
    """
    times_s, frames = client.request("low_resolution", path, every_s=every_s, max_side=max_side)
    return np.array(times_s), _frames(frames)


def low_resolution_pieces(
    path: str | os.PathLike[str], every_s: float, max_side: int, piece_frames: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (times, frames) of `decode_low_resolution` in pieces of `piece_frames` frames, to limit memory.

    Reading another file between two pieces makes the next piece decode this file again.
    """
    first = 0
    while True:
        piece = {"first": first, "count": piece_frames}
        times_s, frames = client.request("low_resolution", path, every_s=every_s, max_side=max_side, **piece)
        if times_s:
            yield np.array(times_s), _frames(frames)
        if len(times_s) < piece_frames:
            return
        first += piece_frames


def decode_key_frames(
    path: str | os.PathLike[str], max_gap_s: float, min_pixels: int, count: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Decode a few random access points, at about a tenth of the cost of a pass.

    The points are the fewest that leave no gap longer than `max_gap_s` between the start, each other and the end. The
    result is empty (n = 0) if the file has too few of them.

    Args:
        path: path of the file.
        max_gap_s: longest gap in seconds.
        min_pixels: return no frames if all frames of the file together have fewer pixels.
        count: return only the first `count` frames.

    Returns:
        Times [n] and frames uint8 [n, h, w, 3], in the size of `decode_sparse`.
    """
    arguments = {"max_gap_s": max_gap_s, "min_pixels": min_pixels, "count": count}
    times_s, frames = client.request("key_frames", path, **arguments)
    return np.array(times_s), _frames(frames)


def decode_sparse(
    path: str | os.PathLike[str], start_s: float, end_s: float, num_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Decode a few frames of a span, for scores.

    The times are multiples of half a second, spread over the span. A span with fewer than two such multiples gives
    `num_frames` evenly spaced times instead.

    Returns:
        Times [n] and frames uint8 [n, h, w, 3], n ≤ `num_frames`. The shorter side is 256 pixels, or as stored if
        smaller; both sides are even.
    """
    arguments = {"start_s": start_s, "end_s": end_s, "num_frames": num_frames}
    times_s, frames = client.request("sparse", path, **arguments)
    return np.array(times_s), _frames(frames)


def decoding_seconds() -> float:
    """Return the seconds that this process has waited for frames and indices since it started."""
    return client.waited_s


def decoding_counts() -> dict[str, int]:
    """Return event counts since this process started. Events that did not occur have no entry.

    Requests by source of the frames: `decord`, `pyav`, `kept` (cached by an earlier pass), `key_frames`. Files that
    decord cannot read: `decord_refused`; among them files whose frames differ from PyAV's: `decord_unfit` (PyAV's
    frames are returned). Frames compared with PyAV's: `cross_checked`. Lost workers: `crashes`, `timeouts`.
    """
    return dict(client.counts)


def video_index(
    path: str | os.PathLike[str], max_pixels: int | None = None, max_duration_s: float | None = None
) -> VideoIndex:
    """Return the times of all frames and the properties of a file, which `probe` describes; the same errors."""
    fields, _ = client.request("index", path, max_pixels=max_pixels, max_duration_s=max_duration_s)
    return VideoIndex(
        np.array(fields["pts"], np.int64),
        Fraction(fields["time_base"]),
        VideoInfo(**fields["info"]),
        fields["timed"],
        fields["suits_decord"],
        np.array(fields["entries"], np.int64),
        np.array(fields["entry_times"], np.int64),
        tuple(fields["stored"]),
        fields["deinterlacing"],
    )


def _frames(frames: np.ndarray | None) -> np.ndarray:
    assert frames is not None
    return frames


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata that `encode` stored and the container added. Raises `VideoError` (`unreadable`)."""
    with opened(path) as name:
        try:
            with av.open(name, options=DEMUX_OPTIONS, metadata_errors="replace") as container:
                return dict(container.metadata)
        except FFmpegError as error:
            raise VideoError("unreadable", f"the container cannot be read: {error_message(error)}") from error


def size_for_area(image_height: int, image_width: int, max_area_px: int) -> tuple[int, int]:
    """Compute (height, width) as the released code does: multiples of 16, near the image's aspect, ≤ `max_area_px`."""
    ratio = image_height / image_width
    return int(math.sqrt(max_area_px * ratio) // 16) * 16, int(math.sqrt(max_area_px / ratio) // 16) * 16
