"""Frame interpolation with AMT-S, as VBench's motion smoothness uses it.

AMT-S is the small model (3.0 M parameters) of Li et al., "AMT: All-Pairs Multi-Field Transforms for Efficient Frame
Interpolation" (CVPR 2023); parameters have the names of the published `amt-s.pth`. The metric drops every other frame
and interpolates it: smooth motion is interpolated with a small error.

Flows point from the middle image to its neighbours, in pixels of their pyramid level: channels (x, y).
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ....datasets.arrays import Floats32, Frames
from .amt import (
    WIDTHS,
    Decoder,
    MatchingFeatures,
    Pyramid,
    Update,
    correlation_pyramid,
    lookup_correlations,
    resize,
    warp,
)
from .parameters import file_of, load_parameters, read_parameters

NUM_FLOWS = 3
STRIDE = 16  # sides must be multiples of it
MIN_SIDE = 128  # below it, the coarsest correlations have a side of one and contain no position


class FrameInterpolator(nn.Module):
    """AMT-S, which interpolates the image between two images."""

    def __init__(self) -> None:
        super().__init__()
        self.feat_encoder = MatchingFeatures()
        self.encoder = Pyramid()
        self.decoder4 = Decoder(2 * WIDTHS[3] + 1, 2 * WIDTHS[3], WIDTHS[2] + 4)
        self.decoder3 = Decoder(3 * WIDTHS[2] + 4, 3 * WIDTHS[2], WIDTHS[1] + 4)
        self.decoder2 = Decoder(3 * WIDTHS[1] + 4, 3 * WIDTHS[1], WIDTHS[0] + 4)
        self.decoder1 = Decoder(3 * WIDTHS[0] + 4, 3 * WIDTHS[0], 8 * NUM_FLOWS)
        self.update4, self.update3, self.update2 = (
            Update(width, scale) for width, scale in ((WIDTHS[2], 1), (WIDTHS[1], 2), (WIDTHS[0], 4))
        )
        self.comb_block = nn.Sequential(
            nn.Conv2d(3 * NUM_FLOWS, 6 * NUM_FLOWS, 3, padding=1),
            nn.PReLU(6 * NUM_FLOWS),
            nn.Conv2d(6 * NUM_FLOWS, 3, 3, padding=1),
        )

    def forward(self, before: Tensor, after: Tensor, time: float = 0.5) -> Tensor:
        """Interpolate the image [B, 3, H, W] in [0, 1] at `time` between `before` (0) and `after` (1).

        Args:
            before: [B, 3, H, W] in [0, 1]; H and W are multiples of 16 and at least 128.
            after: same shape as `before`.
            time: in (0, 1).
        """
        mean = torch.cat([before, after], dim=2).mean(dim=(1, 2, 3), keepdim=True)
        before, after = before - mean, after - mean
        matching = self.feat_encoder(torch.cat([before, after])).chunk(2)
        correlations = correlation_pyramid(*matching), correlation_pyramid(*matching[::-1])
        levels = list(zip(self.encoder(before), self.encoder(after), strict=True))

        place = torch.full_like(levels[3][0][:, :1], time)
        out = self.decoder4(torch.cat([*levels[3], place], dim=1))
        flows, hidden = out[:, :4], out[:, 4:]
        flows, hidden = self._refine(self.update4, flows, hidden, correlations, time)
        for level, decoder, update in ((2, self.decoder3, self.update3), (1, self.decoder2, self.update2)):
            out = decoder(self._decoder_input(flows, hidden, levels[level]))
            flows, hidden = out[:, :4] + 2 * resize(flows, 2), out[:, 4:]
            flows, hidden = self._refine(update, flows, hidden, correlations, time)
        fields = self.decoder1(self._decoder_input(flows, hidden, levels[0]))
        return self._blend(before, after, mean, fields, flows)

    def _refine(
        self,
        update: Update,
        flows: Tensor,
        hidden: Tensor,
        correlations: tuple[list[Tensor], list[Tensor]],
        time: float,
    ) -> tuple[Tensor, Tensor]:
        """Update flows and features from the correlations of both images along the flows, at 1/8 of the size."""
        coarse = resize(flows, 1 / update.scale) / update.scale
        back, forth = coarse.chunk(2, dim=1)
        # Motion is assumed to be linear, so that the flow of a part of the interval gives the whole motion.
        agreement = [
            lookup_correlations(pyramid, flow / share)
            for pyramid, flow, share in zip(correlations, (forth, back), (time, 1 - time), strict=True)
        ]
        hidden_step, flow_step = update(hidden, coarse, torch.cat(agreement, dim=1))
        return flows + flow_step, hidden + hidden_step

    @staticmethod
    def _decoder_input(flows: Tensor, hidden: Tensor, features: tuple[Tensor, Tensor]) -> Tensor:
        """Concatenate the input of a decoder: its own features, both images' warped features, and the flows."""
        warped = [warp(feature, flow) for feature, flow in zip(features, flows.chunk(2, dim=1), strict=True)]
        return torch.cat([hidden, *warped, flows], dim=1)

    def _blend(self, before: Tensor, after: Tensor, mean: Tensor, fields: Tensor, flows: Tensor) -> Tensor:
        """Average the images warped by several flow fields, and add the output of the last layers."""
        batch, _, height, width = before.shape
        pairs = 2 * NUM_FLOWS
        *steps, mask, extra = fields.split([pairs, pairs, NUM_FLOWS, 3 * NUM_FLOWS], dim=1)

        def warped(picture: Tensor, flow: Tensor, step: Tensor) -> Tensor:
            flow = step + 2 * resize(flow, 2).repeat(1, NUM_FLOWS, 1, 1)
            out = warp(picture.repeat_interleave(NUM_FLOWS, dim=0), flow.reshape(-1, 2, height, width))
            return out.reshape(batch, NUM_FLOWS, 3, height, width)

        first, second = (
            warped(picture, flow, step)
            for picture, flow, step in zip((before, after), flows.chunk(2, dim=1), steps, strict=True)
        )
        share = mask.sigmoid()[:, :, None]
        guesses = share * first + (1 - share) * second + mean[:, None] + extra.reshape(first.shape)
        out = guesses.mean(dim=1) + self.comb_block(guesses.flatten(1, 2))
        return out.clamp(0, 1)


