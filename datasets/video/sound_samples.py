"""The sound of a video as samples, in the process that decodes (see `video_sound`)."""

from __future__ import annotations

import os
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from .info import DEMUX_OPTIONS, VideoError, error_message, opened
from .reader import Pictures

RATE_HZ = 48_000
LAYOUTS = {1: "mono", 2: "stereo"}
MAX_SLIP_S = 0.1  # times of packets are rounded; what is further off is a gap, or begins later

_CHUNK_BYTES = 1 << 20


def decode_sound(path: str | os.PathLike[str], start_s: float, duration_s: float) -> tuple[list[int], Pictures | None]:
    """In the decoding process: ([channels], the samples' bytes in chunks), or ([0], None) where there is no sound.

    Args:
        path: of the video.
        start_s: the time of its first frame, by the container's clock.
        duration_s: how much is wanted.

    Raises:
        VideoError: nothing can be decoded (`unreadable`).
    """
    with opened(path) as name:
        try:
            with av.open(name, options=DEMUX_OPTIONS, metadata_errors="replace") as container:
                stream = container.streams.best("audio")
                if stream is None:
                    return [0], None
                if stream.codec_context is None:
                    raise ValueError("no decoder knows it")
                samples = _decoded(container, stream, start_s, round(duration_s * RATE_HZ))
        except (FFmpegError, ValueError) as error:  # ValueError: PyAV's, of a layout that it cannot make
            raise VideoError("unreadable", f"its sound cannot be decoded: {error_message(error)}") from error
    if samples is None:
        return [0], None
    data = np.frombuffer(samples.tobytes(), np.uint8)
    count = -(-len(data) // _CHUNK_BYTES)
    padded = np.pad(data, (0, count * _CHUNK_BYTES - len(data))).reshape(count, _CHUNK_BYTES, 1, 1)
    chunks = ((np.array([k]), chunk) for k, chunk in enumerate(padded))
    return [samples.shape[1]], Pictures(padded.shape, chunks)


def _decoded(container: Any, stream: Any, start_s: float, wanted: int) -> np.ndarray | None:
    """int16 [wanted, channels], or None where no sound lies in that time."""
    samples: np.ndarray | None = None
    resampler: Any = None
    place, failed, decoded = 0, None, False

    def put(frames: list[Any]) -> None:
        nonlocal place
        for frame in frames:
            assert samples is not None
            some = frame.to_ndarray().reshape(-1, samples.shape[1])
            low, high = max(place, 0), min(place + len(some), wanted)
            if high > low:
                samples[low:high] = some[low - place : high - place]
            place += len(some)

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except FFmpegError as error:  # a damaged packet: what comes after it may be sound, and has its own time
            failed = error
            if resampler is not None:
                put(resampler.resample(None))
                resampler = None
            continue
        for frame in frames:
            decoded = True
            if samples is None:
                channels = 1 if frame.layout.nb_channels == 1 else 2
                samples = np.zeros((wanted, channels), np.int16)
            due = place if frame.time is None else round((frame.time - start_s) * RATE_HZ)
            if resampler is None or abs(due - place) > MAX_SLIP_S * RATE_HZ:
                if resampler is not None:
                    put(resampler.resample(None))
                resampler = av.AudioResampler(format="s16", layout=LAYOUTS[samples.shape[1]], rate=RATE_HZ)
                place = due
            put(resampler.resample(frame))
        if place >= wanted:
            break
    if resampler is not None:
        put(resampler.resample(None))
    if failed is not None and not decoded:
        raise failed
    return samples if samples is not None and samples.any() else None
