"""Fingerprints and their comparison: recompressed, rescaled, slightly cropped, mirrored or shifted copies of a video.

A clip's fingerprint is its luma at 8 × 8 pixels, four pictures per second. Two sequences are compared at every shift in
time by two correlations: of the pictures (the same place?) and of their changes over time (the same events at the same
moments?). Only the second distinguishes two dances in one studio.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ....datasets.arrays import Floats32, Frames

SIDE, RATE = 8, 4  # cells per side, pictures per second
# Correlations, measured on web clips: at least 0.86 and 0.71 for copies, up to 0.99 and 0.58 for other dances in the
# same place.
MIN_PLACE, MIN_EVENTS = 0.8, 0.65
LONG, MIN_EVENTS_SHORT = 16, 0.8  # pictures, four seconds: dances to one beat are similar for a short time
MIN_CHANGE = 0.5  # grey levels: below this change there are no events to compare


def fingerprint(frames: Frames, fps: float) -> bytes:
    """Compute the fingerprint of frames [F, H, W, 3] at `fps`: uint8 [n, 8, 8], four per second, as bytes.

    Each picture is the mean of a quarter of a second, so that a copy with a small time shift is still similar.
    """
    step = max(1, round(fps / RATE))
    small = np.stack([cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames])
    luma = small.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    means = [luma[start : start + step].mean(axis=0) for start in range(0, len(luma), step)]
    return np.round(np.stack(means)).astype(np.uint8).tobytes()


def pictures(data: bytes) -> Floats32:
    """Convert a fingerprint to float32 [n, 64]."""
    return np.frombuffer(data, np.uint8).reshape(-1, SIDE * SIDE).astype(np.float32)


def mirrored(sequence: Floats32) -> Floats32:
    """Flip a sequence left to right."""
    return np.ascontiguousarray(sequence.reshape(-1, SIDE, SIDE)[:, :, ::-1]).reshape(-1, SIDE * SIDE)


@dataclass(frozen=True)
class Match:
    """The best agreement of two sequences over all shifts.

    Attributes:
        overlap: number of common pictures at the best shift; 0 if they agree at none.
        similarity: the smaller of the two correlations at that shift.
    """

    overlap: int = 0
    similarity: float = 0.0


def align(first: Floats32, second: Floats32, min_overlap: int) -> Match:
    """Find the best shift of [n, 64] and [m, 64] with at least `min_overlap` common pictures; mirrored too."""
    return max(
        (_align(first, other, min_overlap) for other in (second, mirrored(second))),
        key=lambda match: (match.similarity, match.overlap),
    )


def _align(first: Floats32, second: Floats32, min_overlap: int) -> Match:
    place = unit(first) @ unit(second).T
    one, other = first - first.mean(axis=0), second - second.mean(axis=0)
    events = one @ other.T
    power, other_power = (one**2).sum(axis=1), (other**2).sum(axis=1)
    best = Match()
    for shift in range(min_overlap - len(first), len(second) - min_overlap + 1):
        start, stop = max(0, -shift), min(len(first), len(second) - shift)
        overlap = stop - start
        if overlap < min_overlap or overlap < 2:
            continue
        energy = power[start:stop].sum() * other_power[start + shift : stop + shift].sum()
        if energy < (overlap * SIDE**2 * MIN_CHANGE**2) ** 2:
            continue
        same_events = np.trace(events, shift) / np.sqrt(energy)
        same_place = np.trace(place, shift) / overlap
        if same_place >= MIN_PLACE and same_events >= (MIN_EVENTS if overlap >= LONG else MIN_EVENTS_SHORT):
            best = max(best, Match(overlap, float(min(same_place, same_events))), key=lambda match: match.similarity)
    return best


def unit(sequence: Floats32) -> Floats32:
    """Subtract each row's mean and scale the row to length 1."""
    centred = sequence - sequence.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)


class Excluded:
    """Excluded videos, usually evaluation sets, from which no clip may be taken.

    Args:
        names: of the videos.
        sequences: their fingerprints, [n, 64] each.
        unreadable: name → why a video of the set cannot be compared.
    """

    def __init__(
        self, names: Sequence[str], sequences: Sequence[Floats32], unreadable: Mapping[str, str] | None = None
    ) -> None:
        self.names, self.sequences = list(names), list(sequences)
        self.unreadable = dict(unreadable or {})

    def closest(self, data: bytes, min_ratio: float = 0.5) -> tuple[float, str | None]:
        """Return the highest similarity (0..1) over `min_ratio` of the shorter of clip and video, and the video."""
        clip = pictures(data)
        best, name = 0.0, None
        for other, sequence in zip(self.names, self.sequences, strict=True):
            overlap = max(2, int(np.ceil(min_ratio * min(len(clip), len(sequence)))))
            match = align(clip, sequence, overlap)
            if match.similarity > best:
                best, name = match.similarity, other
        return best, name

    def save(self, path: Path) -> None:
        """Write an npz that `load` reads, so that the videos are not needed again."""
        arrays: dict[str, Any] = {f"{k}": value.astype(np.uint8) for k, value in enumerate(self.sequences)}
        if self.unreadable:
            arrays["unreadable"] = np.array(list(self.unreadable.items()), str).reshape(-1, 2)
        np.savez_compressed(path, names=np.array(self.names), **arrays)

    @classmethod
    def load(cls, path: Path) -> "Excluded":
        """Read an npz of `save`."""
        with np.load(path, allow_pickle=False) as data:
            names = [str(name) for name in data["names"]]
            unreadable = {str(name): str(why) for name, why in data["unreadable"]} if "unreadable" in data else {}
            return cls(names, [data[f"{k}"].astype(np.float32) for k in range(len(names))], unreadable)
