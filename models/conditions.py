"""Conditions of the transformer: all of its inputs except noise and time.

B batch, T latent frames, H x W latent grid, L text tokens, D image feature width, Dt text feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

MASK_CHANNELS = 4  # one per pixel frame inside a latent frame: the VAE compresses time by 4
_NO_EMPTY_PROMPT = "null.prompt_embeds is None: set it to the text features of the empty prompt"


def frame_mask(num_frames: int, height: int, width: int) -> Tensor:
    """Build the mask of known frames: 1 in all four channels at latent frame 0, and 0 at all later ones.

    The three sizes are those of the latent grid. Returns float32 [4, num_frames, height, width].
    """
    mask = torch.zeros(MASK_CHANNELS, num_frames, height, width)
    mask[:, 0] = 1.0
    return mask


def with_frame_mask(image_latents: Tensor) -> Tensor:
    """Put the frame mask before stored image latents: [B,16,T,H,W] -> [B,20,T,H,W], same dtype and device."""
    mask = frame_mask(*image_latents.shape[-3:]).to(image_latents)
    return torch.cat([mask.expand(image_latents.shape[0], -1, -1, -1, -1), image_latents], dim=1)


def stack_prompt_embeds(prompts: Sequence[Tensor]) -> Tensor:
    """Stack text features of different lengths: list of [L,Dt] -> [B, longest L, Dt].

    Shorter ones are padded with zeros, which changes nothing: the transformer pads with zeros to its text length.
    """
    return torch.nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)


@dataclass(frozen=True)
class NullConditions:
    """Null conditions: "no pose" (a clip and an image without people) and "no text" (the empty prompt).

    pose_latents [B,16,T,H,W]; pose_image_embeds [B,257,D]; prompt_embeds [B,L,Dt], or None if text is never dropped.
    """

    pose_latents: Tensor
    pose_image_embeds: Tensor
    prompt_embeds: Tensor | None = None

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> NullConditions:
        """Return the same values on another device or in another float type."""
        return NullConditions(**_converted(self, device, dtype))


@dataclass(frozen=True)
class Conditions:
    """All inputs of the transformer except noise and time. Members have the names of a latent shard's members.

    image_latents [B,20,T,H,W]: 4 mask channels, then the latent of (image, grey, grey, ...).
    pose_latents [B,16,T,H,W]: latent of the drawn pose clip.
    image_embeds, pose_image_embeds [B,257,D]: image features of the reference image and of the first pose frame.
    prompt_embeds [B,L,Dt]: text features, cut to their true length or padded with zeros.
    reference_latents, reference_pose_latents [B,16,1,H,W]: None takes the first frame of `image_latents` (without the
    mask) and of `pose_latents`.
    """

    image_latents: Tensor
    pose_latents: Tensor
    image_embeds: Tensor
    pose_image_embeds: Tensor
    prompt_embeds: Tensor
    reference_latents: Tensor | None = None
    reference_pose_latents: Tensor | None = None

    def replace(self, **changes: Any) -> Conditions:
        """Return a copy with some members replaced."""
        return replace(self, **changes)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditions:
        """Return the same values on another device or in another float type."""
        return Conditions(**_converted(self, device, dtype))

    def model_arguments(self) -> dict[str, Tensor | None]:
        """Return the members as keyword arguments of `SteadyDancerTransformer3DModel.forward`."""
        return {
            "encoder_hidden_states": self.prompt_embeds,
            "encoder_hidden_states_image": self.image_embeds,
            "encoder_hidden_states_pose_image": self.pose_image_embeds,
            "image_latents": self.image_latents,
            "pose_latents": self.pose_latents,
            "reference_latents": self.reference_latents,
            "reference_pose_latents": self.reference_pose_latents,
        }

    def without_pose(self, null: NullConditions) -> Conditions:
        """Replace the pose by the null pose wherever it enters: clip, first-frame latent and image feature."""
        return self.replace(
            pose_latents=null.pose_latents, pose_image_embeds=null.pose_image_embeds, reference_pose_latents=None
        )

    def without_text(self, null: NullConditions) -> Conditions:
        """Replace the prompt by the empty prompt. Raises ValueError if `null` has no prompt_embeds."""
        if null.prompt_embeds is None:
            raise ValueError(_NO_EMPTY_PROMPT)
        return self.replace(prompt_embeds=null.prompt_embeds)

    def with_dropout(self, null: NullConditions, text: Tensor, pose: Tensor) -> Conditions:
        """Drop text or pose sample by sample, for classifier-free guidance.

        `text` and `pose` are bool [B], True = dropped. The image condition is never dropped: only it preserves the
        first frame. Raises ValueError if `null` has no prompt_embeds.
        """
        if null.prompt_embeds is None:
            raise ValueError(_NO_EMPTY_PROMPT)
        length = max(self.prompt_embeds.shape[1], null.prompt_embeds.shape[1])
        reference = self.reference_pose_latents
        return self.replace(
            prompt_embeds=_choose(text, _pad(null.prompt_embeds, length), _pad(self.prompt_embeds, length)),
            pose_latents=_choose(pose, null.pose_latents, self.pose_latents),
            pose_image_embeds=_choose(pose, null.pose_image_embeds, self.pose_image_embeds),
            reference_pose_latents=None if reference is None else _choose(pose, null.pose_latents[:, :, :1], reference),
        )


def _converted(
    record: Conditions | NullConditions, device: torch.device | str | None, dtype: torch.dtype | None
) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: None if value is None else value.to(device=device, dtype=dtype) for name, value in values.items()}


def _choose(mask: Tensor, where_true: Tensor, where_false: Tensor) -> Tensor:
    return torch.where(mask.to(where_false.device).view(-1, *[1] * (where_false.ndim - 1)), where_true, where_false)


def _pad(prompt_embeds: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(prompt_embeds, (0, 0, 0, length - prompt_embeds.shape[1]))
