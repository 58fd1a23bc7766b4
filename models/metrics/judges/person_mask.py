"""Masks of people by MediaPipe's selfie segmentation, on a CPU.

The network sees each frame at 256 × 256. It marks all people, also those far away, and what they hold; thin arms can
be missing, so dilate the masks before background is measured.
"""

from pathlib import Path

import cv2
import numpy as np

from ....datasets.arrays import Floats32, Frames, Mask
from ...pose.blazepose import TFLiteModel

WEIGHTS_FILE = "selfie_segmentation.tflite"
SIDE = 256
MIN_PROBABILITY = 0.5


class PersonMask:
    """Segmentation of people.

    Args:
        weights: the published file or its folder.
        device: ignored, the network runs on one thread of the CPU.

    Raises:
        ValueError: no weights are given; a TFLite network has no random ones.
    """

    name = "selfie-segmentation"

    def __init__(self, weights: Path | None, device: str = "cpu") -> None:
        if weights is None:
            raise ValueError(f"PersonMask has no random weights: give the folder of {WEIGHTS_FILE}.")
        self._network = TFLiteModel(weights / WEIGHTS_FILE if weights.is_dir() else weights)

    def masks(self, frames: Frames) -> Mask:
        """Return where people are, bool [F, H, W], for uint8 RGB frames [F, H, W, 3]."""
        found = np.zeros(frames.shape[:3], bool)
        for mask, frame in zip(found, frames, strict=True):
            mask[:] = cv2.resize(self._probability(frame), frame.shape[1::-1]) > MIN_PROBABILITY
        return found

    def _probability(self, frame: Frames) -> Floats32:
        """Return the probability of a person in each cell [256, 256]; the frame is stretched to that square."""
        picture = cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        return self._network((picture / 255).astype(np.float32))[SIDE, SIDE, 1][..., 0]
