"""Interlaced video: detect files whose frames have two fields of different moments, and deinterlace them.

Files flagged as interlaced may still be progressive (broadcasts and discs flag everything), so the frames are measured
as FFmpeg's `idet` does. Only files that could be interlaced pay this cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from .info import DEMUX_OPTIONS, VideoError
from .stream_headers import h264_fields_possible

# Files of these codecs may become interlaced after progressive frames. For H.264, the parameters decide.
_BROADCAST_CODECS = ("mpeg2video", "vc1", "dvvideo")

# FFmpeg's AVFieldOrder → the field that is displayed first.
_PARITIES = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}

_SAMPLE_POSITIONS = (0.0, 0.2, 0.4, 0.6, 0.8)
_FRAMES_PER_SAMPLE = 24
_MAX_COLUMNS = 240

# Ratios of idet: two fields of one moment differ from the neighbouring frames by the same amount.
_INTERLACED_RATIO = 1.04
_PROGRESSIVE_RATIO = 1.5
_MIN_INTERLACED = 2
_MIN_PARITY_SHARE = 0.8
_MIN_INTERLACED_SHARE = 0.2
"""Least share of interlaced frames among the classified ones. Telecined film has two interlaced frames in five."""


def deinterlacing_options(name: str, stream: Any, context: Any, first_frame: Any, parameters_change: bool) -> str:
    """Return the options of bwdif for a file; empty: do not deinterlace it.

    Args:
        name: path by which to open the file, to decode samples of it.
        stream: its video stream.
        context: decoder of the stream.
        first_frame: first decoded frame.
        parameters_change: whether parts of the stream have other parameters than its header.

    Raises:
        VideoError: `interlaced`: every picture is a single field.
    """
    codec = context.codec.canonical_name
    if codec == "hevc" and first_frame.interlaced_frame:
        raise VideoError(
            "interlaced", "HEVC with one field per picture: deinterlace it to frames first, e.g. with bwdif"
        )
    declared = _PARITIES.get(stream.codec_context.field_order)
    fields_possible = codec in _BROADCAST_CODECS or (
        codec == "h264" and (parameters_change or h264_fields_possible(context.extradata or b""))
    )
    if not (first_frame.interlaced_frame or declared or fields_possible):
        return ""
    flagged, votes = int(first_frame.interlaced_frame), Counter[str | None]()
    for frames in _samples(name):
        flagged += sum(frame.interlaced_frame for frame in frames)
        votes.update(_field_order(*three) for three in _triples([_grey(frame) for frame in frames]))
    if not (flagged or declared):
        return ""
    interlaced = votes["tff"] + votes["bff"]
    classified = interlaced + votes["progressive"]
    # Frames without motion cannot be classified, and a deinterlacer does not change them.
    if classified and (interlaced < _MIN_INTERLACED or interlaced < _MIN_INTERLACED_SHARE * classified):
        return ""
    # Motion is a better sign of the field order than flags, which encoders write by default.
    parity = next(
        (one for one in ("tff", "bff") if votes[one] > _MIN_PARITY_SHARE * interlaced), "auto" if flagged else declared
    )
    return f"parity={parity}:deint={'interlaced' if flagged else 'all'}"


class Deinterlacer:
    """Filter with one output per input, one frame later. It keeps the first field and interpolates the other one.

    Args:
        frame: a frame of the size and format of all frames.
        options: options of bwdif.
    """

    def __init__(self, frame: Any, options: str) -> None:
        self.kind = (frame.width, frame.height, frame.format.name)
        self._graph = av.filter.Graph()
        self._graph.threads = 1
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        bwdif = self._graph.add("bwdif", f"mode=send_frame:{options}")
        self._graph.link_nodes(source, bwdif, self._graph.add("buffersink")).configure()

    def push(self, frame: Any) -> Iterator[Any]:
        """Add a frame and yield the frames that are ready. None ends the stream."""
        self._graph.vpush(frame)
        yield from pull_frames(self._graph.vpull)


def pull_frames(pull: Callable[[], Any]) -> Iterator[Any]:
    """Yield the frames that a filter graph has ready; `pull` is its `vpull` or `pull`."""
    while True:
        try:
            yield pull()
        except (BlockingIOError, EOFError):
            return


def deinterlace(frames: Iterator[Any], options: str) -> Iterator[Any]:
    """Yield deinterlaced frames, one per input frame."""
    graph: Deinterlacer | None = None
    for frame in frames:
        if graph is not None and graph.kind != (frame.width, frame.height, frame.format.name):
            yield from graph.push(None)
            graph = None
        graph = graph or Deinterlacer(frame, options)
        yield from graph.push(frame)
    if graph is not None:
        yield from graph.push(None)


def _samples(name: str) -> Iterator[list[Any]]:
    """Yield consecutive frames at a few positions of a file."""
    with av.open(name, options=DEMUX_OPTIONS, metadata_errors="replace") as container:
        stream: Any = container.streams.best("video")
        context = stream.codec_context
        context.thread_count = 1
        start, duration = stream.start_time or 0, stream.duration or 0
        if not duration and container.duration:
            duration = int(container.duration / av.time_base / stream.time_base)
        for place in _SAMPLE_POSITIONS if duration else _SAMPLE_POSITIONS[:1]:
            try:
                if place:
                    container.seek(start + int(place * duration), stream=stream)
                    context.flush_buffers()
                packets = (packet for packet in container.demux(stream) if packet.size)
                decoded = (frame for packet in packets for frame in context.decode(packet))
                yield [frame for frame in islice(decoded, _FRAMES_PER_SAMPLE) if not frame.is_corrupt]
            except FFmpegError:
                continue  # reading these frames later reports the error


def _grey(frame: Any) -> np.ndarray:
    """Convert a frame to luma [H, w], int16, with all lines and fewer columns."""
    columns = min(frame.width, _MAX_COLUMNS)
    return frame.reformat(columns, frame.height, "gray", interpolation="AREA").to_ndarray().astype(np.int16)


def _triples(pictures: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for three in zip(pictures, pictures[1:], pictures[2:], strict=False):
        if three[0].shape == three[1].shape == three[2].shape:
            yield three


def _field_order(before: np.ndarray, now: np.ndarray, after: np.ndarray) -> str | None:
    """Determine whether a frame is "progressive", or interlaced as "tff" or "bff" (first field). None: no motion.

    As in idet, the lines of one field are compared with those of the other field of the previous and the next frame.
    These fields are one or three moments apart, depending on the order.
    """
    beside = now[:-2] + now[2:]
    with_before = np.abs(beside - 2 * before[1:-1]).sum(axis=1, dtype=np.int64)
    with_after = np.abs(beside - 2 * after[1:-1]).sum(axis=1, dtype=np.int64)
    with_now = int(np.abs(beside - 2 * now[1:-1]).sum(dtype=np.int64))
    far_if_bff = int(with_before[0::2].sum() + with_after[1::2].sum())
    far_if_tff = int(with_before[1::2].sum() + with_after[0::2].sum())
    if far_if_bff > _INTERLACED_RATIO * far_if_tff:
        return "bff"
    if far_if_tff > _INTERLACED_RATIO * far_if_bff:
        return "tff"
    return "progressive" if far_if_tff > _PROGRESSIVE_RATIO * with_now else None
