"""I3D trained on Kinetics-400 (Carreira and Zisserman, CVPR 2017): 400 logits of a clip, the features of FVD.

One network is published in several files; `i3d_files` reads them. Padding is TensorFlow's "SAME", so that a clip may
have any length from nine frames on.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ....datasets.arrays import Floats32, Frames
from ..preprocessing import preprocess
from .i3d_files import FILES, read_i3d
from .parameters import file_of, load_parameters

NUM_CLASSES = 400
MIN_FRAMES = 9  # fewer leave one step before the last pooling, which needs two
_BATCH = 4  # clips of equal length
Size = tuple[int, int, int]  # time, height, width


class I3D:
    """The logits of clips.

    Args:
        weights: a file of `i3d_files.FILES`, or the folder of one; None: random.
        device: device of the network.

    Raises:
        WeightsError: the file is missing or contains other parameters.

    Attributes:
        name: which file was read, since one of them is used with another ε: `i3d-torchscript`, `i3d-videogpt` (ε 1e-5
            instead of 1e-3), `i3d-kinetics-400` (the parameters of the first, from a Python package), or `i3d-random`.
    """

    def __init__(self, weights: Path | None, device: str = "cpu") -> None:
        self._device, self.name = device, "i3d-random"
        self._network = I3DNetwork()
        if weights is not None:
            file = file_of(weights, FILES)
            parameters, epsilon, self.name = read_i3d(file)
            load_parameters(self._network, parameters, file, "I3D")
            self._network.set_epsilon(epsilon)
        self._network.to(device).eval()

    def logits(self, clips: Sequence[Frames], preprocessing: str = "fvd_humanvid_224") -> Floats32:
        """Compute the logits [N, 400] of clips of uint8 RGB frames [T, H, W, 3].

        Args:
            clips: N clips of at least nine frames, each of its own length and size.
            preprocessing: `fvd_humanvid_224`, `fvd_scail_224` or `fvd_cdfvd_224`.

        Raises:
            ValueError: a clip is too short, or there is no such preprocessing.
        """
        return self._logits([len(clip) for clip in clips], lambda n: preprocess(clips[n], preprocessing))

    def prefix_logits(
        self, frames: Frames, lengths: Sequence[int], preprocessing: str = "fvd_humanvid_224"
    ) -> Floats32:
        """Compute the logits [K, 400] of the first `lengths[k]` frames of one clip [T, H, W, 3], for `humanvid_fvd`.

        Raises:
            ValueError: a length is below nine or above T, or there is no such preprocessing.
        """
        if lengths and max(lengths) > len(frames):
            raise ValueError(f"A clip of {len(frames)} frames has no prefix of {max(lengths)}.")
        pictures = preprocess(frames, preprocessing)
        return self._logits(lengths, lambda n: pictures[: lengths[n]])

    def _logits(self, lengths: Sequence[int], pictures_of: Callable[[int], Floats32]) -> Floats32:
        if lengths and min(lengths) < MIN_FRAMES:
            raise ValueError(f"I3D needs clips of at least {MIN_FRAMES} frames, got {min(lengths)}.")
        values = np.empty((len(lengths), NUM_CLASSES), np.float32)
        order = sorted(range(len(lengths)), key=lambda n: lengths[n])
        with torch.inference_mode():
            while order:
                same = [n for n in order[:_BATCH] if lengths[n] == lengths[order[0]]]
                clips = torch.from_numpy(np.stack([pictures_of(n) for n in same])).to(self._device)
                values[same] = self._network(clips.transpose(1, 2)).cpu().numpy()
                order = order[len(same) :]
        return values


class I3DNetwork(nn.Module):
    """I3D for RGB [B, 3, T, 224, 224] in [−1, 1]; parameters have the names of `i3d_torchscript.pt`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d_1a_7x7 = Unit(3, 64, 7, stride=2)
        self.conv3d_2b_1x1 = Unit(64, 64, 1)
        self.conv3d_2c_3x3 = Unit(64, 192, 3)
        self.mixed_3b = Mixed(192, (64, 96, 128, 16, 32, 32))
        self.mixed_3c = Mixed(256, (128, 128, 192, 32, 96, 64))
        self.mixed_4b = Mixed(480, (192, 96, 208, 16, 48, 64))
        self.mixed_4c = Mixed(512, (160, 112, 224, 24, 64, 64))
        self.mixed_4d = Mixed(512, (128, 128, 256, 24, 64, 64))
        self.mixed_4e = Mixed(512, (112, 144, 288, 32, 64, 64))
        self.mixed_4f = Mixed(528, (256, 160, 320, 32, 128, 128))
        self.mixed_5b = Mixed(832, (256, 160, 320, 32, 128, 128))
        self.mixed_5c = Mixed(832, (384, 192, 384, 48, 128, 128))
        self.conv3d_0c_1x1 = nn.ModuleDict({"conv3d": nn.Conv3d(1024, NUM_CLASSES, 1)})

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, 400], the mean over time."""
        x = max_pool(self.conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = max_pool(self.conv3d_2c_3x3(self.conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        x = max_pool(self.mixed_3c(self.mixed_3b(x)), (3, 3, 3), (2, 2, 2))
        for block in (self.mixed_4b, self.mixed_4c, self.mixed_4d, self.mixed_4e, self.mixed_4f):
            x = block(x)
        x = self.mixed_5c(self.mixed_5b(max_pool(x, (2, 2, 2), (2, 2, 2))))
        logits: Tensor = self.conv3d_0c_1x1["conv3d"](F.avg_pool3d(x, (2, 7, 7), stride=1))
        return logits.mean(dim=(2, 3, 4))

    def set_epsilon(self, epsilon: float) -> None:
        """Set ε of all normalisations."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = epsilon


