"""Noise and blockiness of frames; blocks come from upscaling or from a codec."""

import cv2
import numpy as np
import numpy.typing as npt

from ....datasets.arrays import Floats, Frames, Mask
from .frame_scores import grey_of

Luma = npt.NDArray[np.uint8]

NUM_TRIPLES = 12  # of neighbouring frames, spread over the clip
CALM_PERCENTILE = 10  # of the picture: its smoothest tenth shows only noise
WINDOW = (5, 5)  # pixels of the averaging window
# Immerkær's mask: the difference of two Laplacians, zero on slopes and curves. Its squared coefficients sum to 36.
DETAIL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
MEAN_TO_SIGMA = np.sqrt(np.pi / 2)  # for the absolute values of a normal distribution

MAX_PERIOD = 16  # pixels; longer periods are windows and tiles, not blocks
SMOOTHED_PX = 15  # smoothing of a profile, above which a grid is measured
NUM_BINS = 2048  # of the transform: more than the rows or columns of a frame
PROFILE_FLOOR = 0.5  # grey levels: smaller changes from pixel to pixel show no visible grid


def noise(luma: Luma, matrices: Floats, known: Mask) -> float | None:
    """Estimate the noise in the smoothest tenth of small frames, standard deviation 0..1; None below 3 frames.

    Returns the smaller of two estimates: from fine detail in one frame (Immerkær, "Fast noise variance estimation",
    1996), which texture has too, and from the second difference in time along the camera path, which motion has too.

    Args:
        luma: [F, H, W] in levels, at the clip's rate.
        matrices: [F − 1, 2, 3], the camera motion from each frame to the next, in pixels.
        known: [F − 1], where they are reliable; elsewhere the camera counts as still.
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
    """Measure the strength of a square grid in frames, 0 (none) to about 2.

    The periodic part (2 to 16 pixels) of the mean change from pixel to pixel, relative to that change, for the
    strongest period that rows and columns share. A fence is periodic in one direction only.

    Args:
        frames: a few frames [F, H, W, 3].
    """
    luma = grey_of(frames)
    across = [cv2.reduce(cv2.absdiff(one[:, 1:], one[:, :-1]), 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F) for one in luma]
    down = [cv2.reduce(cv2.absdiff(one[1:], one[:-1]), 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F) for one in luma]
    return float(np.minimum(*(_amplitudes(np.mean(profiles, axis=0).ravel()) for profiles in (across, down))).max())


def _amplitudes(profile: Floats) -> Floats:
    """Compute the amplitudes of the waves in a profile relative to its smoothed values, at fixed frequencies."""
    course = cv2.blur(profile[None], (SMOOTHED_PX, 1), borderType=cv2.BORDER_REFLECT)[0]
    wave = (profile - course) / (course + PROFILE_FLOOR) * np.hanning(len(profile))
    amplitudes = np.abs(np.fft.rfft(wave, NUM_BINS)) / (len(profile) / 4)
    return np.asarray(amplitudes[NUM_BINS // MAX_PERIOD :])
