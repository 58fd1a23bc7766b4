"""Find a file's video stream and the times of its frames by reading packets, or say what is wrong with it."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError

from .display import Orientation, assumes_bt709, decoder_of, has_alpha, has_empty_alpha, orientation_of, pixel_aspect
from .info import (
    DEMUX_OPTIONS,
    MAX_DURATION_S,
    MAX_PIXELS,
    METADATA_KEY,
    STILL_FORMATS,
    VideoError,
    VideoIndex,
    VideoInfo,
    error_message,
    opened,
)
from .interlacing import deinterlacing_options
from .refresh_points import KeyPackets

_STILL_BRANDS = ("avif", "heic", "heix", "mif1")

# Transfer functions and primaries as numbered in ISO/IEC 23091-2: PQ, HLG; BT.2020.
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_BT2020 = 9

_MAX_DUPLICATE_TIMES = 0.05
"""Share of frames with the time of another: a field-coded or badly written file has half or all of them."""
_MAX_GAP_S = 10.0
_MAX_GAP_STEPS = 100
_MAX_FPS = 1000.0


class _Packet(NamedTuple):
    """What is kept of a packet. Times are in units of the stream's time base; `pts` falls back on `dts`."""

    pts: int | None
    dts: int | None
    duration: int
    has_pts: bool
    refreshes: bool
    shown: bool


def read_index(
    path: str | os.PathLike[str], max_pixels: int | None = MAX_PIXELS, max_duration_s: float | None = MAX_DURATION_S
) -> VideoIndex:
    """Read all packets and decode one frame; limits that are None let everything through. Raises `VideoError`."""
    with opened(path) as name:
        try:
            with av.open(name, options=DEMUX_OPTIONS, metadata_errors="replace") as container:
                stream = _video_stream(container, max_pixels)
                context = decoder_of(stream)
                packets, frame, parameters_change = _read_packets(container, stream, context)
                # Only mp4's table of samples is exact; other containers announce an estimate.
                if "mp4" in container.format.name and len(packets) < stream.frames:
                    _refuse_truncated(name, len(packets), stream.frames)
                index = _describe(container, stream, context, packets, frame)
                index = _deinterlaced(index, deinterlacing_options(name, stream, context, frame, parameters_change))
                if parameters_change:
                    index = replace(index, suits_decord=False)
        except (FFmpegError, EOFError) as error:
            raise VideoError("unreadable", f"no container that could be read: {error_message(error)}") from error
    check_limits(index.info, max_pixels, max_duration_s)
    return index


def check_limits(info: VideoInfo, max_pixels: int | None, max_duration_s: float | None) -> None:
    """Raise `VideoError` (`too_big`) for frames of more pixels, or more seconds, than are let through."""
    if max_pixels is not None and info.width * info.height > max_pixels:
        raise VideoError("too_big", f"{info.width}×{info.height} has more than {max_pixels} pixels")
    if max_duration_s is not None and info.duration_s > max_duration_s:
        raise VideoError("too_big", f"{info.duration_s:.0f} s are more than {max_duration_s:.0f} s")


def _video_stream(container: Any, max_pixels: int | None) -> Any:
    brand = container.metadata.get("major_brand", "").strip()
    if container.format.name in STILL_FORMATS.split(",") or brand in _STILL_BRANDS:
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
    if max_pixels is not None and context.width * context.height > max_pixels:  # before anything is decoded
        raise VideoError("too_big", f"{context.width}×{context.height} has more than {max_pixels} pixels")
    return stream


