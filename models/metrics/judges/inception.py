"""The Inception network of FID: 2048 features of a picture."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models.inception import InceptionA, InceptionC, InceptionE, inception_v3

from ....datasets.arrays import Floats32, Frames
from ..preprocessing import preprocess
from .parameters import file_of, in_batches, load_parameters, read_parameters

FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
WIDTH = 2048
_NUM_CLASSES = 1008  # of the TensorFlow network of December 2015, from which the published file was converted
_BATCH = 16
# Preprocessings that end in [0, 255] leave the network's own scaling to it.
_UNSCALED = {"cleanfid_299"}


class Inception:
    """The 2048 pooled features of FID's Inception, for a Fréchet or kernel distance.

    The network is not torchvision's: it has other parameters, its average pooling does not count the padding, and its
    last block takes maxima instead of averages. A distance depends as much on how pictures are resized: name the
    variant (`variants.FID_VARIANTS`).

    Args:
        weights: `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid or torch-fidelity's copy of it, or the folder of
            one; None: random.
        device: device of the network.

    Raises:
        WeightsError: the file is missing or contains other parameters, such as torchvision's.
    """

    name = "inception-fid"

    def __init__(self, weights: Path | None, device: str = "cpu") -> None:
        self._device = device
        self._network = fid_inception()
        if weights is not None:
            file = file_of(weights, FILES)
            load_parameters(self._network, _complete(read_parameters(file), self._network), file, "FID's Inception")
        self._network.fc = nn.Identity()
        self._network.to(device).eval()

    def features(self, frames: Frames, preprocessing: str = "pytorchfid_299") -> Floats32:
        """Compute the features [F, 2048] of uint8 RGB frames [F, H, W, 3].

        Args:
            frames: [F, H, W, 3].
            preprocessing: `pytorchfid_299`, `torchfidelity_299`, `cleanfid_299` or `humanvid_fid_299`.

        Raises:
            ValueError: there is no such preprocessing.
        """

        def compute(batch: Frames) -> Tensor:
            pictures = torch.from_numpy(preprocess(batch, preprocessing)).to(self._device)
            features: Tensor = self._network((pictures - 128) / 128 if preprocessing in _UNSCALED else pictures)
            return features

        return in_batches(frames, _BATCH, compute, WIDTH)


def fid_inception() -> nn.Module:
    """Build torchvision's Inception with the pooling of FID's in the blocks where it differs."""
    network = inception_v3(num_classes=_NUM_CLASSES, aux_logits=False, init_weights=False)
    for name, width in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        setattr(network, name, _BlockA(getattr(network, name).branch1x1.conv.in_channels, pool_features=width))
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        setattr(network, name, _BlockC(768, channels_7x7=width))
    network.Mixed_7b, network.Mixed_7c = _BlockE(1280), _LastBlock(2048)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # keeps the size of the signal where parameters stay random
    return network


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


class _Pooled:
    """Replace the last branch of a block, which pools. torchvision's is computed and dropped: 5 % of the network."""

    pool: Callable[[Tensor], Tensor] = staticmethod(_average)
    branch_pool: nn.Module

    def _forward(self, x: Tensor) -> list[Tensor]:
        branches: list[Tensor] = super()._forward(x)  # type: ignore[misc]
        return [*branches[:-1], self.branch_pool(self.pool(x))]


class _BlockA(_Pooled, InceptionA):
    pass


class _BlockC(_Pooled, InceptionC):
    pass


class _BlockE(_Pooled, InceptionE):
    pass


class _LastBlock(_Pooled, InceptionE):
    pool = staticmethod(_maximum)


def _complete(parameters: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Add counters of batches, which old files lack and nothing reads."""
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    return counters | parameters
