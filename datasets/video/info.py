"""What is known of a video file, what can be wrong with one, and how one is opened.

Files are opened through ``/dev/fd/N``: the decoders then see content and no name, so a name in any encoding works,
a wrong suffix misleads nobody, and a name that looks like a protocol or a frame pattern is not taken for one.
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
"""Largest frame that `probe` lets through: one RGB frame of it is 48 MiB."""

MAX_DURATION_S = 1800.0
"""Longest source that `probe` lets through: its 28,800 small frames at 16 a second are 0.8 GB."""

METADATA_KEY = "steadydancer"
"""Under it a container keeps the record of what made it (`provenance`)."""

# What is taken for a video by its name, in any case; what is in a file is looked at when it is opened.
VIDEO_SUFFIXES = frozenset(
    f".{name}"
    for name in "mp4 m4v mov mkv webm avi gif mpg mpeg ts mts wmv flv 3gp ogv".split()  # noqa: SIM905
)

# Formats that open further files (playlists, concat scripts, image sequences) stay out: a clip must be one file.
_VIDEO_FORMATS = "mov,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,h264,hevc,ivf,rm,mxf,wtv,nut"
STILL_FORMATS = "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe,gif_pipe,j2k_pipe"
_SOUND_FORMATS = "mp3,wav,flac,aac,aiff,ac3"
DEMUX_OPTIONS = {"format_whitelist": f"{_VIDEO_FORMATS},{STILL_FORMATS},{_SOUND_FORMATS}"}


class VideoError(Exception):
    """A file that cannot be used as a video: `reason` is a class of faults, `detail` what was seen in this file."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about its video stream, and how its frames become the pictures that players show.

    Sizes are square pixels as shown, after the turn of `rotation_deg`. The fields from `mirrored` on have defaults, so
    that descriptions load that were written before they were known.
    """

    codec: str
    width: int
    height: int
    rotation_deg: int
    """Clockwise turn that makes the stored frames upright, after `mirrored`: 0, 90, 180 or 270."""
    fps: float
    """Mean frame rate over the whole file, frames / seconds."""
    duration_s: float
    """From the first frame shown to the end of the last one."""
    num_frames: int
    pixel_format: str
    mirrored: bool = False
    """Left and right of the stored frames are exchanged first, then they are turned by `rotation_deg`."""
    deinterlaced: bool = False
    """Each frame holds two fields of two moments; the second one is replaced by what fits the first."""
    transparent: bool = False
    """Its frames have an alpha channel; they are composited on `images.BACKGROUND`."""
    assumed_bt709: bool = False
    """Its frames do not name their matrix, and are read as BT.709, as players read HD."""

    @property
    def changed_by_pictures_2(self) -> tuple[str, ...]:
        """Names of the fields for which version 1 of the rule `pictures` gave other frames; empty: the same ones."""
        names = ("mirrored", "deinterlaced", "transparent", "assumed_bt709")
        return tuple(name for name in names if getattr(self, name))

    @property
    def geometry_changed_by_pictures_2(self) -> bool:
        """Whether what version 1 measured (poses, crops, motion) lies elsewhere in the frames of version 2."""
        return self.mirrored or self.deinterlaced


@dataclass(frozen=True)
class VideoIndex:
    """Presentation times of all frames, in order, in units of `time_base` seconds.

    `timed` says whether the packets carry presentation times, so that decoded frames can be held against them, and
    `suits_decord` whether decord reads such files right. `stored` is the first frame's width, height and the aspect
    of its pixels as the codec tells it: by these a later frame of another aspect is known. `deinterlacing` holds
    the options of bwdif (`video_fields`), empty: frames stay as they are.
    `entries` are positions [k] of frames at which decoding may begin and gives, from there on, what decoding from the
    start gives; `entry_times` [k] are the decoding times by which a container seeks them.
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
        """Seconds after the first frame, float64 [n]."""
        return (self.pts - self.pts[0]) * float(self.time_base)

    def positions_at(self, times_s: np.ndarray) -> np.ndarray:
        """Position of the frame shown at each time: the last one whose own time is not later."""
        # A microsecond: times computed in floating point must not fall just short of the frame they name.
        return np.searchsorted(self.times_s(), np.asarray(times_s, np.float64) + 1e-6, side="right") - 1

    def entry_before(self, position: int) -> int:
        """The last entry at or before a position, 0 (the start of the file) if there is none."""
        place = int(np.searchsorted(self.entries, position, side="right")) - 1
        return int(self.entries[place]) if place >= 0 else 0


class Identity(NamedTuple):
    """Tells one state of one file from every other, without reading it."""

    device: int
    inode: int
    num_bytes: int
    modified_ns: int
    changed_ns: int


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[str]:
    """A nameless path to an open regular file. Raises `VideoError` (`unreadable`)."""
    descriptor = _open(path)
    try:
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)


def identity(path: str | os.PathLike[str]) -> Identity:
    """Of a regular file with something in it. Raises `VideoError` (`unreadable`)."""
    descriptor = _open(path)
    try:
        return identity_of(descriptor)
    finally:
        os.close(descriptor)


def identity_of(descriptor: int) -> Identity:
    """Of a file that is open."""
    status = os.fstat(descriptor)
    return Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _open(path: str | os.PathLike[str]) -> int:
    try:
        # Non-blocking, or opening a pipe without a writer would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise VideoError("unreadable", f"cannot open: {error.strerror}") from error
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size:
        return descriptor
    os.close(descriptor)
    if stat.S_ISREG(status.st_mode):
        raise VideoError("unreadable", "the file is empty")
    raise VideoError("unreadable", "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file")


def error_message(error: BaseException) -> str:
    """The library's own words, without the name the file was opened by."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
