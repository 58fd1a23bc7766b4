"""Decode the sound of a video to samples. Runs in the worker process (see `sound`)."""

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
MAX_SLIP_S = 0.1  # packet times are rounded; a larger difference is a gap or a later start

_CHUNK_BYTES = 1 << 20


def decode_sound(path: str | os.PathLike[str], start_s: float, duration_s: float) -> tuple[list[int], Pictures | None]:
    """Decode sound to ([channels], bytes of the samples in chunks), or ([0], None) if there is none.

    Args:
        path: path of the video.
        start_s: container time of its first frame.
        duration_s: duration to decode.

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
                    raise ValueError("no decoder for the audio stream")
                samples = _decoded(container, stream, start_s, round(duration_s * RATE_HZ))
        except (FFmpegError, ValueError) as error:  # PyAV raises ValueError for an unsupported channel layout
            raise VideoError("unreadable", f"the sound cannot be decoded: {error_message(error)}") from error
    if samples is None:
        return [0], None
    data = np.frombuffer(samples.tobytes(), np.uint8)
    count = -(-len(data) // _CHUNK_BYTES)
    padded = np.pad(data, (0, count * _CHUNK_BYTES - len(data))).reshape(count, _CHUNK_BYTES, 1, 1)
    chunks = ((np.array([k]), chunk) for k, chunk in enumerate(padded))
    return [samples.shape[1]], Pictures(padded.shape, chunks)


def _decoded(container: Any, stream: Any, start_s: float, num_samples: int) -> np.ndarray | None:
    """Decode int16 [num_samples, channels], or return None if there is no sound in that time."""
    samples: np.ndarray | None = None
    resampler: Any = None
    place, failed, decoded = 0, None, False

    def put(frames: list[Any]) -> None:
        nonlocal place
        for frame in frames:
            assert samples is not None
            some = frame.to_ndarray().reshape(-1, samples.shape[1])
            low, high = max(place, 0), min(place + len(some), num_samples)
            if high > low:
                samples[low:high] = some[low - place : high - place]
            place += len(some)

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except FFmpegError as error:  # later packets may be intact, and have their own times
            failed = error
            if resampler is not None:
                put(resampler.resample(None))
                resampler = None
            continue
        for frame in frames:
            decoded = True
            if samples is None:
                channels = 1 if frame.layout.nb_channels == 1 else 2
                samples = np.zeros((num_samples, channels), np.int16)
            due = place if frame.time is None else round((frame.time - start_s) * RATE_HZ)
            if resampler is None or abs(due - place) > MAX_SLIP_S * RATE_HZ:
                if resampler is not None:
                    put(resampler.resample(None))
                resampler = av.AudioResampler(format="s16", layout=LAYOUTS[samples.shape[1]], rate=RATE_HZ)
                place = due
            put(resampler.resample(frame))
        if place >= num_samples:
            break
    if resampler is not None:
        put(resampler.resample(None))
    if failed is not None and not decoded:
        raise failed
    return samples if samples is not None and samples.any() else None
