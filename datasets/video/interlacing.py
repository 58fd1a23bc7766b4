"""Interlaced video: which files hold two moments in a frame, and frames made of one of them.

What is flagged as interlaced may still be progressive (broadcast and discs flag everything): the frames themselves are
asked, by the measure of FFmpeg's `idet`. Only files that could be interlaced pay for it.
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

# Every file of these may hold fields, wherever it begins with whole frames; H.264 says so in its parameters.
_BROADCAST_CODECS = ("mpeg2video", "vc1", "dvvideo")

# Order of fields, as numbered in FFmpeg's AVFieldOrder: which field is shown first.
_PARITIES = {2: "tff", 3: "bff", 4: "bff", 5: "tff"}

_SAMPLE_POSITIONS = (0.0, 0.2, 0.4, 0.6, 0.8)
_FRAMES_PER_SAMPLE = 24
_MAX_COLUMNS = 240

# idet's: two fields of one moment differ from the frames beside by the same amount.
_INTERLACED_RATIO = 1.04
_PROGRESSIVE_RATIO = 1.5
_MIN_INTERLACED = 2
_MIN_PARITY_SHARE = 0.8
_MIN_INTERLACED_SHARE = 0.2
"""Of the frames that can be told: film that was spread over fields has two woven frames in five."""


def deinterlacing_options(name: str, stream: Any, context: Any, first_frame: Any, parameters_change: bool) -> str:
    """The options of bwdif by which a file's frames are to be deinterlaced; empty: not at all.

    Args:
        name: by which the file is opened, to decode some of it.
        stream: as it was opened.
        context: its decoder.
        first_frame: what came first.
        parameters_change: not all of the stream has the parameters of its header.

    Raises:
        VideoError: `interlaced`, if every picture is a single field.
    """
    codec = context.codec.canonical_name
    if codec == "hevc" and first_frame.interlaced_frame:
        raise VideoError("interlaced", "HEVC with one field in a picture; make frames of them by bwdif or yadif")
    declared = _PARITIES.get(stream.codec_context.field_order)
    fields_possible = codec in _BROADCAST_CODECS or (
        codec == "h264" and (parameters_change or h264_fields_possible(context.extradata or b""))
    )
    if not (first_frame.interlaced_frame or declared or fields_possible):
        return ""
    flagged, votes = int(first_frame.interlaced_frame), Counter[str | None]()
    for frames in _samples(name):
        flagged += sum(frame.interlaced_frame for frame in frames)
        votes.update(_order(*three) for three in _triples([_grey(frame) for frame in frames]))
    if not (flagged or declared):
        return ""
    woven, told = votes["tff"] + votes["bff"], votes["tff"] + votes["bff"] + votes["whole"]
    # Where nothing moves nothing can be told; there a deinterlacer changes nothing either.
    if told and (woven < _MIN_INTERLACED or woven < _MIN_INTERLACED_SHARE * told):
        return ""
    # What moves says better than flags which field came first: encoders write flags that nobody set.
    parity = next(
        (one for one in ("tff", "bff") if votes[one] > _MIN_PARITY_SHARE * woven), "auto" if flagged else declared
    )
    return f"parity={parity}:deint={'interlaced' if flagged else 'all'}"


class Deinterlacer:
    """Gives a frame for a frame, one frame later: bwdif keeps the first field and fills in the lines of the other.

    Args:
        frame: of the size and format of all that will come.
        options: of bwdif.
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
        """Frames that are ready when this one has come; None ends the stream."""
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
    """As many frames as come, each of one moment."""
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
    """Some neighbouring frames at a few places of a file."""
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
                continue  # what does not decode is told by whoever reads it


def _grey(frame: Any) -> np.ndarray:
    """Luma [H, w], int16: all lines, fewer columns."""
    columns = min(frame.width, _MAX_COLUMNS)
    return frame.reformat(columns, frame.height, "gray", interpolation="AREA").to_ndarray().astype(np.int16)


def _triples(pictures: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for three in zip(pictures, pictures[1:], pictures[2:], strict=False):
        if three[0].shape == three[1].shape == three[2].shape:
            yield three


def _order(before: np.ndarray, now: np.ndarray, after: np.ndarray) -> str | None:
    """Whether a frame is "whole", of one moment, or which of its fields came first (idet); None: nothing moves.

    Put the lines of one field between those of the other, of the frame before or after: they are one moment apart, or
    three, and which is which tells the order.
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
    return "whole" if far_if_tff > _PROGRESSIVE_RATIO * with_now else None
