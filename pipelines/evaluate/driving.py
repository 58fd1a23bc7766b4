"""Driving videos while a render is scored: which of their frames it was asked to follow, and the frames themselves."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...datasets.arrays import Floats64, Frames, Integers
from ...datasets.driving_poses import driving_times_s
from ...datasets.local_copies import local_copy
from ...datasets.storage import StorageError
from ...datasets.video import VideoError, VideoInfo, decode, frame_times_s, probe
from .comparison import Clock, times_in_truth
from .scores import NotMeasured
from .video import Video


class DrivenTimes(NamedTuple):
    """What a render was asked to follow.

    Args:
        times_s: [n], times in the driving video, one for each of the first n frames of the render (or of its scored
            frames, if it holds only these).
        positions: [m], those of the scored frames among them, as far as the driving video goes.
        notes: remarks on how they were found.
    """

    times_s: Floats64
    positions: Integers
    notes: list[str]


def driven_times(video: Video, native_s: Floats64) -> DrivenTimes:
    """Return the times of the driven frames.

    Args:
        video: the render.
        native_s: times of all frames of its driving video.
    """
    notes: list[str] = []
    positions = video.positions
    strided = None if video.rendered.has_record else video.protocol.truth_positions(len(native_s))
    if video.rendered.has_record:
        times_s = driving_times_s(native_s, len(video.times_s), video.rendered.driving_fps)
    elif strided is not None:  # the render holds only the frames that the protocol takes of the truth
        times_s, positions = native_s[strided][: len(positions)], np.arange(len(positions))
    else:
        times_s, notes = times_in_truth(Clock(video.times_s), native_s)
        notes = [note.replace("the ground truth", "the driving video") for note in notes]
    return DrivenTimes(times_s, positions[positions < len(times_s)], notes)


def sized(path: Path, info: VideoInfo, times_s: Floats64, longest_px: int) -> Frames:
    """Decode frames, of a video that was probed, with a longer side of at most `longest_px`, and even sides.

    Raises:
        VideoError: they cannot be decoded.
    """
    scale = min(1.0, longest_px / max(info.height, info.width))
    height, width = (max(2, round(side * scale / 2) * 2) for side in (info.height, info.width))
    return decode(path, times_s, height, width)


def spread_frames(driving: str, num_frames: int, longest_px: int) -> Frames:
    """Read frames spread over a driving video, at most `num_frames`.

    Raises:
        NotMeasured: it cannot be read.
    """
    try:
        with local_copy(driving) as path:
            times_s = frame_times_s(path)
            kept = np.unique(np.linspace(0, len(times_s) - 1, num_frames).round().astype(int))
            return sized(path, probe(path), times_s[kept], longest_px)
    except (VideoError, StorageError, OSError) as error:
        raise unreadable(driving, error) from error


def driven_part(video: Video, longest_px: int, longest_s: float) -> tuple[Frames, float]:
    """Read all frames of the driving video up to the last driven one, at most `longest_s`; and their rate.

    Raises:
        NotMeasured: there is none, or it cannot be read.
    """
    driving = video.row["driving"]
    if not driving:
        raise NotMeasured("no_driving", "no driving video was given")
    try:
        with local_copy(driving) as path:
            native_s = frame_times_s(path)
            driven = driven_times(video, native_s)
            last_s = driven.times_s[driven.positions[-1]] if len(driven.positions) else native_s[-1]
            times_s = native_s[native_s <= min(last_s, native_s[0] + longest_s)]
            span_s = float(times_s[-1] - times_s[0])
            fps = (len(times_s) - 1) / span_s if span_s > 0 else 1.0
            return sized(path, probe(path), times_s, longest_px), fps
    except (VideoError, StorageError, OSError) as error:
        raise unreadable(driving, error) from error


def unreadable(driving: str, error: Exception) -> NotMeasured:
    """Return the reason of a driving video that cannot be read."""
    return NotMeasured("unreadable_driving", f"the driving video {driving} cannot be read: {error}")
