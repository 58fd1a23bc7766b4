"""Description of a video file, the reasons why one is rejected, and how files are opened.

Files are opened as ``/dev/fd/N``, so that decoders do not see the name: any encoding of the name works, a wrong suffix
has no effect, and a name that looks like a protocol or a frame pattern is not interpreted.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

Reason = Literal[
    "unreadable",
    "no_video",
    "truncated",
    "corrupt_frames",
    "vfr_bad_ts",
    "too_big",
    "unsupported_hdr",
    "unsupported_colours",
    "unsupported_orientation",
    "interlaced",
    "changing_aspect",
    "timeout",
    "decoder_crash",
]

MAX_PIXELS = 4096 * 4096
"""Largest frame that `probe` accepts by default: one RGB frame has 48 MiB."""

MAX_DURATION_S = 1800.0
"""Longest source that `probe` accepts by default: its 28,800 small frames at 16 fps have 0.8 GB."""

METADATA_KEY = "steadydancer"
"""Key of the container metadata for the record of how a file was made (see `provenance`)."""

# Suffixes of videos, in any case. The content is checked when a file is opened.
# Formats that open other files (playlists, concat scripts, image sequences) are excluded: a clip must be one file.
_VIDEO_FORMATS = "mov,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,h264,hevc,ivf,rm,mxf,wtv,nut"
STILL_FORMATS = "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe,gif_pipe,j2k_pipe"
_SOUND_FORMATS = "mp3,wav,flac,aac,aiff,ac3"
DEMUX_OPTIONS = {"format_whitelist": f"{_VIDEO_FORMATS},{STILL_FORMATS},{_SOUND_FORMATS}"}


class VideoError(Exception):
    """A file that cannot be used as a video: `reason` is the kind of fault, `detail` describes this file."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class VideoInfo:
    """Description of a file's video stream, and of the conversion from its frames to pictures.

    Sizes are displayed sizes in square pixels, after the rotation by `rotation_deg`. The fields from `mirrored` on have
    defaults, so that descriptions from older versions can be loaded.
    """

    codec: str
    width: int
    height: int
    rotation_deg: int
    """Clockwise rotation that makes the stored frames upright, after `mirrored`: 0, 90, 180 or 270."""
    fps: float
    """Mean frame rate of the file, frames / seconds."""
    duration_s: float
    """From the start of the first displayed frame to the end of the last one."""
    num_frames: int
    pixel_format: str
    mirrored: bool = False
    """Whether the stored frames are mirrored left to right before the rotation by `rotation_deg`."""
    deinterlaced: bool = False
    """Whether frames are interlaced (two fields of two moments). The second field is interpolated from the first."""
    transparent: bool = False
    """Whether frames have an alpha channel. They are composited on `images.BACKGROUND`."""
    assumed_bt709: bool = False
    """Whether frames have no matrix tag and are converted as BT.709, as players do for HD."""

    @property
    def changed_by_pictures_2(self) -> tuple[str, ...]:
        """Names of the fields because of which version 1 of the rule `pictures` gave other frames; empty: none."""
        names = ("mirrored", "deinterlaced", "transparent", "assumed_bt709")
        return tuple(name for name in names if getattr(self, name))

    @property
    def geometry_changed_by_pictures_2(self) -> bool:
        """Return whether version 1 measured positions (poses, crops, motion) that are wrong in version 2's frames."""
        return self.mirrored or self.deinterlaced


@dataclass(frozen=True)
class VideoIndex:
    """Times and properties of a file, for decoding.

    Attributes:
        pts: presentation times [n] of all frames, in order, in units of `time_base` seconds.
        time_base: seconds per unit.
        info: description of the stream.
        timed: whether packets have presentation times, so that those of decoded frames can be compared with them.
        suits_decord: whether decord reads this file correctly.
        entries: random access points: positions [k] of frames from which decoding gives the same frames as decoding
            from the start.
        entry_times: decoding times [k] of the entries, by which a container seeks.
        stored: width, height and pixel aspect of the first frame as stored, to detect frames of another aspect.
        deinterlacing: options of bwdif (see `interlacing`); empty: frames are not deinterlaced.
    """

    pts: np.ndarray
    time_base: Fraction
    info: VideoInfo
    timed: bool
    suits_decord: bool
    entries: np.ndarray
    entry_times: np.ndarray
    stored: tuple[int, int, float]
    deinterlacing: str = ""

    def times_s(self) -> np.ndarray:
        """Compute the time of each frame in seconds after the first frame, float64 [n]."""
        return (self.pts - self.pts[0]) * float(self.time_base)

    def positions_at(self, times_s: np.ndarray) -> np.ndarray:
        """Find the position of the frame displayed at each time: the last one whose time is not later."""
        # The microsecond keeps rounded times from selecting the previous frame.
        return np.searchsorted(self.times_s(), np.asarray(times_s, np.float64) + 1e-6, side="right") - 1

    def entry_before(self, position: int) -> int:
        """Return the last entry at or before a position, or 0, the start of the file."""
        place = int(np.searchsorted(self.entries, position, side="right")) - 1
        return int(self.entries[place]) if place >= 0 else 0


class Identity(NamedTuple):
    """Identity of a file's content without reading it: file number, size and times."""

    device: int
    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[str]:
    """Open a regular file and yield its path ``/dev/fd/N``. Raises `VideoError` (`unreadable`)."""
    descriptor = _open(path)
    try:
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


def identity(path: str | os.PathLike[str]) -> Identity:
    """Return the identity of a non-empty regular file. Raises `VideoError` (`unreadable`)."""
    descriptor = _open(path)
    try:
        return identity_of(descriptor)
    finally:
        os.close(descriptor)


def identity_of(descriptor: int) -> Identity:
    """Return the identity of an open file."""
    status = os.fstat(descriptor)
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _open(path: str | os.PathLike[str]) -> int:
    try:
        # Non-blocking, because opening a pipe without a writer would wait forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise VideoError("unreadable", f"the file cannot be opened: {error.strerror}") from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return descriptor
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise VideoError("unreadable", "the file is empty")
    raise VideoError("unreadable", "it is a directory" if stat.S_ISDIR(status.st_mode) else "it is not a regular file")


def error_message(error: BaseException) -> str:
    """Return the message of an exception without the name by which the file was opened."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
