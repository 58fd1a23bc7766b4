"""VBench's motion smoothness, measured by frame interpolation with AMT-S.

AMT-S is the small model (3.0 M parameters) of Li et al., "AMT: All-Pairs Multi-Field Transforms for Efficient Frame
Interpolation" (CVPR 2023); parameters have the names of the published `amt-s.pth`. The metric drops every other frame
and interpolates it: smooth motion is interpolated with a small error.

Flows point from the middle image to its neighbours, in pixels of their pyramid level: channels (x, y).
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ... import SteadyDancerError
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


class MotionSmoothness:
    """VBench's motion smoothness by AMT-S.

    Args:
        weights_file: the published `amt-s.pth`, or its parameters as `.safetensors`.
        device: device of the network; None: a GPU if there is one.

    Raises:
        SteadyDancerError: the file contains other parameters.
    """

    name = "amt-s"

    def __init__(self, weights_file: Path, device: str | None = None) -> None:
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._network = FrameInterpolator().eval()
        try:
            self._network.load_state_dict(_read(weights_file))
        except (RuntimeError, KeyError) as error:
            raise SteadyDancerError(f"{weights_file} does not contain AMT-S's parameters: {error}") from error
        self._network.to(self._device)

    def __call__(self, frames: NDArray[np.uint8]) -> float | None:
        """Compute (255 − mean |Δ|) / 255 in [0, 1] between odd frames and their interpolation from even ones.

        Args:
            frames: uint8 [F, H, W, 3] RGB; the result is None for fewer than three frames.
        """
        if len(frames) < 3:
            return None
        errors = [
            np.abs(self.interpolate(one, other).astype(np.int16) - actual).mean()
            for (one, other), actual in zip(pairwise(frames[::2]), frames[1::2], strict=False)
        ]
        return float((255 - np.mean(errors)) / 255)

    def interpolate(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Interpolate the middle image, uint8 [H, W, 3], rounded down as in VBench."""
        pictures = torch.from_numpy(np.stack([before, after])).to(self._device).permute(0, 3, 1, 2) / 255
        padded, (top, left) = _pad(pictures)
        with torch.inference_mode():
            out = self._network(padded[:1], padded[1:])[0]
        height, width = before.shape[:2]
        out = out[:, top : top + height, left : left + width].permute(1, 2, 0) * 255
        return out.cpu().numpy().astype(np.uint8)


def _pad(pictures: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Pad images by replication to sides that the network accepts; return them with the top and left padding."""
    height, width = pictures.shape[2:]
    rows, columns = (max(MIN_SIDE, -(-side // STRIDE) * STRIDE) - side for side in (height, width))
    top, left = rows // 2, columns // 2
    return F.pad(pictures, (left, columns - left, top, rows - top), mode="replicate"), (top, left)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return dict(state.get("state_dict", state))
