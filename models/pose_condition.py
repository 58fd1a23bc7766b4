"""The pose condition of the transformer: drawn as for the released model, then encoded as a video."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..datasets.arrays import Frames
from ..datasets.skeleton import PoseSequence, draw
from ..datasets.video import size_for_area

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from torch import Tensor

    from .image_encoder import OpenCLIPImageEncoder

RELEASED_DRAWING_AREA_PX = 1024 * 576
FRAMES_AT_A_TIME = 8  # a canvas has four times the pixels of the video: 7 MB per frame at the released size


def released_aspect(image_height: int, image_width: int) -> float:
    """Return the width / height at which the release measures the pose of the reference image.

    The release first resizes the image to its area, with sides that are multiples of 16; that changes the aspect by up
    to 3 %.
    """
    height, width = size_for_area(image_height, image_width, RELEASED_DRAWING_AREA_PX)
    return width / height


def draw_pose_condition(
    pose: PoseSequence | list[PoseSequence],
    image_height: int,
    image_width: int,
    drawing_area_px: int = RELEASED_DRAWING_AREA_PX,
) -> Frames:
    """Draw pose frames at the reference image's size: uint8 [F, image_height, image_width, 3] RGB.

    As in the release, the canvas is twice the output size for `drawing_area_px`, whatever the size of the video, and is
    reduced with antialiasing. Strokes are 4 px on the canvas, so a smaller area gives bolder lines.
    """
    people = [pose] if isinstance(pose, PoseSequence) else pose
    height, width = size_for_area(image_height, image_width, drawing_area_px)
    frames = np.empty((len(people[0]), image_height, image_width, 3), np.uint8)
    for start in range(0, len(frames), FRAMES_AT_A_TIME):
        some = slice(start, start + FRAMES_AT_A_TIME)
        drawn = draw([person[some] for person in people], 2 * height, 2 * width)
        frames[some] = resize_frames(drawn, image_height, image_width)
    return frames


def resize_frames(frames: Frames, height: int, width: int) -> Frames:
    """Resize [F, H, W, 3] to [F, height, width, 3] with PIL's antialiased bicubic; for drawn pose frames only."""
    if frames.shape[1:3] == (height, width):
        return frames
    resized = [Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.asarray(frame) for frame in resized])


def encode_pose_condition(
    vae: AutoencoderKLWan,
    image_encoder: OpenCLIPImageEncoder,
    pose_frames: Frames,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Encode drawn frames at height × width: (pose_latents [16, T, h, w], pose_image_embeds [257, D])."""
    from .encoders import encode_image, encode_video  # here: workers that only find and draw poses need no networks

    return encode_video(vae, pose_frames, height, width), encode_image(image_encoder, pose_frames[0])
