"""From a driving video to the pose clips of a render: found, aligned, drawn, and perturbed for the guidance."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..datasets.driving_poses import DrivingPoses, NoStartError, driving_poses
from ..datasets.skeleton import PoseSequence, perturb
from .call_checks import InputError, as_frame
from .encoders import resize_frames
from .pose_condition import RELEASED_DRAWING_AREA_PX, draw_pose_condition, released_aspect
from .pose_estimator import PoseEstimator

_log = logging.getLogger(__name__)

Frames = NDArray[np.uint8]
People = list[PoseSequence]
Clip = Frames | Sequence[Image.Image] | PoseSequence | People
SCALE_RANGE, ASPECT_RANGE, SHIFT_RANGE = (0.7, 1.3), (0.6, 1.4), (-0.2, 0.2)
Motion = TypeVar("Motion", People, Frames)


class DrivingError(InputError):
    """No pose can be taken from what was given; the message says what to do."""


@dataclass(frozen=True)
class Perturbation:
    """Draws of the negative pose for each frame: x is stretched by aspect · scale and y by scale.

    `shift` [F, 2], in widths and heights of the picture, moves the pose as well; None, as released, does not.
    """

    scale: NDArray[np.float64]
    aspect: NDArray[np.float64]
    shift: NDArray[np.float64] | None = None

    def __getitem__(self, frames: Sequence[int]) -> Perturbation:
        """The draws of some frames."""
        shift = None if self.shift is None else self.shift[frames]
        return Perturbation(self.scale[frames], self.aspect[frames], shift)

    @classmethod
    def draw(cls, num_frames: int, generator: torch.Generator | None, has_shift: bool = False) -> Perturbation:
        """Independent draws for every frame, scale from U(0.7, 1.3) and aspect from U(0.6, 1.4), as released.

        `has_shift`, as printed: a shift from U(−0.2, 0.2) in x and y too (the release draws it and does not use it). It
        is drawn last, so that the same generator gives the same scale and aspect with it and without.
        """

        def uniform(*ranges: tuple[float, float]) -> NDArray[np.float64]:
            device = generator.device if generator is not None else "cpu"
            drawn = torch.rand(num_frames, len(ranges), generator=generator, device=device, dtype=torch.float64)
            low, high = np.transpose(ranges)
            return low + (high - low) * drawn.cpu().numpy()

        scale, aspect = uniform(SCALE_RANGE, ASPECT_RANGE).T
        return cls(scale, aspect, uniform(SHIFT_RANGE, SHIFT_RANGE) if has_shift else None)


def driven_pose(driving: Frames, image: Frames, estimator: PoseEstimator, main_person_only: bool = False) -> People:
    """The people of `driven_poses`, the main one first."""
    return driven_poses(driving, image, estimator, main_person_only).people


def driven_poses(
    driving: Frames, image: Frames, estimator: PoseEstimator, main_person_only: bool = False
) -> DrivingPoses:
    """The motion in `driving` [F, H, W, 3] with the main person's limb lengths and place taken from `image`.

    Everybody whom the estimator follows through the clip, see `datasets.driving_poses`: who leads, and from which frame
    on. `main_person_only` leaves the others out, as the release does. What is not as one would suppose is logged.

    Raises:
        DrivingError: nobody is found in the image or in the driving video, or nobody of whom the alignment could
            measure enough.
    """
    reference, motion = estimator.estimate(image[None]), estimator.estimate(driving)
    for tracks, where in ((reference, "the reference image"), (motion, "the driving video")):
        if not any(track.pose.body_visible.any() for track in tracks):
            raise DrivingError(
                f"{estimator.name} finds nobody in {where}: choose another one, with one person in full view."
            )
    try:
        driven = driving_poses(
            [track.pose for track in motion],
            reference[0].pose,
            driving.shape[2] / driving.shape[1],
            released_aspect(*image.shape[:2]),
            main_person_only,
        )
    except NoStartError as error:
        raise DrivingError(f"The driving video cannot be followed with {estimator.name}: {error}.") from error
    for note in driven.notes():
        _log.warning("%s", note)
    return driven


def given_motion(
    pose_video: Clip | None,
    driving_video: Frames | Sequence[Image.Image] | None,
    pose_estimator: PoseEstimator | None,
    main_person_only: bool,
    num_frames: int | None,
    image: Frames,
) -> tuple[Any, DrivingPoses | None]:
    """The motion of a call: `pose_video` as it is, or what `driven_poses` makes of `driving_video`, which stands beside
    it then; `num_frames` as `as_motion`.

    Raises:
        InputError: none or both are given, or a video that nobody can look at.
    """
    if driving_video is None and pose_video is not None:
        return as_motion(pose_video, num_frames), None
    if driving_video is None or pose_video is not None:
        raise InputError(
            f"Give either pose_video or driving_video, not {'neither' if driving_video is None else 'both'}."
        )
    if pose_estimator is None:
        raise InputError("driving_video needs a pose_estimator, as from open_pose_estimator('dwpose').")
    driven = driven_poses(as_motion(driving_video, num_frames), image, pose_estimator, main_person_only)
    return driven.people, driven


def as_motion(clip: Any, num_frames: int | None) -> Any:
    """The first `num_frames` frames of a clip, None: all that make 4k + 1, as `People` or as uint8 [F, H, W, 3].

    Raises:
        InputError: it has not so many, or is no clip.
    """
    if isinstance(clip, PoseSequence):
        clip = [clip]
    people: People = [person for person in clip if isinstance(person, PoseSequence)]
    lengths = {len(person) for person in people} or {len(clip)}
    if len(lengths) > 1:
        raise InputError(f"All people of a clip must have as many frames as the first, not {sorted(lengths)}.")
    (length,) = lengths
    if length == 0:
        raise InputError("The motion is empty: give frames or keypoints.")
    if num_frames is None:
        num_frames = (length - 1) // 4 * 4 + 1
    if length < num_frames:
        raise InputError(
            f"The motion has {length} frames and num_frames asks for {num_frames}: give a longer one, or num_frames="
            f"{(length - 1) // 4 * 4 + 1} (None takes what there is)."
        )
    if people:
        return [person[:num_frames] for person in people]
    frames = [as_frame(frame, "each frame of the motion") for frame in clip[:num_frames]]
    return clip[:num_frames] if isinstance(clip, np.ndarray) else np.stack(frames)


def num_frames_of(motion: Any) -> int:
    """Frames of a motion from `as_motion`."""
    return len(motion) if isinstance(motion, np.ndarray) else len(motion[0])


def frames_of(motion: Motion, frames: Sequence[int]) -> Motion:
    """Some frames of a motion."""
    if isinstance(motion, np.ndarray):
        return motion[frames]
    return [person[np.asarray(frames)] for person in motion]


def draw_motion(motion: Any, image: Frames, drawing_area_px: int = RELEASED_DRAWING_AREA_PX) -> Frames:
    """Pose frames [F, H, W, 3] at the size of the reference image [H, W, 3], as the release prepares them."""
    height, width = image.shape[:2]
    if isinstance(motion, np.ndarray):
        return resize_frames(motion, height, width)
    return draw_pose_condition(motion, height, width, drawing_area_px)


def negative_motion(motion: Motion, perturbation: Perturbation) -> Motion:
    """Perturb each person's keypoints about the own neck, or stretch a drawing: the negative pose."""
    if isinstance(motion, np.ndarray):
        return stretch_drawing(motion, perturbation)
    return [perturb(person, perturbation.scale, perturbation.aspect, perturbation.shift) for person in motion]


def stretch_drawing(frames: Frames, perturbation: Perturbation) -> Frames:
    """The negative pose clip where only drawings are known: each is stretched about the middle of what is drawn in it.

    The strokes are stretched too, which keypoints would avoid. A black frame stays black.
    """
    stretched = np.zeros_like(frames)
    shifts = np.zeros((len(frames), 2)) if perturbation.shift is None else perturbation.shift
    shifts = shifts * frames.shape[2:0:-1]  # widths and heights in pixels
    draws = zip(frames, perturbation.scale, perturbation.aspect, shifts, strict=True)
    for index, (frame, scale, aspect, shift) in enumerate(draws):
        drawn = np.argwhere(frame.any(axis=-1))
        if len(drawn):
            middle = (drawn.min(axis=0) + drawn.max(axis=0))[::-1] / 2
            stretch = np.diag([aspect * scale, scale])
            matrix = np.concatenate([stretch, (middle + shift - stretch @ middle)[:, None]], axis=1)
            stretched[index] = cv2.warpAffine(frame, matrix, frame.shape[1::-1], flags=cv2.INTER_LINEAR)
    return stretched
