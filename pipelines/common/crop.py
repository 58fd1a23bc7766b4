"""The picture inside a source's borders: the region of frames and keypoints that is scored and trained on.

Rows and keypoints use the coordinates of the whole frame; `crop_left_px, crop_top_px, crop_width_px, crop_height_px`
give the picture, null if it fills the frame.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from ...datasets.arrays import Floats32, Floats64
from ...datasets.schema import Row
from ...datasets.skeleton import PoseSequence

if TYPE_CHECKING:
    from torch import Tensor

Pixels = TypeVar("Pixels", npt.NDArray[np.uint8], "Tensor")
Shares = tuple[float, float, float, float]
WHOLE: Shares = (0.0, 0.0, 1.0, 1.0)


def content_shares(row: Row) -> Shares:
    """Return left, top, width and height of the picture as shares of the frame."""
    if row.get("crop_width_px") is None:
        return WHOLE
    width, height = row["width"], row["height"]
    return (
        row["crop_left_px"] / width,
        row["crop_top_px"] / height,
        row["crop_width_px"] / width,
        row["crop_height_px"] / height,
    )


def frame_of(row: Row) -> Row:
    """Return the row with the source's size as `height` and `width`, which the functions here read.

    In the rows of `cache` and `export`, `height` and `width` are the size that is written.
    """
    return {**row, "height": row["source_height"], "width": row["source_width"]}


def size_to_decode(frame: Row, height: int) -> tuple[int, int]:
    """Return the (height, width), even, at which to read a whole frame whose picture is resized to `height`.

    The picture in it is at most twice as high, and never larger than in the source.
    """
    scale = min(1.0, 2 * height / content_size(frame)[0])
    return round(frame["height"] * scale / 2) * 2, round(frame["width"] * scale / 2) * 2


def content_size(row: Row) -> tuple[int, int]:
    """Return the (height, width) of the picture in pixels of the source."""
    return row.get("crop_height_px") or row["height"], row.get("crop_width_px") or row["width"]


def crop_box(shares: Shares, height: int, width: int) -> tuple[int, int, int, int]:
    """Return left, top, width and height in pixels of the picture in a frame of this size; width and height are even.

    A picture that fills the frame keeps the frame's size, even if it is odd.
    """
    if shares == WHOLE:
        return 0, 0, width, height
    left, top, wide, high = shares
    columns, rows = (max(2, int(round(n, 6)) // 2 * 2) for n in (wide * width, high * height))
    return round(left * width), round(top * height), columns, rows


def crop_frames(frames: Pixels, shares: Shares) -> Pixels:
    """Crop frames [F, H, W, 3] of any scale to the picture; returns a view."""
    if shares == WHOLE:
        return frames
    x, y, columns, rows = crop_box(shares, *frames.shape[1:3])
    return frames[:, y : y + rows, x : x + columns]


def cropped_shares(shares: Shares, height: int, width: int) -> Shares:
    """Return the exact shares that `crop_frames` cuts from frames of this size, for keypoints drawn over them."""
    x, y, columns, rows = crop_box(shares, height, width)
    return x / width, y / height, columns / width, rows / height


def to_content(pose: PoseSequence, shares: Shares) -> PoseSequence:
    """Convert keypoints from shares of the frame to shares of the picture; a missing point stays (−1, −1)."""
    left, top, width, height = shares
    return _mapped(pose, np.array([-left / width, -top / height]), np.array([1 / width, 1 / height]))


def to_frame(pose: PoseSequence, shares: Shares) -> PoseSequence:
    """Convert keypoints from shares of the picture to shares of the frame."""
    left, top, width, height = shares
    return _mapped(pose, np.array([left, top]), np.array([width, height]))


def _mapped(pose: PoseSequence, shift: Floats64, scale: Floats64) -> PoseSequence:
    def moved(points: Floats32) -> Floats32:
        missing = (points == -1).all(axis=-1, keepdims=True)
        return np.where(missing, points, points * scale + shift).astype(np.float32)

    faces = None if pose.faces is None else moved(pose.faces)
    return replace(pose, body=moved(pose.body), hands=moved(pose.hands), faces=faces)
