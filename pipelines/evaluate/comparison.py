"""Comparison of a render with its ground truth: which frames are compared, and when the two are not comparable.

Both start at 0 s. If both have the same frame times, frames are compared one to one. Otherwise each rendered frame is
compared with the truth's frame at that time, up to the truth's end. The truth is scaled to the render's size; a truth
with another aspect is rejected, unless the protocol stretches or crops it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...datasets.arrays import Floats64, Frames, Integers
from ...datasets.local_copies import local_copy
from ...datasets.storage import StorageError
from ...datasets.video import VideoError, decode, frame_times_s, probe
from .protocols import PROTOCOLS, Protocol

Size = tuple[int, int]  # height, width

# Containers round times: Matroska to milliseconds, GIF to hundredths of a second.
SAME_TIME_S = 0.006
SLACK_S = 0.001
# The size rules of `render` and of other tools change a side by a few per cent.
SAME_ASPECT = 0.03


class Compared(NamedTuple):
    """The truth's frames for the first frames of the render, remarks on the comparison, and their times in s [n]."""

    frames: Frames
    detail: str | None
    times_s: Floats64


class NotComparable(Exception):
    """Ground truth that cannot be compared with its render.

    Args:
        reason: `unreadable_truth`, `other_aspect`, `other_fps` or `too_short`.
        detail: explanation.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Clock:
    """Frame times of a render.

    Args:
        times_s: [n], times of the rendered frames.
        driving: the driving video, whose frame times a truth may have; None if unknown.
        driving_fps: rate at which it was resampled; None if every frame was read.
    """

    times_s: Floats64
    driving: str | None = None
    driving_fps: float | None = None


def truth_frames(
    truth: Path,
    clock: Clock,
    size: Size,
    image_size: Size | None,
    protocol: Protocol = PROTOCOLS["all"],
    positions: Integers | None = None,
) -> Compared:
    """Read the truth's frames for the first n scored frames: uint8 [n, H, W, 3], n ≥ 1.

    Args:
        truth: file of the truth.
        clock: frame times of the render.
        size: size of the render.
        image_size: size of the reference image; a render has its aspect, except for rounding.
        protocol: which frames count, and how another rate or aspect is treated.
        positions: positions of the scored frames in the render; None: all.

    Raises:
        NotComparable: the truth cannot be read, or has another aspect or rate.
    """
    positions = np.arange(len(clock.times_s)) if positions is None else positions
    try:
        info = probe(truth)
        true_size = (info.height, info.width)
        if protocol.fit == "refuse":
            _require_aspect(true_size, size, image_size)
        own_s = frame_times_s(truth)
        times_s, notes = _scored_times(clock, own_s, protocol, positions)
        frames = _decode(truth, times_s, true_size, size, protocol)
    except VideoError as error:
        raise NotComparable("unreadable_truth", f"the ground truth cannot be read: {error}") from error
    if len(times_s) < len(positions):
        notes.append(f"{len(times_s)} of {len(positions)} rendered frames were compared: the ground truth is shorter")
    elif len(own_s) > len(positions) and not notes:
        first = "the first " if np.array_equal(positions, np.arange(len(positions))) else ""
        notes.append(f"{first}{len(times_s)} of {len(own_s)} ground-truth frames were compared")
    if true_size != size:
        changed = {"refuse": "scaled", "stretch": "scaled, its aspect not kept,", "crop": "cropped and scaled"}
        notes.append(f"the ground truth was {changed[protocol.fit]} from {_size(true_size)} to {_size(size)}")
    return Compared(frames, "; ".join(notes) or None, times_s)


def _require_aspect(true_size: Size, size: Size, image_size: Size | None) -> None:
    if not any(same_aspect(true_size, other) for other in (size, image_size) if other is not None):
        raise NotComparable(
            "other_aspect",
            f"the ground truth is {_size(true_size)}, the render {_size(size)}: their aspect ratios differ",
        )


def _scored_times(clock: Clock, own_s: Floats64, protocol: Protocol, positions: Integers) -> tuple[Floats64, list[str]]:
    """Return the truth's times for the first n scored frames, and remarks."""
    in_truth = protocol.truth_positions(len(own_s))
    if in_truth is not None:
        in_truth = in_truth[: len(positions)]
        return own_s[in_truth], [f"every {_ordinal(in_truth)} frame of the ground truth was compared"]
    if protocol.other_fps == "refuse" and not same_times(clock.times_s, own_s):
        raise NotComparable(
            "other_fps",
            f"the ground truth ({_rate(own_s)}) has other frame times than the render ({_rate(clock.times_s)}), which "
            f"the protocol {protocol.name} does not resample",
        )
    times_s, notes = times_in_truth(clock, own_s)
    at = positions[positions < len(times_s)]
    if not len(at):
        raise NotComparable("too_short", "the ground truth ends before the first scored frame")
    return times_s[at], notes


