"""VBench's dynamic_degree, from the optical flow between frames: whether a clip moves at all.

Six of the eight VBench-I2V dimensions reward stillness: print it, or `motion_ratio`, beside them.
"""

import numpy as np

from ...datasets.arrays import Floats

FLOW_FPS = 8  # frames per second at which the flow is measured
LARGEST_SHARE = 0.05
_THRESHOLD_PX = 6.0  # of a picture with a shorter side of 256
_STEPS_PER_16_FRAMES = 4


def flow_stride(fps: float) -> int:
    """Return the step between the frames that the flow is measured on, for about 8 of them per second."""
    return max(1, round(fps / FLOW_FPS))


def largest_flow(flow: Floats) -> float:
    """Return the mean of the largest 5 % of the lengths of the flow [2, H, W], in pixels."""
    lengths = np.sqrt(np.square(flow[0]) + np.square(flow[1])).ravel()
    count = int(LARGEST_SHARE * len(lengths))
    return float(np.sort(lengths)[len(lengths) - count :].mean()) if count else np.nan


def dynamic_degree(largest_flows: Floats, height: int, width: int) -> float:
    """Return 1 if a clip moves, else 0, as VBench: the share of clips with 1 is the dimension's value.

    A clip of n frames moves if `largest_flow` exceeds 6 min(H, W) / 256 pixels in at least round(n / 4) steps. Two
    frames therefore always move.

    Args:
        largest_flows: [n − 1], `largest_flow` of each step between frames at about 8 per second (`flow_stride`).
        height: of the frames, in pixels.
        width: of the frames, in pixels.

    Returns:
        NaN for one frame, or where a step is NaN.
    """
    steps = np.asarray(largest_flows, np.float64)
    if not len(steps) or np.isnan(steps).any():
        return np.nan
    needed = round(_STEPS_PER_16_FRAMES * ((len(steps) + 1) / 16))
    return float((steps > _THRESHOLD_PX * (min(height, width) / 256)).sum() >= needed)
