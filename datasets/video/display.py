"""A decoded frame → the picture that players show: turned, mirrored, in its colours, on a background, scaled."""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Colorspace, VideoReformatter

from ..images import on_background
from .info import VideoError, VideoIndex

Size = tuple[int, int]
"""(height, width) of upright frames."""

# What a display matrix may be off a right angle, and an aspect off the first one's: sizes in whole pixels round.
_MAX_ANGLE_DEG = 1.0
_MAX_ASPECT_CHANGE = 0.02

# As numbered in ISO/IEC 23091-2; 0 (RGB) and 3 (reserved) say nothing of a frame that is stored as YUV.
_UNTAGGED_MATRICES = (0, 2, 3)
_MATRICES = (*_UNTAGGED_MATRICES, 1, 4, 5, 6, 7, 9)
_HD_WIDTH, _HD_HEIGHT = 1280, 720

# Decoders of the same codec that also give the alpha channel, which Matroska keeps beside the packets.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class Orientation(NamedTuple):
    """Exchange left and right if `mirrored`, then turn clockwise by `rotation_deg` (0, 90, 180 or 270)."""

    mirrored: bool = False
    rotation_deg: int = 0

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Stored pixels [H, W, C] as shown, a view."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, -(self.rotation_deg // 90))


def orientation_of(frame: Any) -> Orientation | None:
    """How a frame's display matrix has it shown, whatever its scale; None if it has none.

    Raises:
        VideoError: `unsupported_orientation`, if the matrix turns by no right angle, or shears.
    """
    matrix = next((bytes(data) for data in frame.side_data if data.type == Type.DISPLAYMATRIX), None)
    if matrix is None:
        return None
    # x' = a x + c y and y' = b x + d y, with y downwards (ISO/IEC 14496-12, 6.2.2).
    a, b, _, c, d, *_ = struct.unpack("<9i", matrix)
    determinant = a * d - b * c
    if determinant == 0:  # all zero: written by nobody who meant it
        return Orientation()
    mirrored = determinant < 0
    angles_deg = [math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a)), math.degrees(math.atan2(-c, d))]
    turns = [round(angle / 90) for angle in angles_deg]
    off = max(abs(angle - 90 * turn) for angle, turn in zip(angles_deg, turns, strict=True))
    if off > _MAX_ANGLE_DEG or turns[0] % 4 != turns[1] % 4:
        words = f"players turn it by {angles_deg[0]:.0f}°: only right angles are read, turn the frames themselves"
        raise VideoError("unsupported_orientation", words)
    return Orientation(mirrored, turns[0] % 4 * 90)


def has_alpha(frame: Any) -> bool:
    """Whether a frame has an alpha channel."""
    return any(component.is_alpha for component in frame.format.components)


def has_empty_alpha(frame: Any) -> bool:
    """Whether a frame's alpha channel is 0 everywhere: nothing of it would be seen."""
    return has_alpha(frame) and not frame.reformat(format="rgba").to_ndarray()[..., 3].any()


def assumes_bt709(frame: Any, written_before_tags: bool = False) -> bool:
    """Whether a frame names no matrix and is read as BT.709: HD by either side, unless an earlier version wrote it.

    Raises:
        VideoError: `unsupported_colours`, if it names a matrix by which nothing here converts.
    """
    if frame.format.is_rgb or len(frame.format.components) < 3 or frame.format.name == "pal8":
        return False
    if frame.colorspace not in _MATRICES:
        words = f"its colours are stored by matrix {frame.colorspace} of ISO/IEC 23091-2; convert it to BT.709"
        raise VideoError("unsupported_colours", words)
    return frame.colorspace in _UNTAGGED_MATRICES and is_hd(frame.width, frame.height) and not written_before_tags


def is_hd(width: int, height: int) -> bool:
    """Whether players take BT.709 for a video that names no matrix.

    Browsers ask for 720 lines; mpv, and what is cropped of 720 lines, for 1280 columns.
    """
    return width >= _HD_WIDTH or height >= _HD_HEIGHT


