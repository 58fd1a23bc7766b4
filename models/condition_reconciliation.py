"""Condition-Reconciliation Mechanism: how image and pose enter the network without pulling against each other.

They are put beside the noise by channels (fusion) and beside the video by time and as image features (augmentation),
instead of being added onto each other. B batch, T latent frames, H x W latent grid.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .conditions import MASK_CHANNELS

# How the pose joins: Eq. 3, its own embedding added to the video's, Eq. 2, or inside the blocks.
PoseFusion = Literal["concatenation", "addition", "latent_addition", "adapter"]
ReferenceEmbedding = Literal["separate", "shared"]  # of the reference frames: as released, or as printed (Eq. 4)
FeatureFusion = Literal["sum", "concatenation"]  # how the second image feature joins: as released, or as printed

TEXT_LENGTH = 512  # diffusers' attention processor takes the last 512 context tokens for text, whatever is given
NUM_REFERENCE_FRAMES = 2  # the reference image and the first pose, appended after the video's frames


def image_to_video_channels(hidden_states: Tensor, image_latents: Tensor) -> Tensor:
    """Eq. 1: ChannelConcat(z, m, z_c), the input of the image-to-video base, without a pose.

    z -> `hidden_states` [B,16,T,H,W]; m and z_c -> `image_latents` [B,20,T,H,W] (4 mask channels first).
    Returns [B,36,T,H,W].
    """
    return torch.cat([hidden_states, image_latents], dim=1)


def add_pose(video: Tensor, pose: Tensor) -> Tensor:
    """Add the embedded pose to the embedded video: Embed(ChannelConcat(z, m, z_c)) + Embed_p(p), a variant of Eq. 2.

    `video` and `pose` [B,D,T,h,w], each embedded apart by a linear map. A sum of two linear maps is a linear map of
    the concatenation, so Eq. 3 could be the same function; here the base's embedding has to serve both the image
    reference and the video, and stays frozen under LoRA, while only the pose's own is learned.
    """
    return video + pose


def add_pose_latents(hidden_states: Tensor, image_latents: Tensor, pose: Tensor) -> Tensor:
    """Eq. 2: ChannelConcat(z, m, z_c + z_p), the naive baseline: one embedding reads image and pose as a sum.

    z -> `hidden_states` [B,16,T,H,W]; m and z_c -> `image_latents` [B,20,T,H,W] (4 mask channels first);
    z_p -> `pose` [B,16,T,H,W]. With the modules of Eq. 5, which the paper does not combine with Eq. 2, p* takes the
    place of z_p, and z_c + p* + p† where there are both, [B,32,T,H,W]. Returns [B,36,T,H,W].
    """
    mask, image = image_latents[:, :MASK_CHANNELS], image_latents[:, MASK_CHANNELS:]
    added = pose.unflatten(1, (-1, image.shape[1])).sum(dim=1)
    return torch.cat([hidden_states, mask, image + added], dim=1)


def fuse(hidden_states: Tensor, image_latents: Tensor, pose: Tensor) -> Tensor:
    """Eq. 3 with the poses of Eq. 5: ChannelConcat(z, m, z_c, p*, p†).

    z -> `hidden_states` [B,16,T,H,W]; m and z_c -> `image_latents` [B,20,T,H,W] (4 mask channels first);
    p* and p† -> `pose` [B,32,T,H,W], see `concatenate_poses`. Returns [B,68,T,H,W]; 52 channels without p†.
    """
    return torch.cat([image_to_video_channels(hidden_states, image_latents), pose], dim=1)


def concatenate_poses(fused_pose: Tensor, aligned_pose: Tensor | None) -> Tensor:
    """The pose as it joins the video, p* -> `fused_pose`, p† -> `aligned_pose`: ChannelConcat(p*, p†), or p* alone.

    [B,16,T,H,W] each -> [B,32,T,H,W] or [B,16,T,H,W].
    """
    return fused_pose if aligned_pose is None else torch.cat([fused_pose, aligned_pose], dim=1)


class PoseAdapter(nn.Module):
    """Adapter injection, the ablation beside Eq. 2: pose features go into every block instead of into its input.

    The pose is embedded apart to few features a token; after each block they are added to the video's tokens through
    a linear layer of that block's own, which starts at zero (`SteadyDancerTransformer3DModel.from_wan`).
    """

    def __init__(
        self, channels: int, inner_dim: int, num_layers: int, patch_size: tuple[int, int, int], width: int = 256
    ) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv3d(channels, width, kernel_size=patch_size, stride=patch_size)
        # Without bias: tokens that have no pose get exactly nothing.
        self.injections = nn.ModuleList([nn.Linear(width, inner_dim, bias=False) for _ in range(num_layers)])

    def forward(self, pose: Tensor, num_reference_frames: int) -> Tensor:
        """Pose channels [B,C,T,H,W] -> features [B,N,width] of all N tokens, zero for those of the references."""
        features = F.silu(self.patch_embedding(pose.to(self.patch_embedding.weight.dtype)))
        return F.pad(features, (0, 0, 0, 0, 0, num_reference_frames)).flatten(2).transpose(1, 2)

    def inject(self, index: int, tokens: Tensor, features: Tensor) -> Tensor:
        """Tokens [B,N,D] after the block of this index, with the pose added."""
        return tokens + self.injections[index](features).to(tokens.dtype)


def reference_image_channels(reference_latents: Tensor) -> Tensor:
    """The reference image as the pretrained 36-channel embedding knows a frame: (latent, mask 1, latent).

    [B,16,1,H,W] -> [B,36,1,H,W]: the latent stands where the noise stood, as a frame already clean.
    """
    mask = torch.ones_like(reference_latents[:, :1]).expand(-1, MASK_CHANNELS, -1, -1, -1)
    return torch.cat([reference_latents, mask, reference_latents], dim=1)


def append_reference_frames(video: Tensor, image_reference: Tensor, pose_reference: Tensor) -> Tensor:
    """Eq. 4 as released: TemporalConcat(z_cond, z_c0, z_p0), after each has gone through its own patch embedding.

    `video` [B,D,T,h,w], `image_reference` and `pose_reference` [B,D,1,h,w] -> [B,D,T+2,h,w]. The rotary positions
    simply go on: T and T + 1.
    """
    return torch.cat([video, image_reference, pose_reference], dim=2)


def append_reference_latents(
    hidden_states: Tensor,
    image_latents: Tensor,
    pose: Tensor,
    reference_latents: Tensor,
    reference_pose_latents: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 4 as printed: TemporalConcat(z_cond, z_c0, z_p0), before one patch embedding reads all frames.

    The paper does not say how a latent of 16 channels gets the width of z_cond. Here it fills the channels of the
    noise, as a frame already clean, and those of its own condition (z_c or z_p, which is p* of Eq. 5). The mask is 1
    for the image, and all other channels are 0.

    Args:
        hidden_states: z [B,16,T,H,W].
        image_latents: m and z_c [B,20,T,H,W].
        pose: p* and p† [B,32,T,H,W], or p* alone, 16 channels.
        reference_latents: z_c0 [B,16,1,H,W].
        reference_pose_latents: z_p0 [B,16,1,H,W].

    Returns:
        The first three, with T + 2 frames each.
    """
    known_image = reference_image_channels(reference_latents)[:, reference_latents.shape[1] :]
    known_pose = torch.zeros_like(pose[:, :, :1])
    known_pose[:, : reference_pose_latents.shape[1]] = reference_pose_latents
    return (
        torch.cat([hidden_states, reference_latents, reference_pose_latents], dim=2),
        torch.cat([image_latents, known_image, torch.zeros_like(image_latents[:, :, :1])], dim=2),
        torch.cat([pose, torch.zeros_like(pose[:, :, :1]), known_pose], dim=2),
    )


def image_tokens(
    image_embedder: nn.Module,
    image_embeds: Tensor,
    pose_image_embeds: Tensor | None,
    feature_fusion: FeatureFusion = "sum",
) -> Tensor:
    """Augmentation: features of the reference image and of the first pose, embedded apart and joined.

    The paper prints a concatenation, [B,514,D]; the released weights were trained with a sum, [B,257,D]. Without
    augmentation there is no second feature (None).
    """
    tokens = image_embedder(image_embeds)
    if pose_image_embeds is None:
        return tokens
    pose_tokens = image_embedder(pose_image_embeds)
    return tokens + pose_tokens if feature_fusion == "sum" else torch.cat([tokens, pose_tokens], dim=1)


def pad_text(prompt_embeds: Tensor) -> Tensor:
    """Fill text features [B,L,Dt] with zeros to [B,512,Dt]; raises ValueError if L > 512.

    The filling is attended to (there is no mask): Wan was trained so.
    """
    length = prompt_embeds.shape[1]
    if length > TEXT_LENGTH:
        raise ValueError(f"{length} text tokens given, the network takes at most {TEXT_LENGTH}: cut the prompt")
    return F.pad(prompt_embeds, (0, 0, 0, TEXT_LENGTH - length))
