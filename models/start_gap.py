"""The paper's three alternatives to pose simulation (appendix B.1): modules that change the first pose latents.

They bridge the gap between the pose of the reference image, in latent frame 0, and the driven motion. All work on
pose latents p [B,16,T,H,W] before the other pose modules, and start as what they would be without training: feature
mapping changes nothing, the other two interpolate the latents.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

StartGapModule = Literal["none", "warping", "generator", "mapping"]
NUM_BRIDGE_FRAMES = 2  # latent frames: eight frames of pixels
_WIDTH = 32


class FeatureMapping(nn.Module):
    """Feature mapping: p_t + M(p_{t−1}, p_t, p_{t+1}), every latent frame with its neighbours."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.gather = nn.Conv3d(channels, _WIDTH, (3, 1, 1), padding=(1, 0, 0))
        self.proj_out = nn.Conv3d(_WIDTH, channels, 1)
        _zero(self.proj_out)

    def forward(self, pose_latents: Tensor) -> Tensor:
        """Return the mapped latents, of the same shape."""
        return pose_latents + self.proj_out(F.silu(self.gather(pose_latents)))


class _Bridge(nn.Module):
    """Replace latent frames 1 … n by intermediates of frame 0, the start, and frame n + 1, the end."""

    def forward(self, pose_latents: Tensor) -> Tensor:
        """Return the bridged latents, of the same shape; clips without an end after the bridge get a shorter one."""
        num_frames = min(NUM_BRIDGE_FRAMES, pose_latents.shape[2] - 2)
        if num_frames < 1:
            return pose_latents
        start, end = pose_latents[:, :, 0], pose_latents[:, :, num_frames + 1]
        shares = [(k + 1) / (num_frames + 1) for k in range(num_frames)]
        between = torch.stack([self.intermediate(start, end, share) for share in shares], dim=2)
        return torch.cat([pose_latents[:, :, :1], between, pose_latents[:, :, num_frames + 1 :]], dim=2)

    def intermediate(self, start: Tensor, end: Tensor, share: float) -> Tensor:
        """Return the latent frame at a share of the way from start to end, all [B,16,H,W]."""
        raise NotImplementedError


class PoseGenerator(_Bridge):
    """Pose generator: intermediate frames from start, end and the share of the way, by three convolutions."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(2 * channels + 1, _WIDTH, 3, padding=1)
        self.middle = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        self.proj_out = nn.Conv2d(_WIDTH, channels, 3, padding=1)
        _zero(self.proj_out)

    def intermediate(self, start: Tensor, end: Tensor, share: float) -> Tensor:
        """Return (1 − s) start + s end + G(start, end, s); s -> `share`."""
        features = F.silu(self.proj_in(torch.cat([start, end, _plane(start, share)], dim=1)))
        return torch.lerp(start, end, share) + self.proj_out(F.silu(self.middle(features)))


class PoseWarping(_Bridge):
    """Pose warping: start and end are moved towards each other along predicted flows, and blended."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(2 * channels, _WIDTH, 3, padding=1)
        self.middle = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        self.proj_out = nn.Conv2d(_WIDTH, 5, 3, padding=1)  # flow of the start, flow of the end, blending
        _zero(self.proj_out)

    def intermediate(self, start: Tensor, end: Tensor, share: float) -> Tensor:
        """Return (1 − m) start(x + s f) + m end(x + (1 − s) g) with m = σ(logit s + b); s -> `share`.

        The flows f and g, as shares of half the picture, and b are computed from start and end. At first all are 0.
        """
        features = F.silu(self.middle(F.silu(self.proj_in(torch.cat([start, end], dim=1)))))
        flow_of_start, flow_of_end, bias = self.proj_out(features).split((2, 2, 1), dim=1)
        weight = torch.sigmoid(bias + torch.logit(torch.tensor(share)).to(bias))
        moved_start, moved_end = _warped(start, share * flow_of_start), _warped(end, (1 - share) * flow_of_end)
        return torch.lerp(moved_start, moved_end, weight)


def make_start_gap_module(kind: StartGapModule, channels: int = 16) -> nn.Module | None:
    """Return the module of an alternative; None for "none".

    Raises:
        ValueError: there is none of that name.
    """
    if kind == "none":
        return None
    modules: dict[str, type[nn.Module]] = {
        "warping": PoseWarping, "generator": PoseGenerator, "mapping": FeatureMapping,
    }  # fmt: skip
    if kind not in modules:
        raise ValueError(f"start_gap_module must be 'none', {', '.join(map(repr, modules))}, not {kind!r}")
    return modules[kind](channels)


def _zero(layer: nn.Conv2d | nn.Conv3d) -> None:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def _plane(latents: Tensor, value: float) -> Tensor:
    return torch.full_like(latents[:, :1], value)


def _warped(latents: Tensor, flow: Tensor) -> Tensor:
    """Sample latents [B,16,H,W] at every place plus its flow [B,2,H,W] (x, y); the border is continued."""
    batch_size, _, height, width = latents.shape
    identity = torch.eye(2, 3, dtype=latents.dtype, device=latents.device).expand(batch_size, 2, 3)
    grid = F.affine_grid(identity, [batch_size, 1, height, width], align_corners=False)
    moved = grid + flow.permute(0, 2, 3, 1)
    return F.grid_sample(latents, moved, padding_mode="border", align_corners=False)
