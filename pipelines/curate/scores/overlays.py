"""Overlays added to a picture: captions, watermarks, logos."""

import cv2
import numpy as np

from ....datasets.arrays import Frames, Mask
from ....datasets.video.camera import MIN_CAMERA_TRAVEL
from .frame_scores import luma_of

MIN_PERSISTENCE = 0.5  # share of frames in which a pixel must hold text


def text_scores(masks: Mask) -> dict[str, float]:
    """Score the area of static text, the length of its lines, and the area of any text.

    Captions and watermarks stay in place, as do signs in front of a static camera; text on a dancer's shirt moves and
    counts only where it overlaps itself. A caption in small letters covers no more area than a sign, but is longer.

    Args:
        masks: [F, h, w], where text was detected.

    Returns:
        text_ratio: share of the area that holds text in half of the frames or more.
        text_length: longest of its pieces relative to the picture's width, or to its height if vertical.
        any_text_ratio: share of the area that holds text, mean over frames.
    """
    stable = masks.mean(axis=0) >= MIN_PERSISTENCE
    _, _, pieces, _ = cv2.connectedComponentsWithStats(stable.astype(np.uint8))
    sides = pieces[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]] / stable.shape[::-1]
    return {
        "text_ratio": float(stable.mean()),
        "text_length": float(sides.max(initial=0.0)),
        "any_text_ratio": float(masks.mean()),
    }


def static_edge_ratio(frames: Frames, camera_motion: float | None, seconds: float) -> float | None:
    """Measure the share of the picture with static edges while the rest moves: logos, also semi-transparent ones.

    Compares the gradient of the mean picture with the mean length of the gradients: similar where an edge never moves,
    different where edges pass. None if the camera counts as still, because then all edges are static.

    Args:
        frames: a few frames [F, H, W, 3] spread over the clip.
        camera_motion: picture diagonals per second.
        seconds: the clip's duration.
    """
    if camera_motion is None or camera_motion * seconds < MIN_CAMERA_TRAVEL:
        return None
    across, down, length = np.zeros((3, *frames.shape[1:3]), np.float32)
    for image in luma_of(frames):
        x, y = (cv2.Sobel(image, cv2.CV_32F, dx, 1 - dx, scale=1 / 8) for dx in (1, 0))
        for total, one in ((across, x), (down, y), (length, cv2.magnitude(x, y))):
            cv2.accumulate(one, total)
    length /= len(frames)
    steady = cv2.magnitude(across, down) / len(frames)
    # 0.02: an edge of 4 grey levels per pixel, the faintest visible logo.
    overlaid = (length > 0.02) & (steady > 0.8 * length)
    closed = cv2.morphologyEx(overlaid.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    return float(closed.mean())
