"""Layers of AMT-S (see `motion_smoothness`), and sampling of images and correlations at given positions.

Flows and positions are in pixels, channels (x, y).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WIDTHS = (20, 32, 44, 56)  # channels of the image features at 1/2, 1/4, 1/8 and 1/16 of the size
SKIP_WIDTH = 20
LEVELS, RADIUS = 4, 3  # of the correlations: pyramid levels, and radius of the lookup in pixels


def warp(picture: Tensor, flow: Tensor) -> Tensor:
    """Sample `picture` [B, C, H, W] along `flow` [B, 2, H, W]; positions outside are clamped to the border."""
    return sample_at(picture, pixel_grid(flow) + flow.permute(0, 2, 3, 1), "border")


def pixel_grid(like: Tensor) -> Tensor:
    """Return the positions (x, y) [H, W, 2] of the pixels of a tensor [B, C, H, W]."""
    rows, columns = (torch.arange(side, device=like.device, dtype=like.dtype) for side in like.shape[2:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1)


def sample_at(values: Tensor, places: Tensor, beyond: str) -> Tensor:
    """Sample [N, C, H, W] bilinearly at positions [N, h, w, 2], (x, y) in pixels: [N, C, h, w]."""
    last = torch.tensor(values.shape[:1:-1], device=values.device, dtype=values.dtype) - 1
    return F.grid_sample(values, 2 * places / last - 1, padding_mode=beyond, align_corners=True)


def resize(values: Tensor, factor: float) -> Tensor:
    """Resize bilinearly to [B, C, factor · H, factor · W]."""
    return values if factor == 1 else F.interpolate(values, scale_factor=factor, mode="bilinear", align_corners=False)


def correlation_pyramid(one: Tensor, other: Tensor) -> list[Tensor]:
    """Compute correlations of all pixel pairs [B · h · w, 1, h', w'] and average-pool h', w' three times."""
    batch, width, rows, columns = one.shape
    volume = one.flatten(2).transpose(1, 2) @ other.flatten(2) / width**0.5
    levels = [volume.reshape(batch * rows * columns, 1, rows, columns)]
    for _ in range(LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def lookup_correlations(levels: list[Tensor], flow: Tensor) -> Tensor:
    """Look up correlations [B, 4 · 49, h, w] of each pixel with the 7 × 7 around its `flow` target, on every level."""
    batch, _, rows, columns = flow.shape
    centre = (pixel_grid(flow) + flow.permute(0, 2, 3, 1)).reshape(-1, 1, 1, 2)
    around = torch.arange(-RADIUS, RADIUS + 1, device=flow.device, dtype=flow.dtype)
    # The published parameters expect x to vary slowest.
    offsets = torch.stack(torch.meshgrid(around, around, indexing="ij"), dim=-1)
    read = [sample_at(level, centre / 2**index + offsets, "zeros") for index, level in enumerate(levels)]
    return torch.cat([values.reshape(batch, rows, columns, -1) for values in read], dim=-1).permute(0, 3, 1, 2)


def _conv_prelu(width: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, 3, stride, 1), nn.PReLU(out))


class MatchingFeatures(nn.Module):
    """Encoder of the features [B, 84, H / 8, W / 8] that are correlated between two images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, 2, 3)
        self.layer1 = nn.Sequential(_Bottleneck(32, 32, 1), _Bottleneck(32, 32, 1))
        self.layer2 = nn.Sequential(_Bottleneck(32, 64, 2), _Bottleneck(64, 64, 1))
        self.layer3 = nn.Sequential(_Bottleneck(64, 96, 2), _Bottleneck(96, 96, 1))
        self.conv2 = nn.Conv2d(96, 84, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Extract [B, 3, H, W] → [B, 84, H / 8, W / 8]."""
        hidden = F.relu(F.instance_norm(self.conv1(pictures)))
        out: Tensor = self.conv2(self.layer3(self.layer2(self.layer1(hidden))))
        return out


class _Bottleneck(nn.Module):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out // 4, 1)
        self.conv2 = nn.Conv2d(out // 4, out // 4, 3, stride, 1)
        self.conv3 = nn.Conv2d(out // 4, out, 1)
        self.downsample = nn.Sequential(nn.Conv2d(width, out, 1, stride)) if stride > 1 else None

    def forward(self, values: Tensor) -> Tensor:
        hidden = values
        for layer in (self.conv1, self.conv2, self.conv3):
            hidden = F.relu(F.instance_norm(layer(hidden)))
        if self.downsample is not None:
            values = F.instance_norm(self.downsample(values))
        return F.relu(values + hidden)


class Pyramid(nn.Module):
    """Encoder of image features at 1/2, 1/4, 1/8 and 1/16 of the size."""

    def __init__(self) -> None:
        super().__init__()
        for index, (width, out) in enumerate(pairwise((3, *WIDTHS)), start=1):
            setattr(self, f"pyramid{index}", nn.Sequential(_conv_prelu(width, out, 2), _conv_prelu(out, out)))

    def forward(self, values: Tensor) -> list[Tensor]:
        """Extract [B, 3, H, W] → four levels, finest first."""
        out = []
        for index in range(1, len(WIDTHS) + 1):
            values = getattr(self, f"pyramid{index}")(values)
            out.append(values)
        return out


class Decoder(nn.Module):
    """Decoder of flows and features to twice the size."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.convblock = nn.Sequential(
            _conv_prelu(width, hidden), _SideResidual(hidden), nn.ConvTranspose2d(hidden, out, 4, 2, 1)
        )

    def forward(self, values: Tensor) -> Tensor:
        """Decode [B, C, h, w] → [B, C', 2 · h, 2 · w]."""
        out: Tensor = self.convblock(values)
        return out