def _read_packets(container: Any, stream: Any, context: Any) -> tuple[list[_Packet], Any, bool]:
    """All packets in their order, the first frame, and whether packets bring other parameters than the header's."""
    packets: list[_Packet] = []
    first_frame = None
    key_packets = KeyPackets(context)
    hides_packets = context.codec.canonical_name == "vp8"
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise VideoError("truncated", f"packet {len(packets)} is cut off")
            if first_frame is None:
                first_frame = _first_frame(packet, context)
            if packet.size == 0:
                continue
            # Discarded packets lie outside the edit list: they are decoded, for the sake of others, and not shown.
            # VP8 sends pictures to predict from as packets of their own; a bit of the first byte shows the rest.
            shown = not packet.is_discard and not (hides_packets and not bytes(packet)[0] >> 4 & 1)
            pts, dts = packet.pts, packet.dts
            packets.append(
                _Packet(
                    dts if pts is None else pts,
                    dts,
                    packet.duration or 0,
                    pts is not None,
                    packet.is_keyframe and key_packets.refreshes(packet) and shown,
                    shown,
                )
            )
    except FFmpegError as error:
        words = f"reading stopped after {len(packets)} packets: {error_message(error)}"
        raise VideoError("truncated", words) from error
    if not any(packet.shown for packet in packets):
        raise VideoError("no_video", "the video stream holds no packet")
    if first_frame is None:
        raise VideoError("corrupt_frames", f"none of {len(packets)} packets gives a frame")
    return packets, first_frame, key_packets.change_parameters


def _refuse_truncated(name: str, num_read: int, num_announced: int) -> None:
    """Raise `VideoError` unless it is an edit list that hides the packets that were not read."""
    options = {**DEMUX_OPTIONS, "ignore_editlist": "1"}
    with av.open(name, options=options, metadata_errors="replace") as container:
        stream = container.streams.best("video")
        num_packets = sum(packet.size > 0 for packet in container.demux(stream))
    if num_packets < num_announced:
        raise VideoError("truncated", f"{max(num_read, num_packets)} of {num_announced} packets are there")


def _first_frame(packet: Any, context: Any) -> Any:
    try:
        return next(iter(context.decode(packet)), None)
    except FFmpegError as error:
        raise VideoError("corrupt_frames", f"the first frame does not decode: {error_message(error)}") from error


def _describe(container: Any, stream: Any, context: Any, packets: list[_Packet], frame: Any) -> VideoIndex:
    _refuse_hdr(stream.codec_context, frame)
    time_base = stream.time_base
    shown = [packet for packet in packets if packet.shown]
    step = 1 / float((stream.guessed_rate or 25) * time_base)
    # AVI keeps no times: with B-frames of H.264 FFmpeg counts packets, which come in another order than frames.
    is_avi = container.format.name == "avi"
    timed = all(packet.has_pts for packet in shown) and not (is_avi and stream.codec_context.has_b_frames)
    entries = np.empty((2, 0), np.int64)
    if any(packet.pts is None for packet in shown):
        pts = np.rint(np.arange(len(shown)) * step).astype(np.int64)
    else:
        pts = np.sort(np.array([packet.pts for packet in shown], np.int64))
        _check_times(pts, packets, time_base)
        entries = _entries(packets, pts) if timed else entries
    last_duration = max(shown, key=lambda packet: packet.pts or 0).duration
    step = float(np.median(np.diff(pts))) if len(pts) > 1 else step
    duration_s = float((int(pts[-1] - pts[0]) + (last_duration or step)) * time_base)
    orientation = orientation_of(frame) or Orientation()
    width, height = _square_pixel_size(frame.width, frame.height, stream.sample_aspect_ratio)
    if orientation.rotation_deg % 180:
        width, height = height, width
    info = VideoInfo(
        codec=stream.codec_context.codec.canonical_name,
        width=width,
        height=height,
        rotation_deg=orientation.rotation_deg,
        fps=len(pts) / duration_s,
        duration_s=duration_s,
        num_frames=len(pts),
        pixel_format=frame.format.name,
        mirrored=orientation.mirrored,
        # The fourth byte of AVI's 32 bits is reserved, and most who write it leave it 0.
        transparent=has_alpha(frame) and not (is_avi and has_empty_alpha(frame)),
        assumed_bt709=assumes_bt709(frame, written_before_tags=METADATA_KEY in container.metadata),
    )
    suits_decord = not info.changed_by_pictures_2 and _suits_decord(container.format.name, info, frame)
    stored = (frame.width, frame.height, pixel_aspect(context))
    return VideoIndex(pts, time_base, info, timed, suits_decord, entries[0], entries[1], stored)