def _decode(truth: Path, times_s: Floats64, true_size: Size, size: Size, protocol: Protocol) -> Frames:
    """Decode frames at the render's size, by the protocol's filter."""
    if protocol.truth_filter == "decoder" and protocol.fit != "crop":
        return decode(truth, times_s, *size)
    resample = Image.Resampling.BICUBIC if protocol.truth_filter == "pil-bicubic" else Image.Resampling.BILINEAR
    box = _cropped(true_size, size) if protocol.fit == "crop" else None
    frames = decode(truth, times_s)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1], resample, box)) for frame in frames])


def _cropped(true_size: Size, size: Size) -> tuple[float, float, float, float]:
    """Return the largest centred box of the render's aspect in the truth: left, top, right, bottom."""
    (height, width), (wanted_height, wanted_width) = true_size, size
    scale = min(height / wanted_height, width / wanted_width)
    box_height, box_width = scale * wanted_height, scale * wanted_width
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def _ordinal(positions: Integers) -> str:
    stride = int(positions[1] - positions[0]) if len(positions) > 1 else 1
    return {1: "single", 2: "second", 3: "third"}.get(stride, f"{stride}th")


def times_in_truth(clock: Clock, truth_s: Floats64) -> tuple[Floats64, list[str]]:
    """Return the truth's times for the first n rendered frames, and notes if they are not matched one to one.

    Args:
        clock: frame times of the render.
        truth_s: times of all frames of the truth.
    """
    if same_times(clock.times_s, truth_s):
        return truth_s[: len(clock.times_s)], []
    driven_s, unread = _driving_times(clock, truth_s)
    if driven_s is not None:
        at = driven_s
        note = "the ground truth has the driving video's frame times: each frame is compared with its driving frame"
    else:
        at = clock.times_s
        note = f"the ground truth ({_rate(truth_s)}) was sampled at the render's times ({_rate(at)})"
    step = _step(truth_s) or _step(clock.times_s)
    at = at[at < truth_s[-1] + step - SLACK_S] if step else at[:1]
    return at + SLACK_S, [note, *unread]


def same_times(one: Floats64, other: Floats64) -> bool:
    """Check whether two videos have the same frame times, up to the end of the shorter one."""
    count = min(len(one), len(other))
    steps = [step for step in (_step(one), _step(other)) if step]
    allowed = min([SAME_TIME_S, *(step / 2 for step in steps)])
    return bool(np.abs(one[:count] - other[:count]).max() <= allowed)


def same_aspect(one: Size, other: Size) -> bool:
    """Check whether two pictures have the same aspect, allowing for rounded sides."""
    (height, width), (other_height, other_width) = one, other
    rounding = sum(1 / side for side in (*one, *other)) / 2
    return abs(np.log(width * other_height / (height * other_width))) <= SAME_ASPECT + rounding


def _driving_times(clock: Clock, truth_s: Floats64) -> tuple[Floats64 | None, list[str]]:
    """Return each rendered frame's time in the driving video if the truth has its frame times; else None, notes."""
    if clock.driving is None:
        return None, []
    try:
        with local_copy(clock.driving) as local:
            native_s = frame_times_s(local)
    except (VideoError, StorageError, OSError):
        return None, ["the driving video can no longer be read, so its frame times were not used"]
    if not same_times(native_s, truth_s):
        return None, []
    count = len(clock.times_s)
    return (truth_s[:count] if clock.driving_fps is None else np.arange(count) / clock.driving_fps), []


def _step(times_s: Floats64) -> float:
    """Return the mean time between frames; 0 for a single frame."""
    return float(times_s[-1]) / (len(times_s) - 1) if len(times_s) > 1 else 0.0


def _rate(times_s: Floats64) -> str:
    step = _step(times_s)
    return f"{len(times_s)} frames, {1 / step:.4g} per second" if step else "one frame"


def _size(size: Size) -> str:
    return f"{size[1]}×{size[0]}"
