"""Synergistic Pose Modulation Modules: fit the pose latent to the reference image before it enters the network.

All of them work on 16-channel latents at full latent resolution. B batch, T latent frames, H x W latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .start_gap import StartGapModule, make_start_gap_module

AlignmentAxis = Literal["temporal", "spatial"]
PoseModule = Literal["spatial", "temporal", "alignment"]
POSE_MODULES: tuple[PoseModule, ...] = ("spatial", "temporal", "alignment")  # SSAE, TMCM, FAAU

# CUDA's limit of blocks along the grid axis on which attention kernels put the batch, or batch times heads.
MAX_CUDA_BLOCKS = 65_535


class SpatialStructureAdaptiveExtractor(nn.Module):
    """SSAE, S of Eq. 5: a dynamic convolution whose kernel is computed from the frame that it is applied to.

    S(p) = P(N2(Φ·u) + u) + scale ⊙ C(p), u = N1(Q(p)), with Φ [L,L] and scale [channels] computed from the frame's
    mean. P, Q, C are 1x1 convolutions (`conv_p`, `conv_q`, `conv`), N1 and N2 instance norms, L = √channels.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        inner = isqrt(channels)
        squeezed = max(channels // 16, 4)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv_q = nn.Conv2d(channels, inner, 1, bias=False)
        self.conv_p = nn.Conv2d(inner, channels, 1, bias=False)
        self.norm_1 = nn.GroupNorm(inner, inner)
        self.norm_2 = nn.GroupNorm(inner, inner)
        self.squeeze = nn.Linear(channels, squeezed, bias=False)
        self.gate = nn.Linear(squeezed, squeezed, bias=False)
        self.to_kernel = nn.Linear(squeezed, inner * inner, bias=False)
        self.to_scale = nn.Linear(squeezed, channels, bias=False)

    def forward(self, pose_latents: Tensor) -> Tensor:
        """Return S(p) [B,16,T,H,W] of p -> `pose_latents` [B,16,T,H,W]."""
        batch_size = pose_latents.shape[0]
        frames = pose_latents.transpose(1, 2).flatten(0, 1)
        s = self.squeeze(frames.mean(dim=(2, 3)))
        s = s * _hard_gate(self.gate(s))
        u = self.norm_1(self.conv_q(frames))
        kernel = self.to_kernel(s).unflatten(1, (u.shape[1], u.shape[1]))
        w = self.norm_2((kernel @ u.flatten(2)).view_as(u)) + u
        scale = _hard_gate(self.to_scale(s))[:, :, None, None]
        out = self.conv_p(w) + scale * self.conv(frames)
        return out.unflatten(0, (batch_size, -1)).transpose(1, 2)


class TemporalMotionCoherenceModule(nn.Sequential):
    """TMCM, T of Eq. 5: three blocks of a spatial depthwise and a temporal convolution, each followed by SiLU.

    `temporal_kernel_size` is the number of frames over which the temporal convolution mixes all channels: 3 in the
    released weights. The paper says "pointwise temporal", which in the usual sense is 1: a convolution that mixes the
    channels of each point and no frames.
    """

    def __init__(self, channels: int = 16, num_blocks: int = 3, temporal_kernel_size: int = 3) -> None:
        if temporal_kernel_size < 1 or temporal_kernel_size % 2 == 0:
            raise ValueError(
                f"temporal_kernel_size must be odd, such as 3 (released) or 1 (pointwise), not {temporal_kernel_size}"
            )
        super().__init__(*[_FactorisedConvolution(channels, temporal_kernel_size) for _ in range(num_blocks)])


class _FactorisedConvolution(nn.Module):
    def __init__(self, channels: int, temporal_kernel_size: int) -> None:
        super().__init__()
        size, reach = (temporal_kernel_size, 1, 1), (temporal_kernel_size // 2, 0, 0)
        self.spatial = nn.Conv3d(channels, channels, (1, 3, 3), padding=(0, 1, 1), groups=channels, bias=False)
        self.temporal = nn.Conv3d(channels, channels, size, padding=reach)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.temporal(F.silu(self.spatial(x))))


class FrameWiseAttentionAlignmentUnit(nn.Module):
    """FAAU of Eq. 5: queries from the noisy latent, keys and values from the pose; no residual, so only pose passes.

    p† = P_back(N2(a + FFN(a))), a = N1(attention(query = P_r(z), key = value = P_p(p*))).

    P_r -> `proj_query`, P_p -> `proj_pose`, P_back -> `proj_out`, N1, N2 -> `norm_1`, `norm_2`.

    `alignment_axis` selects the pixels that each latent pixel attends to: "temporal", the same pixel in all frames (as
    the released weights were trained), or "spatial", all pixels of the same frame (as the paper describes).

    `dropout` is the probability of dropping an attention weight in training (released: 0.1). The masks are drawn from
    one seed per sample, so they do not depend on how samples are batched. With dropout the attention weights are
    materialised: H·W·heads·T² numbers per sample for "temporal" and T·heads·(H·W)² for "spatial", which fits in memory
    for small grids only.
    """

    def __init__(
        self,
        channels: int = 16,
        inner_dim: int = 128,
        num_attention_heads: int = 8,
        alignment_axis: AlignmentAxis = "temporal",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if alignment_axis not in ("temporal", "spatial"):
            raise ValueError(f"alignment_axis must be 'temporal' or 'spatial', not {alignment_axis!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"the alignment unit's dropout must be at least 0 and below 1, not {dropout}")
        self.alignment_axis = alignment_axis
        self.dropout = dropout
        # Linear over the channels of each pixel: equivalent to a 1x1 convolution.
        self.proj_pose = nn.Linear(channels, inner_dim)
        self.proj_query = nn.Linear(channels, inner_dim)
        self.num_attention_heads = num_attention_heads
        self.to_qkv = _PackedProjection(inner_dim)
        self.to_out = nn.Linear(inner_dim, inner_dim)
        nn.init.zeros_(self.to_out.bias)
        self.norm_1 = nn.LayerNorm(inner_dim)
        self.norm_2 = nn.LayerNorm(inner_dim)
        self.ffn = nn.Sequential(nn.Linear(inner_dim, inner_dim), nn.SiLU(), nn.Linear(inner_dim, inner_dim))
        self.proj_out = nn.Linear(inner_dim, channels)

    def forward(self, hidden_states: Tensor, fused_pose: Tensor, dropout_seeds: Sequence[int] | None = None) -> Tensor:
        """Return p† [B,16,T,H,W]; z -> `hidden_states`, p* -> `fused_pose`, both [B,16,T,H,W].

        `dropout_seeds`: B numbers, required in training mode with `dropout` above 0, otherwise not used. Raises
        ValueError if they are missing.
        """
        batch_size, _, num_frames, height, width = hidden_states.shape
        query = self.proj_query(self._to_sequences(hidden_states))
        pose = self.proj_pose(self._to_sequences(fused_pose))
        q, k, v = (x.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2) for x in self.to_qkv(query, pose))
        a = self.to_out(self._attention(q, k, v, dropout_seeds).transpose(1, 2).flatten(2))
        a = self.norm_1(a)
        a = self.norm_2(a + self.ffn(a))
        out = self.proj_out(a)
        if self.alignment_axis == "temporal":
            return out.view(batch_size, height, width, num_frames, -1).permute(0, 4, 3, 1, 2)
        return out.view(batch_size, num_frames, height, width, -1).permute(0, 4, 1, 2, 3)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, dropout_seeds: Sequence[int] | None) -> Tensor:
        """Compute the attention of many short, independent sequences: q, k, v [N,heads,L,d] -> [N,heads,L,d]."""
        # In pieces, because N counts all pixels of a frame: 9,216 at 1024x576 for every sample of the batch.
        size = max(1, MAX_CUDA_BLOCKS // self.num_attention_heads)
        if not (self.training and self.dropout > 0):
            pieces = zip(q.split(size), k.split(size), v.split(size), strict=True)
            return torch.cat([F.scaled_dot_product_attention(*piece) for piece in pieces])
        mask = self._dropout_mask(q, dropout_seeds)
        with_mask = zip(q.split(size), k.split(size), v.split(size), mask.split(size), strict=True)
        return torch.cat([_masked_attention(*piece) for piece in with_mask]) / (1 - self.dropout)

    def _dropout_mask(self, q: Tensor, dropout_seeds: Sequence[int] | None) -> Tensor:
        """Return which attention weights are kept, bool [N,heads,L,L], drawn sample by sample from its seed."""
        if dropout_seeds is None or len(q) % len(dropout_seeds):
            raise ValueError(
                f"attention dropout {self.dropout} is drawn from one seed per sample, got {dropout_seeds}: pass one "
                "seed per sample, set the dropout to 0, or call .eval()"
            )
        num_sequences, length = len(q) // len(dropout_seeds), q.shape[2]
        shape = (num_sequences, self.num_attention_heads, length, length)
        # Drawn on the CPU, so that the mask is the same on every device.
        generators = [torch.Generator().manual_seed(seed) for seed in dropout_seeds]
        drawn = [torch.rand(shape, generator=generator) >= self.dropout for generator in generators]
        return torch.cat(drawn).to(q.device)

    def _to_sequences(self, latents: Tensor) -> Tensor:
        # Sequences have length T (or H·W), never B·T, so that the samples of a batch do not mix.
        if self.alignment_axis == "temporal":
            return latents.permute(0, 3, 4, 2, 1).flatten(0, 2)
        return latents.permute(0, 2, 3, 4, 1).flatten(2, 3).flatten(0, 1)


class _PackedProjection(nn.Module):
    """Query, key and value weights in one tensor, stored and initialised as in `nn.MultiheadAttention`.

    It is a module of its own, so that ZeRO and offload, which gather or move weights around a forward, find them.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.bias = nn.Parameter(torch.zeros(3 * dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, query: Tensor, key_value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dim = self.weight.shape[1]
        q = F.linear(query, self.weight[:dim], self.bias[:dim])
        k, v = F.linear(key_value, self.weight[dim:], self.bias[dim:]).chunk(2, dim=-1)
        return q, k, v


class PoseModulation(nn.Module):
    """Eq. 5: p* = p + S(p) + T(p), p† = FAAU(z, p*), with queries from z and keys and values from p*.

    p -> `pose_latents`, S -> `spatial`, T -> `temporal`, FAAU -> `alignment`, z -> `hidden_states`, all [B,16,T,H,W].
    There are two methods, `fuse` and `align`, because p* depends on the pose only and p† on the noisy latent as well.

    `modules` names the active modules; the paper's network has all three. Without S or T, the sum lacks that term.
    Without FAAU there is no p† and p* is used alone. Without all three, p* is p.

    `start_gap_module` is one of the paper's alternatives to pose simulation, which changes p before all others.
    """

    def __init__(
        self,
        channels: int = 16,
        alignment_axis: AlignmentAxis = "temporal",
        modules: Sequence[PoseModule] = POSE_MODULES,
        alignment_dropout: float = 0.0,
        temporal_kernel_size: int = 3,
        start_gap_module: StartGapModule = "none",
    ) -> None:
        super().__init__()
        if unknown := set(modules) - set(POSE_MODULES):
            raise ValueError(f"unknown pose modules {sorted(unknown)}: choose from {', '.join(POSE_MODULES)}")
        self.spatial = SpatialStructureAdaptiveExtractor(channels) if "spatial" in modules else None
        self.temporal = None
        if "temporal" in modules:
            self.temporal = TemporalMotionCoherenceModule(channels, temporal_kernel_size=temporal_kernel_size)
        self.alignment = None
        if "alignment" in modules:
            self.alignment = FrameWiseAttentionAlignmentUnit(
                channels, alignment_axis=alignment_axis, dropout=alignment_dropout
            )
        self.out_channels = channels * (1 if self.alignment is None else 2)
        self.start_gap = make_start_gap_module(start_gap_module, channels)

    @property
    def dtype(self) -> torch.dtype | None:
        """The float type of the modules: float32 under a bfloat16 network, unless cast; None without modules."""
        return next((parameter.dtype for parameter in self.parameters()), None)

    def fuse(self, pose_latents: Tensor) -> Tensor:
        """Eq. 5, first half: p* = p + S(p) + T(p). p -> `pose_latents` [B,16,T,H,W].

        Returns p* of the same shape, in the modules' float type.
        """
        pose_latents = pose_latents.to(dtype=self.dtype)
        if self.start_gap is not None:
            pose_latents = self.start_gap(pose_latents)
        fused = pose_latents
        if self.spatial is not None:
            fused = fused + self.spatial(pose_latents)
        if self.temporal is not None:
            fused = fused + self.temporal(pose_latents)
        return fused

    def align(
        self, hidden_states: Tensor, fused_pose: Tensor, dropout_seeds: Sequence[int] | None = None
    ) -> Tensor | None:
        """Eq. 5, second half: p† = FAAU(z, p*). z -> `hidden_states`, p* -> `fused_pose`, both [B,16,T,H,W].

        Returns p† of the same shape, in the modules' float type; None without the alignment unit. `dropout_seeds`: B
        numbers, one per sample, for the dropout of the alignment unit.
        """
        if self.alignment is None:
            return None
        return self.alignment(hidden_states.to(dtype=self.dtype), fused_pose, dropout_seeds)

    def forward(self, hidden_states: Tensor, pose_latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (p*, p†), each [B,16,T,H,W], of z -> `hidden_states` and p -> `pose_latents`."""
        fused_pose = self.fuse(pose_latents)
        return fused_pose, self.align(hidden_states, fused_pose)


def _masked_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return (weights * mask) @ v


def _hard_gate(a: Tensor) -> Tensor:
    # Range 0..2, as released: divided by 3, where a hard sigmoid divides by 6.
    return F.relu6(a + 3) / 3
