"""Convert a decoded frame to the picture that players display: orientation, colours, alpha channel and size."""

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

# Tolerances for a display matrix near a right angle, and for the aspect of later frames (sizes are whole pixels).
_MAX_ANGLE_DEG = 1.0
_MAX_ASPECT_CHANGE = 0.02

# Numbers of ISO/IEC 23091-2. 0 (RGB) and 3 (reserved) are meaningless for a frame stored as YUV.
_UNTAGGED_MATRICES = (0, 2, 3)
_MATRICES = (*_UNTAGGED_MATRICES, 1, 4, 5, 6, 7, 9)
_HD_WIDTH, _HD_HEIGHT = 1280, 720

# Decoders of the same codec that also return the alpha channel, which Matroska stores as side data of the packets.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class Orientation(NamedTuple):
    """Mirror left and right if `mirrored`, then rotate clockwise by `rotation_deg` (0, 90, 180 or 270)."""

    mirrored: bool = False
    rotation_deg: int = 0

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Return a view of stored pixels [H, W, C] in display orientation."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, -(self.rotation_deg // 90))


def orientation_of(frame: Any) -> Orientation | None:
    """Read the orientation from a frame's display matrix, ignoring its scale. None: the frame has no matrix.

    Raises:
        VideoError: `unsupported_orientation`: the matrix shears, or rotates by another angle than a multiple of 90°.
    """
    matrix = next((bytes(data) for data in frame.side_data if data.type == Type.DISPLAYMATRIX), None)
    if matrix is None:
        return None
    # x' = a x + c y and y' = b x + d y, with y downwards (ISO/IEC 14496-12, 6.2.2).
    a, b, _, c, d, *_ = struct.unpack("<9i", matrix)
    determinant = a * d - b * c
    if determinant == 0:  # not meant as an orientation, e.g. all zero
        return Orientation()
    mirrored = determinant < 0
    angles_deg = [math.degrees(math.atan2(-b, -a) if mirrored else math.atan2(b, a)), math.degrees(math.atan2(-c, d))]
    turns = [round(angle / 90) for angle in angles_deg]
    off = max(abs(angle - 90 * turn) for angle, turn in zip(angles_deg, turns, strict=True))
    if off > _MAX_ANGLE_DEG or turns[0] % 4 != turns[1] % 4:
        message = f"the display matrix rotates by {angles_deg[0]:.0f}°, not by right angles: rotate the frames instead"
        raise VideoError("unsupported_orientation", message)
    return Orientation(mirrored, turns[0] % 4 * 90)


def has_alpha(frame: Any) -> bool:
    """Check whether a frame has an alpha channel."""
    return any(component.is_alpha for component in frame.format.components)


def has_empty_alpha(frame: Any) -> bool:
    """Check whether a frame has an alpha channel that is 0 everywhere, which would make it invisible."""
    return has_alpha(frame) and not frame.reformat(format="rgba").to_ndarray()[..., 3].any()


def assumes_bt709(frame: Any, written_before_tags: bool = False) -> bool:
    """Check whether a frame has no matrix tag and is converted as BT.709, which is assumed for HD.

    Args:
        frame: the first frame of a file.
        written_before_tags: a version of this package that did not tag colours wrote the file, as BT.601.

    Raises:
        VideoError: `unsupported_colours`: the frame is tagged with a matrix that cannot be converted.
    """
    if frame.format.is_rgb or len(frame.format.components) < 3 or frame.format.name == "pal8":
        return False
    if frame.colorspace not in _MATRICES:
        message = f"the colours use matrix {frame.colorspace} of ISO/IEC 23091-2: convert the file to BT.709"
        raise VideoError("unsupported_colours", message)
    return frame.colorspace in _UNTAGGED_MATRICES and is_hd(frame.width, frame.height) and not written_before_tags


def is_hd(width: int, height: int) -> bool:
    """Check whether players assume BT.709 for a video of this size without a matrix tag.

    Browsers do from 720 lines on. mpv does from 1280 columns on, which also covers crops of 720 lines.
    """
    return width >= _HD_WIDTH or height >= _HD_HEIGHT


def decoder_of(stream: Any) -> Any:
    """Return a single-threaded codec context for a stream, which also decodes its alpha channel if it has one."""
    context = stream.codec_context
    # Files written with `-metadata:s:v alpha_mode=1` have this tag too. Matroska stores its name in capitals.
    has_alpha_packets = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
    name = _ALPHA_DECODERS.get(context.codec.canonical_name) if has_alpha_packets else None
    if name is not None:
        extradata, context = context.extradata, av.CodecContext.create(name, "r")
        context.extradata = extradata
    context.thread_count = 1
    return context


def pixel_aspect(context: Any) -> float:
    """Return the width / height of a pixel from the decoder's last frame, 1 if unspecified."""
    return float(context.sample_aspect_ratio or 1)


class Display:
    """Converts the frames of one file to pictures.

    Args:
        index: index of the file.
        context: decoder of the frames.
    """

    def __init__(self, index: VideoIndex, context: Any) -> None:
        self._index, self._context = index, context
        self._orientation = Orientation(index.info.mirrored, index.info.rotation_deg)
        self._last_rotation_deg: int | None = None
        # An alpha channel that the file does not use, see `index`.
        self._ignored_alpha_format = None if index.info.transparent else index.info.pixel_format
        # One scaler per size, because a scaler recomputes its filters when the size changes.
        self._scalers: dict[tuple[int, int, bool], VideoReformatter] = {}

    def check(self, frame: Any) -> None:
        """Check the next frame and update the orientation.

        Raises:
            VideoError: `changing_aspect`: the aspect differs from that of the first frame.
        """
        orientation = self._orientation
        # Reading the matrix creates a reference cycle, which keeps the frame's memory until garbage collection.
        if frame.rotation != self._last_rotation_deg:
            self._last_rotation_deg = frame.rotation
            # A message in the stream is attached to one frame and applies until the next message.
            orientation = orientation_of(frame) or orientation
        turned = (orientation.rotation_deg - self._orientation.rotation_deg) % 180 != 0
        width, height, aspect = self._index.stored
        before, now = width * aspect / height, frame.width * pixel_aspect(self._context) / frame.height
        if turned or abs(math.log(now / before)) > _MAX_ASPECT_CHANGE:
            now = 1 / now if turned else now
            message = f"width / height changes from {before:.3f} to {now:.3f}: split the video there"
            raise VideoError("changing_aspect", message)
        self._orientation = orientation

    def picture(self, frame: Any, size: Size, filter_name: str = "BILINEAR") -> np.ndarray:
        """Convert the frame that was checked last to uint8 RGB [H, W, 3], scaled by a filter of swscale."""
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