def decoder_of(stream: Any) -> Any:
    """The codec context that decodes a stream's packets, in one thread, with their alpha channel if there is one."""
    context = stream.codec_context
    # Files made by `-metadata:s:v alpha_mode=1` say it in a tag, too, whose name Matroska keeps in capitals.
    has_alpha_packets = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
    name = _ALPHA_DECODERS.get(context.codec.canonical_name) if has_alpha_packets else None
    if name is not None:
        extradata, context = context.extradata, av.CodecContext.create(name, "r")
        context.extradata = extradata
    context.thread_count = 1
    return context


def pixel_aspect(context: Any) -> float:
    """Width / height of a pixel, as the decoder last read it; 1 where it says nothing."""
    return float(context.sample_aspect_ratio or 1)


class Display:
    """Shows the frames of one file.

    Args:
        index: of the file.
        context: the decoder that gives the frames.
    """

    def __init__(self, index: VideoIndex, context: Any) -> None:
        self._index, self._context = index, context
        self._orientation = Orientation(index.info.mirrored, index.info.rotation_deg)
        self._last_rotation_deg: int | None = None
        # An alpha channel that the file was found not to use, see `video_index`.
        self._ignored_alpha_format = None if index.info.transparent else index.info.pixel_format
        # One per size: made for another size, a scaler computes its filters again.
        self._scalers: dict[tuple[int, int, bool], VideoReformatter] = {}

    def check(self, frame: Any) -> None:
        """Look at the next frame. Raises `VideoError` (`changing_aspect`) if it has another aspect than the first."""
        orientation = self._orientation
        # To ask a frame for its matrix binds it in a cycle, which keeps its memory until Python collects garbage.
        if frame.rotation != self._last_rotation_deg:
            self._last_rotation_deg = frame.rotation
            # A message in the stream is attached to one frame and holds until the next message.
            orientation = orientation_of(frame) or orientation
        turned = (orientation.rotation_deg - self._orientation.rotation_deg) % 180 != 0
        width, height, aspect = self._index.stored
        before, now = width * aspect / height, frame.width * pixel_aspect(self._context) / frame.height
        if turned or abs(math.log(now / before)) > _MAX_ASPECT_CHANGE:
            now = 1 / now if turned else now
            words = f"width / height changes from {before:.3f} to {now:.3f}: cut it there"
            raise VideoError("changing_aspect", words)
        self._orientation = orientation

    def picture(self, frame: Any, size: Size, filter_name: str = "BILINEAR") -> np.ndarray:
        """The frame that was checked last, uint8 RGB [H, W, 3], scaled by a filter of swscale."""
        turned = self._orientation.rotation_deg % 180 != 0
        height, width = size[::-1] if turned else size
        if has_alpha(frame) and frame.format.name != self._ignored_alpha_format:
            opaque = on_background(self._converted(frame, frame.width, frame.height, "rgba", "BILINEAR"))
            if (frame.height, frame.width) != (height, width):
                opaque_frame = av.VideoFrame.from_ndarray(opaque, format="rgb24")
                opaque = self._converted(opaque_frame, width, height, "rgb24", filter_name)
        else:
            opaque = self._converted(frame, width, height, "rgb24", filter_name)
        return self._orientation.apply(opaque)

    def _converted(self, frame: Any, width: int, height: int, pixel_format: str, filter_name: str) -> np.ndarray:
        scaler = self._scalers.setdefault((height, width, pixel_format == "rgba"), VideoReformatter())
        untagged = self._index.info.assumed_bt709 and not frame.format.is_rgb and frame.colorspace in _UNTAGGED_MATRICES
        matrix = Colorspace.ITU709 if untagged else None
        small: Any = scaler.reformat(frame, width, height, pixel_format, matrix, interpolation=filter_name)
        return small.to_ndarray()
