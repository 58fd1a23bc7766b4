"""Write video files: H.264 in mp4, the same bytes for the same frames."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from ..storage.atomic import atomic_write
from .display import is_hd
from .sound import Sound, add_sound_stream, write_sound
from .sound_samples import RATE_HZ

Chroma = Literal["4:2:0", "4:4:4"]


def encode(
    frames: np.ndarray | Iterable[np.ndarray],
    path: str | os.PathLike[str],
    fps: float | Fraction = 16,
    metadata: dict[str, str] | None = None,
    lossless: bool = False,
    sound: Sound | None = None,
    crf: int = 18,
    chroma: Chroma = "4:2:0",
) -> None:
    """Write frames as an H.264 mp4 with a constant frame rate, in yuv420p with crf 18 unless told otherwise.

    Colours use the matrix that players assume for this size (BT.709 for HD, else BT.601), and stream and container
    are tagged with it, so that players with and without support for tags show the same picture. The same input gives
    the same bytes. The file appears under its name only when it is complete.

    Args:
        frames: uint8 [F, H, W, 3] RGB, or an iterable of such arrays of one size. An iterable gives the same file
            with one array in memory at a time. H and W must be even.
        path: path of the file.
        fps: frames per second.
        metadata: tags of the container.
        lossless: keep every bit of the RGB (qp 0, gbrp). FFmpeg can read such files, browsers cannot.
        sound: audio track, written as AAC and cut to the duration of the video.
        crf: constant rate factor, 0 to 51; fewer is better.
        chroma: `4:2:0` halves the resolution of colours, which costs a picture of 64² 5 dB; `4:4:4` keeps it, and some
            browsers cannot play it.

    Raises:
        ValueError: wrong type, shape, or an odd side.
    """
    pieces = iter([frames] if isinstance(frames, np.ndarray) else frames)
    first = next(pieces, np.empty((0, 0, 0, 3), np.uint8))
    _check_frames(first, first.shape[1:3])
    path = Path(path)
    # Without use_metadata_tags the mp4 muxer drops unknown keys. faststart: browsers play before the download ends.
    movflags = {"movflags": "use_metadata_tags+faststart+write_colr"}
    # Opened by descriptor, because libav accepts UTF-8 names only.
    with (
        atomic_write(path, keeps_suffix=False) as aside,
        aside.open("wb") as file,
        av.open(f"/dev/fd/{file.fileno()}", "w", format="mp4", container_options=movflags) as container,
    ):
        container.metadata.update(metadata or {})
        coding = _Coding(lossless, crf, "yuv444p" if chroma == "4:4:4" else "yuv420p")
        _write_h264(container, chain([first], pieces), Fraction(fps).limit_denominator(100_000), coding, sound)


class _Coding(NamedTuple):
    lossless: bool
    crf: int
    pixel_format: str


def _check_frames(frames: np.ndarray, size: tuple[int, ...]) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) == 0:
        raise ValueError(f"frames must be uint8 [F ≥ 1, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    if frames.shape[1:3] != size:
        raise ValueError(f"frames must have one size: got {list(frames.shape[1:3])} after {list(size)}")
    height, width = size
    if height % 2 or width % 2:
        raise ValueError(f"yuv420p needs even sides, not height {height}, width {width}: crop or pad the frames")


def _write_h264(
    container: Any, pieces: Iterable[np.ndarray], fps: Fraction, coding: _Coding, sound: Sound | None
) -> None:
    # Without cpu-independent, x264's assembly gave four different files for one input. The number of threads also
    # changes the result.
    lossless = coding.lossless
    options = {"qp": "0"} if lossless else {"crf": str(coding.crf)}
    options |= {"threads": "1", "x264-params": "cpu-independent=1"}
    stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=fps, options=options)
    stream.pix_fmt = "rgb24" if lossless else coding.pixel_format
    stream.codec_context.thread_count = 1
    audio = None if sound is None else add_sound_stream(container, sound)
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
                frame = scaler.reformat(frame, format=coding.pixel_format, **to)
            frame.pts, frame.time_base = position, 1 / fps
            container.mux(stream.encode(frame))
            position += 1
    container.mux(stream.encode(None))
    if sound is not None:
        longest = round(float(position / fps) * RATE_HZ)
        write_sound(container, audio, Sound(sound.samples[:longest]))


def _tag_colours(stream: Any) -> Colorspace:
    """Set the colour tags of an output stream and return the matrix for the conversion to YUV.

    sRGB has the primaries of BT.709, and players display both transfer curves alike.
    """
    context, hd = stream.codec_context, is_hd(stream.width, stream.height)
    context.colorspace = 1 if hd else 6  # as numbered in ISO/IEC 23091-2
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    context.color_range = ColorRange.MPEG
    return Colorspace.ITU709 if hd else Colorspace.ITU601