class _SideResidual(nn.Module):
    """Residual block that applies additional convolutions to its last channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv3 = _conv_prelu(width, width), _conv_prelu(width, width)
        self.conv2, self.conv4 = _conv_prelu(SKIP_WIDTH, SKIP_WIDTH), _conv_prelu(SKIP_WIDTH, SKIP_WIDTH)
        self.conv5 = nn.Conv2d(width, width, 3, padding=1)
        self.prelu = nn.PReLU(width)

    def forward(self, values: Tensor) -> Tensor:
        hidden = values
        for whole, side in ((self.conv1, self.conv2), (self.conv3, self.conv4)):
            hidden = whole(hidden)
            hidden = torch.cat([hidden[:, :-SKIP_WIDTH], side(hidden[:, -SKIP_WIDTH:])], dim=1)
        out: Tensor = self.prelu(values + self.conv5(hidden))
        return out


class Update(nn.Module):
    """Update of features and flows at `scale` × 1/8 of the image size, computed at 1/8."""

    def __init__(self, width: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.convc1 = nn.Conv2d(2 * LEVELS * (2 * RADIUS + 1) ** 2, 64, 1)
        self.convf1, self.convf2 = nn.Conv2d(4, 40, 7, padding=3), nn.Conv2d(40, 20, 3, padding=1)
        self.conv = nn.Conv2d(64 + 20, 68, 3, padding=1)
        self.gru = self._two_layers(68 + 4 + width, 76)
        self.feat_head, self.flow_head = self._two_layers(76, width), self._two_layers(76, 4)

    @staticmethod
    def _two_layers(width: int, out: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(width, 76, 3, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(76, out, 3, padding=1))

    def forward(self, hidden: Tensor, flows: Tensor, correlations: Tensor) -> tuple[Tensor, Tensor]:
        """Compute updates at `scale` × 1/8 of the image size from features there, and flows and correlations at 1/8."""
        agreement = F.leaky_relu(self.convc1(correlations), 0.1)
        motion = F.leaky_relu(self.convf2(F.leaky_relu(self.convf1(flows), 0.1)), 0.1)
        seen = F.leaky_relu(self.conv(torch.cat([agreement, motion], dim=1)), 0.1)
        state = self.gru(torch.cat([seen, flows, resize(hidden, 1 / self.scale)], dim=1))
        return resize(self.feat_head(state), self.scale), self.scale * resize(self.flow_head(state), self.scale)
