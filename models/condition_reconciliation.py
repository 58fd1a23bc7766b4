"""Condition-Reconciliation Mechanism: how image and pose enter the network without pulling against each other.

They are put beside the noise by channels (fusion) and beside the video by time and as image features (augmentation),
instead of being added onto each other. B batch, T latent frames, H x W latent grid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .conditions import MASK_CHANNELS

TEXT_LENGTH = 512  # diffusers' attention processor takes the last 512 context tokens for text, whatever is given
NUM_REFERENCE_FRAMES = 2  # the reference image and the first pose, appended after the video's frames


def fuse(hidden_states: Tensor, image_latents: Tensor, fused_pose: Tensor, aligned_pose: Tensor) -> Tensor:
    """Eq. 3 with the poses of Eq. 5: ChannelConcat(z, m, z_c, p*, p†).

    z -> `hidden_states` [B,16,T,H,W]; m and z_c -> `image_latents` [B,20,T,H,W] (4 mask channels first);
    p* -> `fused_pose`, p† -> `aligned_pose`, both [B,16,T,H,W]. Returns [B,68,T,H,W].
    """
    return torch.cat([hidden_states, image_latents, fused_pose, aligned_pose], dim=1)


def reference_image_channels(reference_latents: Tensor) -> Tensor:
    """The reference image as the pretrained 36-channel embedding knows a frame: (latent, mask 1, latent).

    [B,16,1,H,W] -> [B,36,1,H,W]: the latent stands where the noise stood, as a frame already clean.
    """
    mask = torch.ones_like(reference_latents[:, :1]).expand(-1, MASK_CHANNELS, -1, -1, -1)
    return torch.cat([reference_latents, mask, reference_latents], dim=1)


def append_reference_frames(video: Tensor, image_reference: Tensor, pose_reference: Tensor) -> Tensor:
    """Eq. 4: TemporalConcat(z_cond, z_c0, z_p0), after each has gone through its own patch embedding.

    `video` [B,D,T,h,w], `image_reference` and `pose_reference` [B,D,1,h,w] -> [B,D,T+2,h,w]. The rotary positions
    simply go on: T and T + 1.
    """
    return torch.cat([video, image_reference, pose_reference], dim=2)


def image_tokens(image_embedder: nn.Module, image_embeds: Tensor, pose_image_embeds: Tensor) -> Tensor:
    """Augmentation: features of the reference image and of the first pose, embedded apart and added, [B,257,D].

    The paper prints a concatenation; the released weights were trained with this sum.
    """
    return image_embedder(image_embeds) + image_embedder(pose_image_embeds)


def pad_text(prompt_embeds: Tensor) -> Tensor:
    """Fill text features [B,L,Dt] with zeros to [B,512,Dt]; raises ValueError if L > 512.

    The filling is attended to (there is no mask): Wan was trained so.
    """
    length = prompt_embeds.shape[1]
    if length > TEXT_LENGTH:
        raise ValueError(f"{length} text tokens given, the network takes at most {TEXT_LENGTH}: cut the prompt")
    return F.pad(prompt_embeds, (0, 0, 0, TEXT_LENGTH - length))
