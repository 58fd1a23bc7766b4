"""How noisy frames are, and whether they are made of blocks: small pictures stretched, or squeezed by a codec."""

import cv2
import numpy as np
import numpy.typing as npt

from ....datasets.arrays import Frames
from .frame_scores import grey_of

Luma = npt.NDArray[np.uint8]

NUM_TRIPLES = 12  # of neighbouring frames, spread over the clip
CALM_PERCENTILE = 10  # of the picture: its calmest tenth has noise and nothing else
WINDOW = (5, 5)  # pixels over which it is averaged
# Immerkær's mask: the difference of two Laplacians, which neither a slope nor a curve moves. Its coefficients' squares
# sum to 36.
DETAIL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
MEAN_TO_SIGMA = np.sqrt(np.pi / 2)  # of a normal distribution's absolute values

MAX_PERIOD = 16  # pixels: what is larger than that are windows and tiles, no blocks
SMOOTHED_PX = 15  # along a profile: its own course, out of which a grid stands
NUM_BINS = 2048  # of the transform: more than a frame has rows or columns
PROFILE_FLOOR = 0.5  # grey levels: where less changes from pixel to pixel there is no grid to be seen


def noise(luma: Luma, matrices: npt.NDArray[np.floating], known: npt.NDArray[np.bool_]) -> float | None:
    """Standard deviation of noise in the calmest tenth of small frames, 0..1; None of fewer than three frames.

    The lesser of two estimates: from fine detail in one frame (Immerkær, "Fast noise variance estimation", 1996), which
    a meadow has too, and from the second difference in time along the camera's path, which whatever moves has too.
    Noise has both.

    Args:
        luma: [F, H, W] in levels, at the clip's rate.
        matrices: [F − 1, 2, 3], the camera's motion from each frame to the next, pixels to pixels.
        known: [F − 1], where they can be trusted; elsewhere the camera counts as still.
    """
    if len(luma) < 3:
        return None
    in_space, in_time = np.zeros((2, *luma.shape[1:]), np.float32)
    middles = np.unique(np.linspace(1, len(luma) - 2, NUM_TRIPLES).round().astype(int))
    size = luma.shape[:0:-1]
    for k in middles:
        before, after = luma[k - 1], luma[k + 1]
        if known[k - 1]:
            before = cv2.warpAffine(before, matrices[k - 1], size, borderMode=cv2.BORDER_REPLICATE)
        if known[k]:
            back = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            after = cv2.warpAffine(after, matrices[k], size, flags=back, borderMode=cv2.BORDER_REPLICATE)
        in_time += np.abs(before.astype(np.int16) - 2 * luma[k].astype(np.int16) + after)
        in_space += np.abs(cv2.filter2D(luma[k], cv2.CV_16S, DETAIL))
    sigmas = [
        np.percentile(cv2.blur(total, WINDOW), CALM_PERCENTILE) / len(middles) * MEAN_TO_SIGMA / gain
        for total, gain in ((in_space, 6.0), (in_time, np.sqrt(6)))
    ]
    return float(min(sigmas) / 255)


def blockiness(frames: Frames) -> float:
    """How much a square grid stands out of frames, 0 (not at all) to about 2.

    Of the mean change from pixel to pixel, along rows and along columns, that part which repeats itself every 2 to 16
    pixels, over the change there: the strongest period that both directions have. A fence has but one.

    Args:
        frames: a few frames [F, H, W, 3].
    """
    luma = grey_of(frames)
    across = [cv2.reduce(cv2.absdiff(one[:, 1:], one[:, :-1]), 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F) for one in luma]
    down = [cv2.reduce(cv2.absdiff(one[1:], one[:-1]), 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F) for one in luma]
    return float(np.minimum(*(_amplitudes(np.mean(profiles, axis=0).ravel()) for profiles in (across, down))).max())


def _amplitudes(profile: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Of the waves in a profile, over its own course; the same frequencies whatever its length."""
    course = cv2.blur(profile[None], (SMOOTHED_PX, 1), borderType=cv2.BORDER_REFLECT)[0]
    wave = (profile - course) / (course + PROFILE_FLOOR) * np.hanning(len(profile))
    amplitudes = np.abs(np.fft.rfft(wave, NUM_BINS)) / (len(profile) / 4)
    return np.asarray(amplitudes[NUM_BINS // MAX_PERIOD :])