def _deinterlaced(index: VideoIndex, options: str) -> VideoIndex:
    if not options:
        return index
    return replace(index, deinterlacing=options, suits_decord=False, info=replace(index.info, deinterlaced=True))


def _suits_decord(format_name: str, info: VideoInfo, frame: Any) -> bool:
    """Whether decord gives such a file's frames as players show them.

    From other containers it returns wrong frames (MPEG-TS: all of them), of more bits it makes other colours, and it
    knows a turn from the container's head alone.
    """
    known = format_name.startswith(("mov,", "matroska,")) and info.codec in ("h264", "hevc")
    return known and frame.format.components[0].bits == 8 and info.rotation_deg == 0


def _refuse_hdr(context: Any, frame: Any) -> None:
    """Decoders hand such frames out as 8 bits without a word: pale, and unlike all others of the set."""
    bits = frame.format.components[0].bits
    transfer = _HDR_TRANSFERS.get(int(context.color_trc or 0))
    if transfer or (int(context.color_primaries or 0) == _BT2020 and bits > 8):
        raise VideoError("unsupported_hdr", f"{bits} bits, {transfer or 'BT.2020 primaries'}; convert it to BT.709")


def _square_pixel_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Size with square pixels: the longer side of a pixel stays what it is stored as, the other is stretched."""
    ratio = float(aspect or 1)
    if not 0.1 <= ratio <= 10:  # no camera made that
        return width, height
    return (round(width * ratio), height) if ratio >= 1 else (width, round(height / ratio))


def _check_times(pts: np.ndarray, packets: list[_Packet], time_base: Fraction) -> None:
    """Raise `VideoError` (`vfr_bad_ts`) for times by which no frame can be picked."""
    if len(pts) < 2:
        return
    steps = np.diff(pts)
    num_duplicates = int((steps == 0).sum())
    if num_duplicates > _MAX_DUPLICATE_TIMES * len(pts):
        raise VideoError("vfr_bad_ts", f"{num_duplicates} of {len(pts)} frames have the time of another")
    fps = len(steps) / float(int(pts[-1] - pts[0]) * time_base)
    if fps > _MAX_FPS:
        raise VideoError("vfr_bad_ts", f"{fps:.0f} frames a second")
    longest, usual = int(steps.max()), float(np.median(steps))
    if longest * time_base > _MAX_GAP_S and longest > _MAX_GAP_STEPS * usual:
        where = int(steps.argmax())
        raise VideoError("vfr_bad_ts", f"{float(longest * time_base):.1f} s between frames {where} and {where + 1}")
    decoded = np.array([packet.dts for packet in packets if packet.dts is not None], np.int64)
    back = -int(np.diff(decoded).min(initial=0))
    if back * time_base > 1:
        raise VideoError("vfr_bad_ts", f"time runs {float(back * time_base):.1f} s backwards between two packets")


def _entries(packets: list[_Packet], pts: np.ndarray) -> np.ndarray:
    """Positions and decoding times [2, k] of packets that refresh, with nothing shown across them."""
    times = [packet.pts if packet.shown and packet.pts is not None else None for packet in packets]
    latest_before = -math.inf
    earliest_after = [math.inf] * (len(packets) + 1)
    for k in range(len(packets) - 1, -1, -1):
        time = times[k]
        earliest_after[k] = earliest_after[k + 1] if time is None else min(earliest_after[k + 1], time)
    found = []
    for k, packet in enumerate(packets):
        time = times[k]
        if time is None:
            continue
        if packet.refreshes and latest_before < time <= earliest_after[k] and packet.dts is not None:
            found.append((int(np.searchsorted(pts, time)), packet.dts))
        latest_before = max(latest_before, time)
    return np.array(found, np.int64).reshape(-1, 2).T
