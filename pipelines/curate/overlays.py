"""What was laid over a picture afterwards: captions, watermarks, logos."""

import cv2
import numpy as np
import numpy.typing as npt

from .frame_scores import Frames, luma_of

MIN_PERSISTENCE = 0.5  # share of frames in which a place must hold text
MIN_CAMERA_TRAVEL = 0.03  # picture diagonals: below it everything stands still, not a logo alone


def text_ratios(masks: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Shares of the picture's area that hold text: in half of the frames or more, and on average over frames.

    Captions and watermarks stay in their place, as a shop's sign does before a camera that stands still; letters on
    a dancer's shirt move about, and count only where they overlap themselves.

    Args:
        masks: [F, h, w], where text was read.
    """
    stable = masks.mean(axis=0) >= MIN_PERSISTENCE
    return float(stable.mean()), float(masks.mean())


def static_edge_ratio(frames: Frames, camera_motion: float | None, seconds: float) -> float | None:
    """Share of the picture whose edges stay while the rest moves: logos, semi-transparent ones too.

    The gradient of the mean picture is compared with the mean of the gradients' lengths: they are alike where an edge
    never moves and far apart where edges pass. None where the camera hardly moves, because then all edges stay.

    Args:
        frames: a few frames [F, H, W, 3] spread over the clip.
        camera_motion: picture diagonals a second.
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
    # 0.02: an edge of 4 grey levels a pixel, the faintest logo that is still seen.
    overlaid = (length > 0.02) & (steady > 0.8 * length)
    closed = cv2.morphologyEx(overlaid.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    return float(closed.mean())
