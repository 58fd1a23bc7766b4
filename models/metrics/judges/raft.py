"""RAFT (Teed and Deng, ECCV 2020): the optical flow between neighbouring frames, as VBench's dynamic_degree uses it."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchvision.models.optical_flow import raft_large

from ....datasets.arrays import Floats32, Frames
from ..optical_flow import largest_flow
from .parameters import file_of, load_parameters, read_parameters

NUM_ITERATIONS = 20
STRIDE = 8  # sides must be multiples of it
MIN_SIDE = 128  # below it, the coarsest correlations have a side of one
_MAX_CORRELATIONS = 2**28  # numbers in one batch: 1 GiB
# The published names → torchvision's, whose architecture is the same.
_NAMES = (
    (r"^(f|c)net\.", lambda match: {"f": "feature", "c": "context"}[match[1]] + "_encoder."),
    (r"_encoder\.conv1\.", "_encoder.convnormrelu.0."),
    (r"_encoder\.norm1\.", "_encoder.convnormrelu.1."),
    (r"_encoder\.conv2\.", "_encoder.conv."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"(layer\d\.\d)\.norm([12])\.", r"\1.convnormrelu\2.1."),
    (r"^update_block\.encoder\.conv(c|f)(\d)\.", lambda m: f"motion.conv{ {'c': 'corr', 'f': 'flow'}[m[1]] }{m[2]}.0."),
    (r"^update_block\.encoder\.conv\.", "motion.conv.0."),
    (r"^motion\.", "update_block.motion_encoder."),
    (r"^update_block\.gru\.(conv[zrq])(\d)\.", r"update_block.recurrent_block.convgru\2.\1."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
)
_TWICE = re.compile(r"layer\d\.\d\.norm3\.")  # the norm of `downsample`, once more


class Raft:
    """RAFT trained on FlyingThings, with 20 iterations.

    Args:
        weights: `raft-things.pth`, or its folder; None: random.
        device: device of the network.

    Raises:
        WeightsError: the file is missing or contains other parameters.
    """

    name = "raft-things"
    min_side = MIN_SIDE

    def __init__(self, weights: Path | None, device: str = "cpu") -> None:
        self._device = device
        self._network = raft_large(weights=None, progress=False)
        if weights is not None:
            file = file_of(weights, ("raft-things.pth", "raft-things.safetensors"))
            parameters = {
                translated(name): value for name, value in read_parameters(file).items() if not _TWICE.search(name)
            }
            load_parameters(self._network, parameters, file, "RAFT")
        self._network.to(device).eval()

    def flow(self, frames: Frames) -> Floats32:
        """Compute the flow [F − 1, 2, H, W] from each frame to the next, in pixels: channels (x, y).

        Args:
            frames: uint8 RGB [F, H, W, 3] with sides of at least 128.

        Raises:
            ValueError: the frames are too small.
        """
        height, width = frames.shape[1:3]
        flows = np.empty((max(len(frames) - 1, 0), 2, height, width), np.float32)
        start = 0
        for batch, (top, left) in self._flows(frames):
            flows[start : start + len(batch)] = batch[:, :, top : top + height, left : left + width].cpu().numpy()
            start += len(batch)
        return flows

    def largest_flows(self, frames: Frames) -> Floats32:
        """Compute the mean of the largest 5 % of the lengths of each flow [F − 1], for `dynamic_degree`.

        As in VBench, the padding of frames whose sides are no multiples of 8 counts.

        Raises:
            ValueError: the frames are too small.
        """
        values = [largest_flow(flow) for batch, _ in self._flows(frames) for flow in batch.cpu().numpy()]
        return np.array(values, np.float32)

    def _flows(self, frames: Frames) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """Yield flows of padded frames [n, 2, h, w], and the padding at the top and left."""
        height, width = frames.shape[1:3]
        if min(height, width) < MIN_SIDE:
            raise ValueError(f"RAFT needs frames with sides of at least {MIN_SIDE} pixels, got {height} × {width}.")
        rows, columns = (-side % STRIDE for side in (height, width))
        top, left = rows // 2, columns // 2
        pairs = max(1, _MAX_CORRELATIONS // ((height + rows) * (width + columns) // STRIDE**2) ** 2)
        with torch.inference_mode():
            for start in range(0, len(frames) - 1, pairs):
                clip = torch.from_numpy(frames[start : start + pairs + 1]).to(self._device)
                pictures = 2 * (clip.permute(0, 3, 1, 2).float() / 255) - 1
                padded = F.pad(pictures, (left, columns - left, top, rows - top), mode="replicate")
                yield self._network(padded[:-1], padded[1:], NUM_ITERATIONS)[-1], (top, left)


def translated(name: str) -> str:
    """Return torchvision's name of a published parameter."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name
