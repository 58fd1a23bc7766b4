"""Encoded inputs of a video: all that sampling needs besides noise, so that encoding and sampling can run apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ..datasets.arrays import Frames
from .conditions import Conditions
from .encoders import encode_video
from .long_video import Window
from .negative_pose import Perturbation, negative_motion
from .pipeline_inputs import InputError, draw_motion, frames_of
from .pose_condition import encode_pose_condition
from .window_openings import own_latents, window_conditions

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from torch import Tensor

    from .image_encoder import OpenCLIPImageEncoder


@dataclass(frozen=True)
class EncodedInputs:
    """What `SteadyDancerPipeline` encodes from an image, a motion and two prompts.

    Attributes:
        height: of the video in pixels.
        width: of the video in pixels.
        num_frames: of the video.
        windows: from `plan_windows`.
        image_latents: [1, 20, T, h, w], the image condition with its mask, of every window that opens with the image.
        image_embeds: [1, 257, D] of the reference image.
        pose_latents: [1, 16, T, h, w] of each window.
        pose_image_embeds: [1, 257, D] of the first pose frame.
        prompt_embeds: [1, L, Dt].
        negative_prompt_embeds: [1, L, Dt].
        negative_pose_latents: those of each window, for each video or one for all; empty if the inputs were encoded
            without pose guidance.
    """

    height: int
    width: int
    num_frames: int
    windows: Sequence[Window]
    image_latents: Tensor
    image_embeds: Tensor
    pose_latents: Sequence[Tensor]
    pose_image_embeds: Tensor
    prompt_embeds: Tensor
    negative_prompt_embeds: Tensor
    negative_pose_latents: Sequence[Sequence[Tensor]] = ()

    def conditions(self) -> list[Conditions]:
        """Return the positive conditions of each window, see `window_openings`.

        Reference latents default to the first frames of the clips. All windows share the other tensors, so that the
        step memory keeps their results once.
        """
        conditions = [
            Conditions(self.image_latents, each, self.image_embeds, self.pose_image_embeds, self.prompt_embeds)
            for each in self.pose_latents
        ]
        return window_conditions(self.windows, conditions)

    def negative_poses(self, num_videos: int, pose_guidance_scale: float) -> Sequence[Sequence[Tensor]]:
        """Return the negative pose latents of a sampling; without pose guidance, the positive ones.

        Raises:
            InputError: pose guidance needs them and the inputs were encoded without, or for another number of videos.
        """
        if pose_guidance_scale == 0:
            return [list(self.pose_latents)]
        if len(self.negative_pose_latents) not in (1, num_videos):
            raise InputError(
                f"encoded has {len(self.negative_pose_latents)} negative poses, but {num_videos} videos with "
                f"pose_guidance_scale {pose_guidance_scale} need one, or one each: encode the inputs with the same "
                "num_videos_per_prompt and with pose guidance, or pass pose_guidance_scale=0."
            )
        return self.negative_pose_latents

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in a fixed order."""
        negatives = [each for video in self.negative_pose_latents for each in video]
        texts = (self.prompt_embeds, self.negative_prompt_embeds)
        return [self.image_latents, self.image_embeds, *self.pose_latents, self.pose_image_embeds, *texts, *negatives]

    def to(self, device: torch.device | str) -> EncodedInputs:
        """Return the same values on another device; a tensor that occurs twice is moved once."""
        moved: dict[int, Any] = {}

        def on_device(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return [on_device(each) for each in value]
            return moved.setdefault(id(value), value.to(device))

        names = (
            *("image_latents", "image_embeds", "pose_latents", "pose_image_embeds", "prompt_embeds"),
            *("negative_prompt_embeds", "negative_pose_latents"),
        )
        return replace(self, **{name: on_device(getattr(self, name)) for name in names})


def encode_pose_windows(
    vae: AutoencoderKLWan,
    image_encoder: OpenCLIPImageEncoder,
    motion: Any,
    image: Frames,
    windows: Sequence[Window],
    height: int,
    width: int,
    drawing_area_px: int,
) -> tuple[list[Tensor], Tensor]:
    """Draw and encode a motion, one window at a time to bound the memory of drawn frames.

    Args:
        vae: Wan's autoencoder.
        image_encoder: CLIP.
        motion: from `prepare_motion`.
        image: the reference image; the pose is drawn at its size.
        windows: over the frames of `motion`.
        height: of the video.
        width: of the video.
        drawing_area_px: as in a call.

    Returns:
        (pose_latents [1, 16, T, h, w] of each window, pose_image_embeds [1, 257, D] of the first pose frame).
    """
    pose_latents: list[Tensor] = []
    for window in windows:
        drawn = draw_motion(frames_of(motion, window.pixel_frames), image, drawing_area_px)
        if pose_latents:
            latents = own_latents(window, encode_video(vae, drawn, height, width))
        else:
            latents, embeds = encode_pose_condition(vae, image_encoder, drawn, height, width)
        pose_latents.append(latents[None])
    return pose_latents, embeds[None]


def encode_negative_windows(
    vae: AutoencoderKLWan,
    motion: Any,
    negative: Any,
    image: Frames,
    windows: Sequence[Window],
    height: int,
    width: int,
    drawing_area_px: int,
) -> list[Tensor]:
    """Draw and encode the negative pose of one video as `encode_pose_windows` does the motion.

    `negative` is a `Perturbation` of `motion`, or a motion of its own.
    """
    encoded = []
    for window in windows:
        if isinstance(negative, Perturbation):
            frames = negative_motion(frames_of(motion, window.pixel_frames), negative[window.pixel_frames])
        else:
            frames = frames_of(negative, window.pixel_frames)
        drawn = draw_motion(frames, image, drawing_area_px)
        encoded.append(own_latents(window, encode_video(vae, drawn, height, width))[None])
    return encoded
