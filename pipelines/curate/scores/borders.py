"""Borders around the picture: bars of one colour, and the blurred copy that fills the sides of vertical videos."""

from dataclasses import dataclass

import cv2
import numpy as np

from ....datasets.arrays import Floats, Floats32, Frames, Mask
from .frame_scores import luma_of

MIN_BORDER = 0.015  # of the side; less is a codec artefact
BAR_TOLERANCE, MIN_FLAT = 10 / 255, 0.995  # distance from the bar's colour; share of its pixels, over all frames
EDGE_STEP, MIN_EDGE = 12 / 255, 0.6  # step at the end of a bar; share of the line that has it
FILL_SHARPNESS, FILL_EDGE = 0.15, 0.6  # a fill's detail relative to the picture's; share of the seam that is an edge


@dataclass(frozen=True)
class Box:
    """The picture inside its borders, as shares of width and height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0

    @property
    def area(self) -> float:
        """Share of the frame."""
        return (self.right - self.left) * (self.bottom - self.top)


def find_content(frames: Frames) -> Box:
    """Find the picture inside its borders; the whole frame if it has none.

    Args:
        frames: a few frames [F, H, W, 3] spread over the clip; a border is the same in all of them.
    """
    luma = luma_of(frames)
    left, right = _bars(luma.transpose(0, 2, 1))
    top, bottom = _bars(luma)
    if left == right == 0:
        left, right = _blurred_sides(luma)
    if top == bottom == 0:
        top, bottom = _blurred_sides(luma.transpose(0, 2, 1))
    height, width = luma.shape[1:]
    return Box(left / width, top / height, 1 - right / width, 1 - bottom / height)


def _bars(luma: Floats32) -> tuple[int, int]:
    """Count the rows of [F, rows, columns] at the beginning and at the end that are a bar."""
    return _bar(luma), _bar(luma[:, ::-1])


def _bar(luma: Floats32) -> int:
    num_rows = luma.shape[1]
    colour = np.median(luma[:, :2])
    # Most pictures have no bar: their first rows suffice to know.
    if not _flat(luma[:, : int(MIN_BORDER * num_rows)], colour).all():
        return 0
    flat = _flat(luma, colour)
    length = int(np.argmin(flat)) if not flat.all() else 0
    if not MIN_BORDER * num_rows <= length < 0.45 * num_rows:
        return 0
    # A codec softens the seam over one or two rows. A night sky fades in slowly and is not a bar.
    step = luma[:, length : length + 3] - luma[:, length - 2, None]
    begun = np.abs(step).max(axis=(0, 1)) > EDGE_STEP
    return min(length + 1, num_rows) if begun.mean() >= MIN_EDGE else 0


def _flat(luma: Floats32, colour: np.floating) -> Mask:
    """Return a mask of the rows that have the bar's colour in almost all pixels of all frames."""
    return (np.abs(luma - colour) <= BAR_TOLERANCE).mean(axis=(0, 2)) >= MIN_FLAT


def _blurred_sides(luma: Floats32) -> tuple[int, int]:
    """Count the columns left and right (equal) that hold a blurred copy; (0, 0) without one."""
    width = luma.shape[2]
    steps = [cv2.absdiff(image[:, 1:], image[:, :-1]) for image in luma]
    seams = sum(steps[1:], steps[0]) / np.float32(len(steps))
    for side in _seam_candidates(seams, width):
        # A seam is one straight line from edge to edge, much stronger than the blurred side next to it.
        strong = [
            (seams[:, seam] > 3 * np.maximum(seams[:, beside], 1 / 255)).mean()
            for seam, beside in ((side - 1, side - 4), (width - side - 1, width - side + 2))
        ]
        if min(strong) >= FILL_EDGE and _plain_sides(luma, side):
            return side, side
    return 0, 0


def _plain_sides(luma: Floats32, side: int) -> bool:
    """Check whether `side` columns left and right have much less detail than the columns between them."""
    width = luma.shape[2]
    # Rounding to 8 bits alone makes Laplacians of 2 grey levels.
    detail = np.stack([np.abs(cv2.Laplacian(image, cv2.CV_32F)) > 3 / 255 for image in luma]).mean(axis=(0, 1))
    outer = np.concatenate([detail[2 : side - 2], detail[width - side + 2 : -2]])
    inner = detail[side + 2 : width - side - 2]
    if not outer.size or not inner.size:  # the frame is too small
        return False
    return bool(outer.mean() <= FILL_SHARPNESS * inner.mean())


def _seam_candidates(seams: Floats, width: int) -> list[int]:
    """Return the side widths with the strongest seams, strongest first."""
    strength = _medians(seams)  # along the line: an edge in the scene covers only a part of it
    first, last = max(4, round(MIN_BORDER * width)), round(0.4 * width)
    both = [min(strength[side - 1], strength[width - side - 1]) for side in range(first, last)]
    order = np.argsort(both)[::-1][:3]
    return [first + int(k) for k in order if both[int(k)] > 2 / 255]


def _medians(values: Floats) -> Floats:
    """Compute the median of each column; `np.median` takes ten times as long, as it partitions instead of sorting."""
    num_rows = len(values)
    ordered = np.sort(np.ascontiguousarray(values.T), axis=1)
    return np.asarray(ordered[:, (num_rows - 1) // 2 : num_rows // 2 + 1].mean(axis=1))
