"""VBench's motion smoothness as a score of clips: the metric and its judge in one call."""

from pathlib import Path

import torch
from torch import Tensor

from ...datasets.arrays import Frames
from ..metrics import motion_smoothness
from ..metrics.judges.interpolation import Interpolator


class MotionSmoothness:
    """VBench's motion smoothness by AMT-S.

    Args:
        weights_file: the published `amt-s.pth`, or its parameters as `.safetensors`.
        device: device of the network; None: a GPU if there is one.

    Raises:
        SteadyDancerError: the file contains other parameters.
    """

    name = Interpolator.name

    def __init__(self, weights_file: Path, device: str | None = None) -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._interpolator = Interpolator(weights_file, device)

    def __call__(self, frames: Frames, on_device: Tensor | None = None) -> float | None:
        """Compute 1 − mean |Δ| / 255 in [0, 1] between odd frames and their interpolation from even ones.

        Args:
            frames: uint8 [F, H, W, 3] RGB; the result is None for fewer than three frames.
            on_device: the same frames on the network's device, if they are there already.
        """
        if len(frames) < 3:
            return None
        return motion_smoothness(frames, self._interpolator.middles(frames if on_device is None else on_device))
