"""LPIPS v0.1 (Zhang et al., CVPR 2018): the distance of two pictures in the activations of VGG16 or AlexNet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import alexnet, vgg16

from ....datasets.arrays import Floats32, Frames
from ..pixels import require_same_shape
from .parameters import file_of, load_parameters, read_parameters

Network = Literal["vgg", "alex"]
_BATCH = 4  # pairs of frames; VGG16's first activations are 64 × the picture
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class _Layout(NamedTuple):
    """What differs between the two networks.

    Attributes:
        file: torchvision's file of the backbone.
        heads: the package's file of the linear heads.
        taps: positions in the backbone after which an activation is read.
        widths: channels of these activations.
        min_side: of a picture that has a pixel after the last tap.
    """

    file: str
    heads: str
    taps: tuple[int, ...]
    widths: tuple[int, ...]
    min_side: int


_LAYOUTS: dict[str, _Layout] = {
    "vgg": _Layout("vgg16-397923af.pth", "vgg.pth", (3, 8, 15, 22, 29), (64, 128, 256, 512, 512), 16),
    "alex": _Layout("alexnet-owt-7be5be79.pth", "alex.pth", (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), 63),
}


class Lpips:
    """The perceptual distance of two clips, frame by frame.

    Args:
        weights: folder with torchvision's file of the backbone and the heads of the package `lpips`:
            `vgg16-397923af.pth` and `vgg.pth`, or `alexnet-owt-7be5be79.pth` and `alex.pth`; None: random.
        network: "vgg" or "alex".
        device: device of the network.

    Raises:
        WeightsError: a file is missing or contains other parameters.
        ValueError: there is no such network.
    """

    def __init__(self, weights: Path | None, network: Network = "vgg", device: str = "cpu") -> None:
        if network not in _LAYOUTS:
            raise ValueError(f"LPIPS has no network {network!r}: choose one of {', '.join(_LAYOUTS)}.")
        self.name = f"lpips-{network}"
        self.min_side = _LAYOUTS[network].min_side
        self._device, self._layout = device, _LAYOUTS[network]
        self._layers = _layers(network)
        heads = [nn.Conv2d(width, 1, 1, bias=False) for width in self._layout.widths]
        for head in heads:
            nn.init.uniform_(head.weight)
        self._heads = nn.ModuleList(heads)
        if weights is not None:
            self._load(weights)
        self._layers.to(device).eval()
        self._heads.to(device)
        self._shift, self._scale = (torch.tensor(v, device=device)[:, None, None] for v in (_SHIFT, _SCALE))

    def distances(self, frames: Frames, truth: Frames, zero_to_one: bool = False) -> Floats32:
        """Compute the distance of each frame to its truth [F]; 0 where they are equal.

        Args:
            frames: uint8 RGB [F, H, W, 3], with sides of at least 63 for AlexNet and 16 for VGG16.
            truth: same shape as `frames`.
            zero_to_one: give the network [0, 1], as HumanVid and DisCo do, instead of the [−1, 1] that it expects. The
                number is another one: state it.

        Raises:
            ValueError: the clips differ in shape.
        """
        require_same_shape(frames, truth)
        values = np.empty(len(frames), np.float32)
        with torch.inference_mode():
            for start in range(0, len(frames), _BATCH):
                batch = slice(start, start + _BATCH)
                one, other = (self._activations(clip[batch], zero_to_one) for clip in (frames, truth))
                values[batch] = self._distance(one, other).cpu().numpy()
        return values

    def _activations(self, frames: Frames, zero_to_one: bool) -> list[Tensor]:
        x = torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2).float() / 255
        x = ((x if zero_to_one else 2 * x - 1) - self._shift) / self._scale
        activations = []
        for position, layer in enumerate(self._layers):
            x = layer(x)
            if position in self._layout.taps:
                activations.append(x)
        return activations

    def _distance(self, ones: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        """Sum over layers of the mean over pixels of the weighted squared difference [F]."""
        layers = [
            head((_unit_channels(one) - _unit_channels(other)) ** 2).mean(dim=(1, 2, 3))
            for one, other, head in zip(ones, others, self._heads, strict=True)
        ]
        return torch.stack(layers).sum(0)

    def _load(self, weights: Path) -> None:
        file = file_of(weights, (self._layout.file,))
        backbone = read_parameters(file)
        used = {f"features.{name}" for name in self._layers.state_dict()}  # not the classifier
        kept = {name.removeprefix("features."): value for name, value in backbone.items() if name in used}
        load_parameters(self._layers, kept, file, f"{self.name}'s backbone")
        file = file_of(weights if weights.is_dir() else weights.parent, (self._layout.heads,))
        heads = {_head_name(name): value for name, value in read_parameters(file).items()}
        load_parameters(self._heads, heads, file, f"{self.name}'s linear heads")


def _layers(network: Network) -> nn.Sequential:
    """Build the backbone up to its last tap, without its classifier, which has nine tenths of the parameters."""
    with torch.device("meta"):
        features = (vgg16() if network == "vgg" else alexnet()).features
    layers = features[: _LAYOUTS[network].taps[-1] + 1].to_empty(device="cpu")
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
        elif isinstance(layer, nn.ReLU):
            layer.inplace = False  # an activation that was read must not change
    return layers


def _head_name(name: str) -> str:
    """Translate the package's `lin0.model.1.weight` to `0.weight`."""
    return name.removeprefix("lin").replace(".model.1.", ".")


def _unit_channels(activation: Tensor) -> Tensor:
    return activation / ((activation**2).sum(1, keepdim=True).sqrt() + 1e-10)
