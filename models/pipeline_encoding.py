"""The first half of a pipeline's call: check the inputs, find the motion, draw the noise, and encode all conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .call_checks import check_encoding
from .encoded_inputs import EncodedInputs
from .long_video import WindowOpening, plan_windows
from .pipeline_inputs import (
    Clip,
    DrivingVideo,
    OnMissingReference,
    as_reference,
    num_frames_of,
    prepare_motion,
    video_size,
)
from .pose.estimator import PoseEstimator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Arguments of a call that `encode_inputs` uses, besides `latents`.
ENCODING_ARGUMENTS = (
    *("image", "pose_video", "prompt", "negative_prompt", "driving_video", "driving_fps", "pose_estimator"),
    *("main_person_only", "on_missing_reference", "negative_pose_video", "height", "width", "max_area_px"),
    *("drawing_area_px", "num_frames", "window_frames", "window_overlap", "window_opening"),
    *(
        "pose_guidance_scale",
        "negative_pose_shift",
        "num_videos_per_prompt",
        "generator",
        "prompt_embeds",
        "negative_prompt_embeds",
    ),
)


def draw_and_encode(
    pipeline: Any,
    *,
    image: Any,
    pose_video: Clip | None,
    prompt: str,
    negative_prompt: str | None,
    driving_video: DrivingVideo | None,
    driving_fps: float | None,
    pose_estimator: PoseEstimator | None,
    main_person_only: bool,
    on_missing_reference: OnMissingReference,
    negative_pose_video: Clip | None,
    height: int | None,
    width: int | None,
    max_area_px: int,
    drawing_area_px: int,
    num_frames: int | None,
    window_frames: int,
    window_overlap: int,
    window_opening: WindowOpening,
    pose_guidance_scale: float,
    negative_pose_shift: bool,
    num_videos_per_prompt: int,
    generator: torch.Generator | list[torch.Generator] | None,
    latents: Tensor | None,
    prompt_embeds: Tensor | None,
    negative_prompt_embeds: Tensor | None,
) -> tuple[Tensor, EncodedInputs]:
    """Return the noise of a call and its encoded inputs; the steps are methods of the pipeline.

    All arguments are those of a call of `SteadyDancerPipeline`, as are the errors.
    """
    # 1. Check the inputs
    image = as_reference(image)
    height, width = video_size(image, height, width, max_area_px)
    check_encoding(
        prompt=prompt,
        negative_prompt=negative_prompt,
        num_frames=num_frames,
        drawing_area_px=drawing_area_px,
        prompt_embeds=prompt_embeds,
        negative_prompt_embeds=negative_prompt_embeds,
        transformer=pipeline.transformer,
        has_text_encoder=pipeline.text_encoder is not None,
    )

    # 2. Find and align the motion, and cut it into windows
    motion, pipeline._driving_poses = prepare_motion(
        image,
        pose_video,
        driving_video,
        pose_estimator,
        num_frames,
        driving_fps=driving_fps,
        main_person_only=main_person_only,
        on_missing_reference=on_missing_reference,
    )
    num_frames = num_frames_of(motion)
    windows = plan_windows(num_frames, window_frames, window_overlap, window_opening)

    # 3. Draw the noise, then the negative pose
    noise: Tensor = pipeline.prepare_latents(num_videos_per_prompt, windows, height, width, generator, latents)
    negatives = pipeline.prepare_negative_motion(
        num_videos_per_prompt, num_frames, generator, negative_pose_video, pose_guidance_scale, negative_pose_shift
    )

    # 4. Encode the conditions
    texts = pipeline.encode_prompt(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
    image_latents = pipeline.prepare_image_latents(image, len(windows[0].pixel_frames), height, width)
    image_embeds = pipeline.encode_image(image)
    pose_latents, pose_image_embeds, negative_pose_latents = pipeline.encode_pose(
        motion, negatives, image, windows, height, width, drawing_area_px
    )
    encoded = EncodedInputs(
        height=height,
        width=width,
        num_frames=num_frames,
        windows=windows,
        image_latents=image_latents,
        image_embeds=image_embeds,
        pose_latents=pose_latents,
        pose_image_embeds=pose_image_embeds,
        prompt_embeds=texts[0],
        negative_prompt_embeds=texts[1],
        negative_pose_latents=negative_pose_latents,
    )
    return noise, encoded
