"""Where the person is: masks that are dilated, boxes around masks or joints, and crops of the boxes.

Pixels have x to the right and y down. A box is (left, top, right, bottom) in pixels, NaN where there is no person.
"""

import cv2
import numpy as np

from ...datasets.arrays import Floats, Floats32, Floats64, Frames, Mask

DILATION = 0.02  # of the longer side: hair, fingers and thin arms lie outside of a mask
MIN_AREA = 0.002  # of the picture; a smaller mask is no person
MIN_PIECE = 0.1  # of the largest piece; smaller pieces of a mask are not counted to the person
MIN_JOINTS = 4
JOINT_MARGIN = 0.15  # of the box's longer side: joints end at eyes, wrists and ankles
GREY = 127


def dilate(masks: Mask, share: float = DILATION) -> Mask:
    """Extend masks [F, H, W] by `share` of the longer side, in all directions."""
    radius = round(share * max(masks.shape[1:]))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.stack([cv2.dilate(mask.astype(np.uint8), disc) > 0 for mask in masks]) if len(masks) else masks.copy()


def mask_boxes(masks: Mask) -> Floats64:
    """Return the box [F, 4] of the largest piece of each mask [F, H, W] and of pieces of at least a tenth of it."""
    found = np.full((len(masks), 4), np.nan)
    for index, mask in enumerate(masks):
        _, _, pieces, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        pieces = pieces[1:]  # the first one is the background
        if not len(pieces) or pieces[:, cv2.CC_STAT_AREA].sum() < MIN_AREA * mask.size:
            continue
        areas = pieces[:, cv2.CC_STAT_AREA]
        left, top, width, height = pieces[areas >= MIN_PIECE * areas.max(), :4].T
        found[index] = left.min(), top.min(), (left + width).max(), (top + height).max()
    return found


def joint_boxes(points: Floats, visible: Mask) -> Floats64:
    """Return the box [F, 4] around the visible joints, with a margin; NaN with fewer than 4 of them.

    Args:
        points: joints in pixels [F, J, 2].
        visible: [F, J].
    """
    found = np.full((len(points), 4), np.nan)
    for index in np.flatnonzero(visible.sum(axis=1) >= MIN_JOINTS):
        joints = np.asarray(points[index], np.float64)[visible[index]]
        low, high = joints.min(axis=0), joints.max(axis=0)
        margin = JOINT_MARGIN * (high - low).max()
        found[index] = *(low - margin), *(high + margin)
    return found


def crops(frames: Frames, boxes: Floats, side: int, masks: Mask | None = None) -> Frames:
    """Cut a square around each box and scale it to [F, side, side, 3], grey outside of the picture.

    Args:
        frames: uint8 RGB [F, H, W, 3].
        boxes: [F, 4], all of them boxes.
        side: pixels of the result.
        masks: [F, H, W]; what lies outside of them becomes grey, too, so that the place does not count.
    """
    found = np.empty((len(frames), side, side, 3), np.uint8)
    for index, (frame, box) in enumerate(zip(frames, np.asarray(boxes, np.float64), strict=True)):
        picture = frame if masks is None else np.where(masks[index, :, :, None], frame, GREY).astype(np.uint8)
        size = max(float((box[2:] - box[:2]).max()), 1.0)
        left, top = (box[:2] + box[2:]) / 2 - size / 2
        found[index] = _cut(picture, left, top, size, side)
    return found


def _cut(picture: Frames, left: float, top: float, size: float, side: int) -> Frames:
    """Scale a square of the picture. Squares that shrink are averaged, which an affine map alone does not do."""
    shrink = max(1, int(size / side))
    if shrink > 1:
        height, width = (max(1, length // shrink) for length in picture.shape[:2])
        across, down = width / picture.shape[1], height / picture.shape[0]
        picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    else:
        across = down = 1.0
    matrix: Floats32 = np.array(
        [[size * across / side, 0, left * across], [0, size * down / side, top * down]], np.float32
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(picture, matrix, (side, side), flags=flags, borderValue=(GREY, GREY, GREY))
    return np.asarray(cut, np.uint8)
