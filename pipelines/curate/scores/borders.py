"""Borders around the picture: bars of one colour, and the blurred copy that fills the sides of upright videos."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ....datasets.arrays import Frames
from .frame_scores import luma_of

Luma = npt.NDArray[np.float32]

MIN_BORDER = 0.015  # of the side; less is a line that a codec left
BAR_TOLERANCE, MIN_FLAT = 10 / 255, 0.995  # how far from the bar's colour; share of its pixels, over all frames
EDGE_STEP, MIN_EDGE = 12 / 255, 0.6  # at a bar's end the picture begins along most of the line
FILL_SHARPNESS, FILL_EDGE = 0.15, 0.6  # a fill's detail beside the picture's; share of the seam that is an edge


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
    """Where the picture is; the whole frame when it has no borders.

    Args:
        frames: a few frames [F, H, W, 3] spread over the clip: what stays the same in all of them may be a border.
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


def _bars(luma: Luma) -> tuple[int, int]:
    """Rows [F, rows, columns] at the beginning and at the end that are a bar."""
    return _bar(luma), _bar(luma[:, ::-1])


def _bar(luma: Luma) -> int:
    num_rows = luma.shape[1]
    colour = np.median(luma[:, :2])
    # Most pictures have no bar, which their first rows tell.
    if not _flat(luma[:, : int(MIN_BORDER * num_rows)], colour).all():
        return 0
    flat = _flat(luma, colour)
    length = int(np.argmin(flat)) if not flat.all() else 0
    if not MIN_BORDER * num_rows <= length < 0.45 * num_rows:
        return 0
    # A codec softens the seam: one or two rows between bar and picture belong to neither. A night sky fades in slowly.
    step = luma[:, length : length + 3] - luma[:, length - 2, None]
    begun = np.abs(step).max(axis=(0, 1)) > EDGE_STEP
    return min(length + 1, num_rows) if begun.mean() >= MIN_EDGE else 0


def _flat(luma: Luma, colour: np.floating) -> npt.NDArray[np.bool_]:
    """Which rows have the bar's colour almost everywhere and always."""
    return (np.abs(luma - colour) <= BAR_TOLERANCE).mean(axis=(0, 2)) >= MIN_FLAT


def _blurred_sides(luma: Luma) -> tuple[int, int]:
    """Columns at the left and at the right, equally many, that hold a blurred copy; (0, 0) without one."""
    width = luma.shape[2]
    seams = np.mean([cv2.absdiff(image[:, 1:], image[:, :-1]) for image in luma], axis=0)
    for side in _seam_candidates(seams, width):
        # A seam is one straight line from edge to edge, much stronger than what lies on its blurred side.
        strong = [
            (seams[:, seam] > 3 * np.maximum(seams[:, beside], 1 / 255)).mean()
            for seam, beside in ((side - 1, side - 4), (width - side - 1, width - side + 2))
        ]
        if min(strong) >= FILL_EDGE and _plain_sides(luma, side):
            return side, side
    return 0, 0


def _plain_sides(luma: Luma, side: int) -> bool:
    """Whether so many columns at the left and at the right hold much less detail than what is between them."""
    width = luma.shape[2]
    # Rounding to 8 bits alone makes Laplacians of 2 grey levels.
    detail = np.stack([np.abs(cv2.Laplacian(image, cv2.CV_32F)) > 3 / 255 for image in luma]).mean(axis=(0, 1))
    outer = np.concatenate([detail[2 : side - 2], detail[width - side + 2 : -2]])
    inner = detail[side + 2 : width - side - 2]
    if not outer.size or not inner.size:  # a frame so small that nothing is left beside the seams' own columns
        return False
    return bool(outer.mean() <= FILL_SHARPNESS * inner.mean())


def _seam_candidates(seams: npt.NDArray[np.floating], width: int) -> list[int]:
    """Side widths for which both seams stand out, the strongest first."""
    strength = np.median(seams, axis=0)  # along the line: an edge of the scene covers a part of it only
    first, last = max(4, round(MIN_BORDER * width)), round(0.4 * width)
    both = [min(strength[side - 1], strength[width - side - 1]) for side in range(first, last)]
    order = np.argsort(both)[::-1][:3]
    return [first + int(k) for k in order if both[int(k)] > 2 / 255]
