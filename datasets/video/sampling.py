"""Times and sizes of the frames that represent a video: key frames, low-resolution passes, sparse frames."""

import numpy as np

from .decoders import Size
from .info import VideoIndex

SPARSE_EVERY_S = 0.5
SPARSE_SIDE_PX = 256
"""A low-resolution pass caches frames at this interval and with this shorter side for `VideoReader.sparse`."""


def key_frame_entries(index: VideoIndex, max_gap_s: float) -> np.ndarray:
    """Choose the fewest entries without a gap above `max_gap_s` from start to end, or none if that is impossible."""
    times_s = index.times_s()[index.entries]
    chosen: list[int] = []
    reached_s = 0.0
    while not chosen or index.info.duration_s - reached_s > max_gap_s:
        farthest = int(np.searchsorted(times_s, reached_s + max_gap_s, side="right")) - 1
        if farthest < 0 or (chosen and index.entries[farthest] <= chosen[-1]):
            return np.empty(0, np.int64)
        chosen.append(int(index.entries[farthest]))
        reached_s = float(times_s[farthest])
    return np.array(chosen, np.int64)


def low_resolution_size(index: VideoIndex, max_side: int) -> Size:
    """Compute (height, width) with the longer side `max_side`, or the video's own size if smaller."""
    height, width = index.info.height, index.info.width
    scale = min(1.0, max_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def sparse_size_of(index: VideoIndex) -> Size:
    """Compute even (height, width) with the shorter side `SPARSE_SIDE_PX`, or the video's own size if smaller."""
    height, width = index.info.height, index.info.width
    scale = min(1.0, SPARSE_SIDE_PX / min(height, width))
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


def sparse_times(start_s: float, end_s: float, num_frames: int) -> np.ndarray:
    """Choose up to `num_frames` multiples of `SPARSE_EVERY_S`, spread over a span. Short spans: evenly spaced times."""
    first, last = np.ceil(start_s / SPARSE_EVERY_S - 1e-6), np.floor(end_s / SPARSE_EVERY_S + 1e-6)
    count = int(last - first) + 1
    if count < 2:
        return np.linspace(start_s, end_s, num_frames)
    return (first + np.unique(np.rint(np.linspace(0, count - 1, min(count, num_frames))))) * SPARSE_EVERY_S
