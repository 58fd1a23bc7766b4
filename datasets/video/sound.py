"""Sound of a video: read it as samples from the first frame on, change its speed, write it with the frames.

The worker process that decodes frames also decodes sound (see `client`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from . import client
from .interlacing import pull_frames
from .sound_samples import LAYOUTS, RATE_HZ

BITS_PER_SECOND = 96_000  # per channel
MIN_DRIFT_S = 0.02  # a smaller change of the duration is inaudible and not applied
MAX_TEMPO = 2.0  # of one `atempo` filter, which drops samples above it


@dataclass(frozen=True)
class Sound:
    """Samples at 48 kHz, int16 [n, channels], with one or two channels. Sample 0 is at the first frame of the video."""

    samples: np.ndarray


def read_sound(path: str | os.PathLike[str], duration_s: float) -> Sound | None:
    """Read the sound of a video from its first frame on, for `duration_s`. None: it has no sound in that time.

    Mono stays mono; more than two channels become stereo. Gaps are silent.

    Raises:
        VideoError: the file cannot be read, or none of its sound can be decoded (`unreadable`).
    """
    (channels,), chunks = client.request("sound", path, duration_s=duration_s)
    if chunks is None:
        return None
    samples = chunks.reshape(-1)[: channels * 2 * round(duration_s * RATE_HZ)].view(np.int16)
    return Sound(samples.reshape(-1, channels))


def change_speed(sound: Sound, speed: float) -> Sound:
    """Make a sound `speed` times as fast at the same pitch."""
    duration_s = len(sound.samples) / RATE_HZ
    if abs(duration_s - duration_s / speed) < MIN_DRIFT_S:
        return sound
    graph, steps = av.filter.Graph(), []
    while not 1 / MAX_TEMPO <= speed <= MAX_TEMPO:
        steps.append(MAX_TEMPO if speed > 1 else 1 / MAX_TEMPO)
        speed /= steps[-1]
    layout = LAYOUTS[sound.samples.shape[1]]
    nodes = [graph.add_abuffer(sample_rate=RATE_HZ, format="s16", layout=layout, time_base=Fraction(1, RATE_HZ))]
    nodes += [graph.add("atempo", str(step)) for step in (*steps, speed)]
    graph.link_nodes(*nodes, graph.add("abuffersink")).configure()
    pieces: list[np.ndarray] = []
    for frame in (*_frames(sound), None):
        graph.push(frame)
        pieces += [piece.to_ndarray() for piece in pull_frames(graph.pull)]
    return Sound(np.concatenate([piece.reshape(-1, sound.samples.shape[1]) for piece in pieces]))


def fit_to_duration(sound: Sound, duration_s: float) -> Sound:
    """Cut a sound to a duration, or pad it with silence."""
    samples = np.zeros((round(duration_s * RATE_HZ), sound.samples.shape[1]), np.int16)
    copied = sound.samples[: len(samples)]
    samples[: len(copied)] = copied
    return Sound(samples)


def add_sound_stream(container: Any, sound: Sound) -> Any:
    """Add an AAC stream for a sound to a container. Call it before anything is written."""
    channels = sound.samples.shape[1]
    stream = container.add_stream("aac", rate=RATE_HZ, layout=LAYOUTS[channels])
    stream.bit_rate = BITS_PER_SECOND * channels
    stream.codec_context.thread_count = 1
    return stream


def write_sound(container: Any, stream: Any, sound: Sound) -> None:
    """Write a sound to its stream. The muxer interleaves it with the video."""
    resampler = av.AudioResampler(format=stream.format, layout=stream.layout, rate=RATE_HZ)
    for frame in _frames(sound):
        for one in resampler.resample(frame):
            container.mux(stream.encode(one))
    for one in resampler.resample(None):
        container.mux(stream.encode(one))
    container.mux(stream.encode(None))


def _frames(sound: Sound) -> Iterator[Any]:
    """Split a sound into audio frames of one second."""
    layout = LAYOUTS[sound.samples.shape[1]]
    for start in range(0, len(sound.samples), RATE_HZ):
        packed = np.ascontiguousarray(sound.samples[start : start + RATE_HZ].reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        frame.rate, frame.pts, frame.time_base = RATE_HZ, start, Fraction(1, RATE_HZ)
        yield frame