class Interpolator:
    """AMT-S as the judge of `motion_smoothness(frames, interpolator.middles(frames))`.

    Args:
        weights: the published `amt-s.pth`, its parameters as `.safetensors`, or the folder of either; None: random.
        device: device of the network.

    Raises:
        WeightsError: the file is missing or contains other parameters.
    """

    name = "amt-s"

    def __init__(self, weights: Path | None, device: str = "cpu") -> None:
        self._device = device
        self._network = FrameInterpolator().eval()
        if weights is not None:
            file = file_of(weights, ("amt-s.pth", "amt-s.safetensors"))
            load_parameters(self._network, read_parameters(file), file, "AMT-S")
        self._network.to(device)

    def middles(self, frames: Frames | Tensor) -> Floats32:
        """Interpolate the middle between frames 2i and 2i + 2, as many as there are such pairs: n = ⌊(F − 1) / 2⌋.

        As in VBench on a CPU, frames are not scaled down. They are padded by replication, half on either side, to
        multiples of 16, and to 128, below which the network has no coarsest level.

        Args:
            frames: uint8 RGB [F, H, W, 3], on any device.

        Returns:
            [n, 3, H, W] in [0, 1], not rounded.
        """
        pictures = torch.as_tensor(frames)
        middles = [self._middle(before, after) for before, after in pairwise(pictures[::2])]
        return np.stack(middles) if middles else np.empty((0, 3, *frames.shape[1:3]), np.float32)

    def _middle(self, before: Tensor, after: Tensor) -> Floats32:
        # One pair at a time: correlations of all pixel pairs take 0.5 GB at 512 × 896.
        pictures = torch.stack([before, after]).to(self._device).permute(0, 3, 1, 2) / 255
        padded, (top, left) = _pad(pictures)
        with torch.inference_mode():
            out = self._network(padded[:1], padded[1:])[0]
        height, width = before.shape[:2]
        middle: Floats32 = out[:, top : top + height, left : left + width].float().cpu().numpy()
        return middle


def _pad(pictures: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Pad images by replication to sides that the network accepts; return them with the top and left padding."""
    height, width = pictures.shape[2:]
    rows, columns = (max(MIN_SIDE, -(-side // STRIDE) * STRIDE) - side for side in (height, width))
    top, left = rows // 2, columns // 2
    return F.pad(pictures, (left, columns - left, top, rows - top), mode="replicate"), (top, left)
