"""What the transformer is told in a call of the pipeline: image, motion and words, encoded window by window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy import uint8
from numpy.typing import NDArray

from .conditions import Conditions, with_frame_mask
from .driving import Perturbation, draw_motion, frames_of, negative_motion
from .encoders import encode_image, encode_image_condition, encode_prompt, encode_video
from .guidance import branch_conditions
from .long_video import Window, window_key
from .pose_condition import encode_pose_condition


@torch.no_grad()
def encode_conditions(
    pipeline: Any,
    image: NDArray[uint8],
    motion: Any,
    negative: Any,
    prompts: Sequence[str],
    windows: Sequence[Window],
    size: tuple[int, int],
    drawing_area_px: int,
) -> dict[Any, Conditions]:
    """Conditions of every branch of guidance in every window, by `window_key`.

    The references' latents are first frames of the clips', so nobody encodes them. All that does not depend on the
    window is encoded once, and is the same tensor in all of them: what the network remembers of it is remembered once.
    Drawn frames are held for one window at a time.

    Args:
        pipeline: a `SteadyDancerPipeline`.
        image: the reference, uint8 [H, W, 3].
        motion: from `as_motion`.
        negative: a motion to steer away from, a `Perturbation` of `motion`, or None where the pose does not guide.
        prompts: the prompt and the negative one.
        windows: as planned, over the frames of `motion`.
        size: height and width of the video.
        drawing_area_px: see `draw_pose_condition`.
    """
    vae, image_encoder, device = pipeline.vae, pipeline.image_encoder, pipeline._execution_device
    prompt_embeds, negative_prompt_embeds = (
        embeds[None].to(device) for embeds in encode_prompt(pipeline.text_encoder, pipeline.tokenizer, list(prompts))
    )
    num_frames = len(windows[0].pixel_frames)
    image_latents = encode_image_condition(vae, image, num_frames, *size)
    image_embeds = encode_image(image_encoder, image)
    conditions: Conditions | None = None
    branches: dict[Any, Conditions] = {}
    for index, window in enumerate(windows):
        moved = frames_of(motion, window.pixel_frames)
        pose_frames = draw_motion(moved, image, drawing_area_px)
        if conditions is None:
            pose_latents, pose_image_embeds = encode_pose_condition(vae, image_encoder, pose_frames, *size)
            conditions = Conditions(
                image_latents=with_frame_mask(image_latents[None]),
                pose_latents=pose_latents[None],
                image_embeds=image_embeds[None],
                pose_image_embeds=pose_image_embeds[None],
                prompt_embeds=prompt_embeds,
            ).to(device)
        else:
            pose_latents = encode_video(vae, pose_frames, *size)
            conditions = conditions.replace(pose_latents=pose_latents[None].to(device))
        negative_latents = conditions.pose_latents
        if negative is not None:
            frames = _negative_frames(moved, negative, window)
            drawn = draw_motion(frames, image, drawing_area_px)
            negative_latents = encode_video(vae, drawn, *size)[None].to(device)
        told = branch_conditions(conditions, negative_prompt_embeds, negative_latents)
        branches |= {window_key(branch, index): each for branch, each in told.items()}
    return branches


def _negative_frames(moved: Any, negative: Any, window: Window) -> Any:
    if isinstance(negative, Perturbation):
        return negative_motion(moved, negative[window.pixel_frames])
    return frames_of(negative, window.pixel_frames)
