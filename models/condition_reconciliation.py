"""Condition-Reconciliation Mechanism: let image and pose enter the network without competing.

Fusion concatenates both with the noise along channels (Eq. 3). Augmentation appends both to the video along time, and
to the context as image features (Eq. 4). They are not added to each other. B batch, T latent frames, H x W latent grid.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .conditions import MASK_CHANNELS

# How the pose joins the video: Eq. 3, a separate embedding added to the video's, Eq. 2, or inside the blocks.
PoseFusion = Literal["concatenation", "addition", "latent_addition", "adapter"]
ReferenceEmbedding = Literal["separate", "shared"]  # of the reference frames (Eq. 4): as released, or as printed
FeatureFusion = Literal["sum", "concatenation"]  # of the two image features: as released, or as printed

TEXT_LENGTH = 512  # fixed: diffusers' attention processor treats the last 512 context tokens as text
NUM_REFERENCE_FRAMES = 2  # the reference image and the first pose, appended after the video's frames


def image_to_video_channels(hidden_states: Tensor, image_latents: Tensor) -> Tensor:
    """Eq. 1: ChannelConcat(z, m, z_c), the input of the image-to-video base; it has no pose.

    z -> `hidden_states` [B,16,T,H,W]; m and z_c -> `image_latents` [B,20,T,H,W] (4 mask channels first).
    Returns [B,36,T,H,W].
    """
    return torch.cat([hidden_states, image_latents], dim=1)


def add_pose(video: Tensor, pose: Tensor) -> Tensor:
    """Add the embedded pose to the embedded video: Embed(ChannelConcat(z, m, z_c)) + Embed_p(p), a variant of Eq. 2.

    Embed(ChannelConcat(z, m, z_c)) -> `video`, Embed_p(p) -> `pose`, both [B,D,T,h,w]. A sum of two linear maps is a
    linear map of the concatenation, so Eq. 3 can represent the same function. The difference is in training: here the
    base's embedding serves both the image reference and the video and stays frozen under LoRA; only the pose's
    embedding is learned.
    """
    return video + pose


def add_pose_latents(hidden_states: Tensor, image_latents: Tensor, pose: Tensor) -> Tensor:
    """Eq. 2: ChannelConcat(z, m, z_c + z_p), the naive baseline: one embedding reads the sum of image and pose.

    z -> `hidden_states` [B,16,T,H,W]; m and z_c -> `image_latents` [B,20,T,H,W] (4 mask channels first);
    z_p -> `pose` [B,16,T,H,W]. Returns [B,36,T,H,W].

    The paper does not combine Eq. 2 with the modules of Eq. 5. With them, p* replaces z_p. If there is also a p†, the
    sum is z_c + p* + p† and `pose` is [B,32,T,H,W].
    """
    mask, image = image_latents[:, :MASK_CHANNELS], image_latents[:, MASK_CHANNELS:]
    added = pose.unflatten(1, (-1, image.shape[1])).sum(dim=1)
    return torch.cat([hidden_states, mask, image + added], dim=1)


def fuse(hidden_states: Tensor, image_latents: Tensor, pose: Tensor) -> Tensor:
    """Eq. 3 with the poses of Eq. 5: ChannelConcat(z, m, z_c, p*, p†).

    z -> `hidden_states` [B,16,T,H,W]; m and z_c -> `image_latents` [B,20,T,H,W] (4 mask channels first);
    p* and p† -> `pose` [B,32,T,H,W], see `concatenate_poses`. Returns [B,68,T,H,W], or 52 channels without p†.
    """
    return torch.cat([image_to_video_channels(hidden_states, image_latents), pose], dim=1)


def concatenate_poses(fused_pose: Tensor, aligned_pose: Tensor | None) -> Tensor:
    """Concatenate the poses of Eq. 5 for Eq. 3: ChannelConcat(p*, p†), or p* alone if there is no p†.

    p* -> `fused_pose`, p† -> `aligned_pose`, both [B,16,T,H,W]. Returns [B,32,T,H,W] or [B,16,T,H,W].
    """
    return fused_pose if aligned_pose is None else torch.cat([fused_pose, aligned_pose], dim=1)


class PoseAdapter(nn.Module):
    """Adapter injection, an ablation beside Eq. 2: add pose features after every block, not to its input.

    A separate embedding gives a few features per token. After each block, a linear layer of that block adds them to the
    video's tokens. These layers start at zero (`SteadyDancerTransformer3DModel.from_wan`).
    """

    def __init__(
        self, channels: int, inner_dim: int, num_layers: int, patch_size: tuple[int, int, int], width: int = 256
    ) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv3d(channels, width, kernel_size=patch_size, stride=patch_size)
        # Without bias: tokens that have no pose stay unchanged.
        self.injections = nn.ModuleList([nn.Linear(width, inner_dim, bias=False) for _ in range(num_layers)])

    def forward(self, pose: Tensor, num_reference_frames: int) -> Tensor:
        """Embed pose channels [B,C,T,H,W] to features [B,N,width] of all N tokens; zero for the reference frames."""
        features = F.silu(self.patch_embedding(pose.to(self.patch_embedding.weight.dtype)))
        return F.pad(features, (0, 0, 0, 0, 0, num_reference_frames)).flatten(2).transpose(1, 2)

    def inject(self, index: int, tokens: Tensor, features: Tensor) -> Tensor:
        """Add the pose features to tokens [B,N,D] after the block `index`."""
        return tokens + self.injections[index](features).to(tokens.dtype)


def reference_image_channels(reference_latents: Tensor) -> Tensor:
    """Build the reference image's frame for the pretrained 36-channel embedding: (latent, mask 1, latent).

    [B,16,1,H,W] -> [B,36,1,H,W]. The latent also takes the place of the noise, as a frame that is already clean.
    """
    mask = torch.ones_like(reference_latents[:, :1]).expand(-1, MASK_CHANNELS, -1, -1, -1)
    return torch.cat([reference_latents, mask, reference_latents], dim=1)


def append_reference_frames(video: Tensor, image_reference: Tensor, pose_reference: Tensor) -> Tensor:
    """Eq. 4 as released: TemporalConcat(z_cond, z_c0, z_p0), after a separate patch embedding of each.

    z_cond -> `video` [B,D,T,h,w]; z_c0 -> `image_reference`, z_p0 -> `pose_reference`, both [B,D,1,h,w].
    Returns [B,D,T+2,h,w]. The rotary positions continue: T and T + 1.
    """
    return torch.cat([video, image_reference, pose_reference], dim=2)


def append_reference_latents(
    hidden_states: Tensor,
    image_latents: Tensor,
    pose: Tensor,
    reference_latents: Tensor,
    reference_pose_latents: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 4 as printed: TemporalConcat(z_cond, z_c0, z_p0), before one patch embedding of all frames.

    The paper does not state how a latent of 16 channels gets the width of z_cond. Here it fills the channels of the
    noise, as a frame that is already clean, and the channels of its own condition (z_c, or z_p, which is p* of Eq. 5).
    The mask is 1 for the image. All other channels are 0.

    Args:
        hidden_states: z [B,16,T,H,W].
        image_latents: m and z_c [B,20,T,H,W].
        pose: p* and p† [B,32,T,H,W], or p* alone, 16 channels.
        reference_latents: z_c0 [B,16,1,H,W].
        reference_pose_latents: z_p0 [B,16,1,H,W].

    Returns:
        `hidden_states`, `image_latents` and `pose`, each with T + 2 frames.
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
    """Eq. 4, image features: Concat(c_clip, c_p0) as printed, c_clip + c_p0 as released, each after the image MLP.

    c_clip, feature of the reference image -> `image_embeds`; c_p0, feature of the first pose frame (the letter is ours)
    -> `pose_image_embeds`; both [B,257,image_dim]. Returns [B,257,D] for "sum", [B,514,D] for "concatenation". Without
    augmentation `pose_image_embeds` is None and only c_clip is embedded.
    """
    tokens = image_embedder(image_embeds)
    if pose_image_embeds is None:
        return tokens
    pose_tokens = image_embedder(pose_image_embeds)
    return tokens + pose_tokens if feature_fusion == "sum" else torch.cat([tokens, pose_tokens], dim=1)


def pad_text(prompt_embeds: Tensor) -> Tensor:
    """Pad text features [B,L,Dt] with zeros to [B,512,Dt].

    The padding is attended to (there is no mask), as in Wan's own training.

    Raises:
        ValueError: L > 512.
    """
    length = prompt_embeds.shape[1]
    if length > TEXT_LENGTH:
        raise ValueError(
            f"prompt_embeds has {length} text tokens, but the model takes at most {TEXT_LENGTH}: shorten the prompt"
        )
    return F.pad(prompt_embeds, (0, 0, 0, TEXT_LENGTH - length))
