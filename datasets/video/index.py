"""Index a file: find its video stream and the times of its frames by reading packets, or report why that fails."""

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

# Transfer functions (PQ, HLG) and primaries (BT.2020) by their numbers in ISO/IEC 23091-2.
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_BT2020 = 9

_MAX_DUPLICATE_TIMES = 0.05
"""Largest share of frames with the time of another frame. Field-coded or badly written files have half or all."""
_MAX_GAP_S = 10.0
_MAX_GAP_STEPS = 100
_MAX_FPS = 1000.0


class _Packet(NamedTuple):
    """Fields of a packet. Times are in units of the stream's time base; `pts` falls back on `dts`."""

    pts: int | None
    dts: int | None
    duration: int
    has_pts: bool
    refreshes: bool
    displayed: bool


def read_index(
    path: str | os.PathLike[str], max_pixels: int | None = MAX_PIXELS, max_duration_s: float | None = MAX_DURATION_S
) -> VideoIndex:
    """Read all packets and decode one frame. A limit of None is not checked. Raises `VideoError`."""
    with opened(path) as name:
        try:
            with av.open(name, options=DEMUX_OPTIONS, metadata_errors="replace") as container:
                stream = _video_stream(container, max_pixels)
                context = decoder_of(stream)
                packets, frame, parameters_change = _read_packets(container, stream, context)
                # Only the sample table of mp4 is exact; other containers give an estimate.
                if "mp4" in container.format.name and len(packets) < stream.frames:
                    _refuse_truncated(name, len(packets), stream.frames)
                index = _describe(container, stream, context, packets, frame)
                index = _deinterlaced(index, deinterlacing_options(name, stream, context, frame, parameters_change))
                if parameters_change:
                    index = replace(index, suits_decord=False)
        except (FFmpegError, EOFError) as error:
            raise VideoError("unreadable", f"the container cannot be read: {error_message(error)}") from error
    check_limits(index.info, max_pixels, max_duration_s)
    return index


def check_limits(info: VideoInfo, max_pixels: int | None, max_duration_s: float | None) -> None:
    """Raise `VideoError` (`too_big`) if frames have more pixels, or the file more seconds, than allowed."""
    if max_pixels is not None and info.width * info.height > max_pixels:
        raise VideoError("too_big", f"{info.width}×{info.height} exceeds the limit of {max_pixels} pixels")
    if max_duration_s is not None and info.duration_s > max_duration_s:
        raise VideoError("too_big", f"{info.duration_s:.0f} s exceeds the limit of {max_duration_s:.0f} s")


def _video_stream(container: Any, max_pixels: int | None) -> Any:
    brand = container.metadata.get("major_brand", "").strip()
    if container.format.name in STILL_FORMATS.split(",") or brand in _STILL_BRANDS:
        raise VideoError("no_video", f"a still image ({brand or container.format.name})")
    stream = container.streams.best("video")
    if stream is None:
        kinds = sorted({stream.type for stream in container.streams})
        raise VideoError("no_video", f"no video stream; streams: {', '.join(kinds) or 'none'}")
    if stream.disposition & av.stream.Disposition.attached_pic:
        raise VideoError("no_video", "the only video stream is cover art")
    context = stream.codec_context
    if context is None:
        raise VideoError("unreadable", "no decoder for the video stream")
    if max_pixels is not None and context.width * context.height > max_pixels:  # before anything is decoded
        raise VideoError("too_big", f"{context.width}×{context.height} exceeds the limit of {max_pixels} pixels")
    return stream


def _read_packets(container: Any, stream: Any, context: Any) -> tuple[list[_Packet], Any, bool]:
    """Return all packets in order, the first frame, and whether packets change the parameters of the header."""
    packets: list[_Packet] = []
    first_frame = None
    key_packets = KeyPackets(context)
    hides_packets = context.codec.canonical_name == "vp8"
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise VideoError("truncated", f"packet {len(packets)} is truncated")
            if first_frame is None:
                first_frame = _first_frame(packet, context)
            if packet.size == 0:
                continue
            # Packets outside the edit list are decoded as references and not displayed. VP8 has reference pictures
            # in packets of their own, marked by a bit of the first byte.
            displayed = not packet.is_discard and not (hides_packets and not bytes(packet)[0] >> 4 & 1)
            pts, dts = packet.pts, packet.dts
            packets.append(
                _Packet(
                    dts if pts is None else pts,
                    dts,
                    packet.duration or 0,
                    pts is not None,
                    packet.is_keyframe and key_packets.refreshes(packet) and displayed,
                    displayed,
                )
            )
    except FFmpegError as error:
        message = f"reading stopped after {len(packets)} packets: {error_message(error)}"
        raise VideoError("truncated", message) from error
    if not any(packet.displayed for packet in packets):
        raise VideoError("no_video", "the video stream has no packets")
    if first_frame is None:
        raise VideoError("corrupt_frames", f"none of the {len(packets)} packets can be decoded")
    return packets, first_frame, key_packets.change_parameters


def _refuse_truncated(name: str, num_read: int, num_announced: int) -> None:
    """Raise `VideoError` (`truncated`) unless an edit list hides the packets that were not read."""
    options = {**DEMUX_OPTIONS, "ignore_editlist": "1"}
    with av.open(name, options=options, metadata_errors="replace") as container:
        stream = container.streams.best("video")
        num_packets = sum(packet.size > 0 for packet in container.demux(stream))
    if num_packets < num_announced:
        raise VideoError("truncated", f"only {max(num_read, num_packets)} of {num_announced} packets exist")