class Unit(nn.Module):
    """A convolution with "SAME" padding and without bias, its normalisation, and ReLU."""

    def __init__(self, channels: int, width: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, width, side, stride=stride, bias=False)
        self.batch3d = nn.BatchNorm3d(width, eps=1e-3)
        nn.init.kaiming_normal_(self.conv3d.weight)  # keeps the size of the signal where parameters stay random

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, width, ⌈T / stride⌉, ⌈H / stride⌉, ⌈W / stride⌉]."""
        kernel, stride = (self.conv3d.weight.shape[2],) * 3, (self.conv3d.stride[0],) * 3
        return F.relu(self.batch3d(self.conv3d(same_padding(x, kernel, stride))))


class Mixed(nn.Module):
    """Four branches side by side: 1 × 1; 1 × 1 then 3 × 3, twice; maximum of 3 × 3 then 1 × 1."""

    def __init__(self, channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        first, middle_1, second, middle_2, third, fourth = widths
        self.branch_0 = Unit(channels, first, 1)
        self.branch_1 = nn.Sequential(Unit(channels, middle_1, 1), Unit(middle_1, second, 3))
        self.branch_2 = nn.Sequential(Unit(channels, middle_2, 1), Unit(middle_2, third, 3))
        self.branch_3 = nn.Sequential(MaxPool(), Unit(channels, fourth, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, sum of the branches' widths, T, H, W]."""
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], dim=1)


class MaxPool(nn.Module):
    """The maximum of 3 × 3 × 3."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return max_pool(x, (3, 3, 3), (1, 1, 1))


def max_pool(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Take maxima with "SAME" padding by 0, which is no maximum of what ReLU leaves."""
    return F.max_pool3d(same_padding(x, kernel, stride), kernel, stride)


def same_padding(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Pad [B, C, T, H, W] with 0 as TensorFlow: ⌈n / stride⌉ windows, an odd rest goes to the end."""
    padding: list[int] = []
    for length, window, step in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-length // step) - 1) * step + window - length, 0)
        padding = [total // 2, total - total // 2, *padding]  # F.pad begins with the last axis
    return F.pad(x, padding) if any(padding) else x
