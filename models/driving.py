"""From a driving video to the pose clips of a render: found, aligned, drawn, and perturbed for the guidance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..datasets.skeleton import PoseSequence, align_to_reference, perturb
from .encoders import resize_frames
from .pose_condition import draw_pose_condition
from .pose_estimator import PoseEstimator

Frames = NDArray[np.uint8]
Clip = Frames | Sequence[Image.Image] | PoseSequence
SCALE_RANGE, ASPECT_RANGE = (0.7, 1.3), (0.6, 1.4)


class DrivingError(ValueError):
    """No pose can be taken from what was given; the message says what to do."""


@dataclass(frozen=True)
class Perturbation:
    """Draws of the negative pose, one pair a frame: x is stretched by aspect · scale and y by scale."""

    scale: NDArray[np.float64]
    aspect: NDArray[np.float64]

    @classmethod
    def draw(cls, num_frames: int, generator: torch.Generator | None) -> "Perturbation":
        """Independent draws for every frame, scale from U(0.7, 1.3) and aspect from U(0.6, 1.4), as released."""
        device = generator.device if generator is not None else "cpu"
        uniform = torch.rand(num_frames, 2, generator=generator, device=device, dtype=torch.float64).cpu().numpy()
        low, high = np.transpose([SCALE_RANGE, ASPECT_RANGE])
        scale, aspect = (low + (high - low) * uniform).T
        return cls(scale, aspect)


def driven_pose(driving: Frames, image: Frames, estimator: PoseEstimator) -> PoseSequence:
    """The main person's motion in `driving` [F, H, W, 3], with the limb lengths and place of the person in `image`.

    Raises:
        DrivingError: nobody is found in the image, or in the first frame, which the alignment starts from.
    """
    reference, motion = estimator.estimate(image[None]), estimator.estimate(driving)
    for tracks, where in ((reference, "the reference image"), (motion, "the first frame of the driving video")):
        if not tracks or not tracks[0].pose.body_visible[0].any():
            raise DrivingError(
                f"{estimator.name} finds nobody in {where}: choose another one, with one person in full view."
            )
    driving_aspect, image_aspect = (frames.shape[-2] / frames.shape[-3] for frames in (driving, image))
    return align_to_reference(motion[0].pose, reference[0].pose, driving_aspect, image_aspect)


def as_frame(image: Frames | Image.Image) -> Frames:
    """A picture as uint8 RGB [H, W, 3]."""
    return np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image


def first_frames(clip: Clip, num_frames: int) -> Any:
    """The first frames of a clip: a PoseSequence, or uint8 [F, H, W, 3]. Raises ValueError if it has not so many."""
    if len(clip) < num_frames:
        raise ValueError(f"The motion has {len(clip)} frames and num_frames asks for {num_frames}.")
    clip = clip[:num_frames]
    return clip if isinstance(clip, PoseSequence | np.ndarray) else np.stack([as_frame(frame) for frame in clip])


def draw_motion(motion: PoseSequence | Frames, image: Frames) -> Frames:
    """Pose frames [F, H, W, 3] at the size of the reference image [H, W, 3], as the release prepares them."""
    height, width = image.shape[:2]
    if isinstance(motion, PoseSequence):
        return draw_pose_condition(motion, height, width)
    return resize_frames(motion, height, width)


def draw_negative_motion(motion: PoseSequence | Frames, perturbation: Perturbation, image: Frames) -> Frames:
    """The negative pose clip: keypoints perturbed as released, or a drawing stretched alike."""
    if isinstance(motion, PoseSequence):
        return draw_motion(perturb(motion, perturbation.scale, perturbation.aspect), image)
    return draw_motion(stretch_drawing(motion, perturbation), image)


def stretch_drawing(frames: Frames, perturbation: Perturbation) -> Frames:
    """The negative pose clip where only drawings are known: each is stretched about the middle of what is drawn in it.

    The strokes are stretched too, which keypoints would avoid. A black frame stays black.
    """
    stretched = np.zeros_like(frames)
    for index, (frame, scale, aspect) in enumerate(zip(frames, perturbation.scale, perturbation.aspect, strict=True)):
        drawn = np.argwhere(frame.any(axis=-1))
        if len(drawn):
            middle = (drawn.min(axis=0) + drawn.max(axis=0))[::-1] / 2
            stretch = np.diag([aspect * scale, scale])
            matrix = np.concatenate([stretch, (middle - stretch @ middle)[:, None]], axis=1)
            stretched[index] = cv2.warpAffine(frame, matrix, frame.shape[1::-1], flags=cv2.INTER_LINEAR)
    return stretched