def _first_frame(packet: Any, context: Any) -> Any:
    try:
        return next(iter(context.decode(packet)), None)
    except FFmpegError as error:
        raise VideoError("corrupt_frames", f"the first frame cannot be decoded: {error_message(error)}") from error


def _describe(container: Any, stream: Any, context: Any, packets: list[_Packet], frame: Any) -> VideoIndex:
    _refuse_hdr(stream.codec_context, frame)
    time_base = stream.time_base
    displayed = [packet for packet in packets if packet.displayed]
    step = 1 / float((stream.guessed_rate or 25) * time_base)
    # AVI stores no times. For H.264 with B-frames, FFmpeg counts packets, whose order differs from that of frames.
    is_avi = container.format.name == "avi"
    timed = all(packet.has_pts for packet in displayed) and not (is_avi and stream.codec_context.has_b_frames)
    entries = np.empty((2, 0), np.int64)
    if any(packet.pts is None for packet in displayed):
        pts = np.rint(np.arange(len(displayed)) * step).astype(np.int64)
    else:
        pts = np.sort(np.array([packet.pts for packet in displayed], np.int64))
        _check_times(pts, packets, time_base)
        entries = _entries(packets, pts) if timed else entries
    last_duration = max(displayed, key=lambda packet: packet.pts or 0).duration
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
        # The fourth byte of AVI's 32 bits is reserved, and most writers leave it 0.
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
    """Check whether decord returns the frames of such a file as players display them.

    For other containers it returns wrong frames (for MPEG-TS, all of them), for more than 8 bits wrong colours, and it
    reads the rotation from the header of the container only.
    """
    supported = format_name.startswith(("mov,", "matroska,")) and info.codec in ("h264", "hevc")
    return supported and frame.format.components[0].bits == 8 and info.rotation_deg == 0


def _refuse_hdr(context: Any, frame: Any) -> None:
    """Raise `VideoError` (`unsupported_hdr`), because decoders silently convert HDR to pale 8-bit frames."""
    bits = frame.format.components[0].bits
    transfer = _HDR_TRANSFERS.get(int(context.color_trc or 0))
    if transfer or (int(context.color_primaries or 0) == _BT2020 and bits > 8):
        message = f"{bits} bits, {transfer or 'BT.2020 primaries'}: convert the file to BT.709"
        raise VideoError("unsupported_hdr", message)


def _square_pixel_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Compute the size with square pixels by stretching the shorter side of a pixel."""
    ratio = float(aspect or 1)
    if not 0.1 <= ratio <= 10:  # implausible, so ignored
        return width, height
    return (round(width * ratio), height) if ratio >= 1 else (width, round(height / ratio))


def _check_times(pts: np.ndarray, packets: list[_Packet], time_base: Fraction) -> None:
    """Raise `VideoError` (`vfr_bad_ts`) if the times do not identify frames."""
    if len(pts) < 2:
        return
    steps = np.diff(pts)
    num_duplicates = int((steps == 0).sum())
    if num_duplicates > _MAX_DUPLICATE_TIMES * len(pts):
        raise VideoError(
            "vfr_bad_ts", f"{num_duplicates} of {len(pts)} frames have the same timestamp as another frame"
        )
    fps = len(steps) / float(int(pts[-1] - pts[0]) * time_base)
    if fps > _MAX_FPS:
        raise VideoError("vfr_bad_ts", f"{fps:.0f} frames per second exceed the limit of {_MAX_FPS:.0f}")
    longest, usual = int(steps.max()), float(np.median(steps))
    if longest * time_base > _MAX_GAP_S and longest > _MAX_GAP_STEPS * usual:
        where = int(steps.argmax())
        message = f"gap of {float(longest * time_base):.1f} s between frames {where} and {where + 1}"
        raise VideoError("vfr_bad_ts", message)
    decoded = np.array([packet.dts for packet in packets if packet.dts is not None], np.int64)
    back = -int(np.diff(decoded).min(initial=0))
    if back * time_base > 1:
        message = f"the decoding timestamp decreases by {float(back * time_base):.1f} s between two packets"
        raise VideoError("vfr_bad_ts", message)


def _entries(packets: list[_Packet], pts: np.ndarray) -> np.ndarray:
    """Find random access points: positions and decoding times [2, k] of refreshing packets.

    Frames before such a packet in decoding order must also be displayed before it, and later ones after it.
    """
    times = [packet.pts if packet.displayed and packet.pts is not None else None for packet in packets]
    latest_before = -math.inf
    earliest_after = [math.inf] * (len(packets) + 1)
    for k in range(len(packets) - 1, -1, -1):
        time = times[k]
        earliest_after[k] = earliest_after[k + 1] if time is None else min(earliest_after[k + 1], time)
    entries = []
    for k, packet in enumerate(packets):
        time = times[k]
        if time is None:
            continue
        if packet.refreshes and latest_before < time <= earliest_after[k] and packet.dts is not None:
            entries.append((int(np.searchsorted(pts, time)), packet.dts))
        latest_before = max(latest_before, time)
    return np.array(entries, np.int64).reshape(-1, 2).T
