"""Inputs of the pipeline, checked and prepared: image, size and motion."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from .. import SteadyDancerError
from ..datasets.arrays import Frames
from ..datasets.driving_poses import (
    MIN_FRAMES,
    DrivingPoses,
    NoStartError,
    decode_driving,
    driving_poses,
    driving_times_s,
)
from ..datasets.images import ImageError, convert_image
from ..datasets.skeleton import PoseSequence
from ..datasets.video import VideoError, frame_times_s, probe, size_for_area
from .pose.estimator import PoseEstimator
from .pose.track import PoseTrack
from .pose_condition import RELEASED_DRAWING_AREA_PX, draw_pose_condition, released_aspect, resize_frames

_log = logging.getLogger(__name__)

People = list[PoseSequence]
Clip = Frames | Sequence[Image.Image] | PoseSequence | People
DrivingVideo = Frames | Sequence[Image.Image] | str | os.PathLike[str]
OnMissingReference = Literal["keep", "raise"]
Motion = TypeVar("Motion", People, Frames)
MIN_SIDE_PX = 32


class InputError(SteadyDancerError, ValueError):
    """An input that cannot be used. The message states what was given, what was expected and what to do."""


class DrivingError(InputError):
    """A driving video or image without a usable pose. The message states what to do."""


def as_frame(image: Any, name: str = "the image") -> Frames:
    """Convert a picture, PIL or array, to uint8 RGB [H, W, 3].

    A PIL image is converted as viewers show it (`datasets.images`).

    Raises:
        InputError: `image` is of another kind, or cannot be decoded.
    """
    if isinstance(image, Image.Image):
        try:
            return convert_image(image, name).pixels
        except (ImageError, OSError, ValueError) as error:
            raise InputError(str(error)) from error
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    what = f"{image.dtype} {list(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
    raise InputError(f"{name} must be a PIL image or uint8 RGB [H, W, 3], not {what}: convert it before the call.")


def as_reference(image: Any) -> Frames:
    """Convert the reference image to uint8 RGB [H, W, 3].

    Raises:
        InputError: it is not a picture, or smaller than 32 px on a side.
    """
    frame = as_frame(image)
    height, width = frame.shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        raise InputError(
            f"The image is {width}×{height} px, but the minimum is {MIN_SIDE_PX}×{MIN_SIDE_PX}: pass a larger image "
            "(the released model works at about 1024×576)."
        )
    return frame


def video_size(image: Frames, height: int | None, width: int | None, max_area_px: int) -> tuple[int, int]:
    """Return height and width of the video: as given, otherwise by the release's size rule.

    Raises:
        InputError: height and width are not multiples of 16, only one is given, or `max_area_px` is too small.
    """
    if height is None and width is None:
        if max_area_px > 0:
            height, width = size_for_area(image.shape[0], image.shape[1], max_area_px)
        if not height or not width:
            raise InputError(
                f"max_area_px {max_area_px} is too small for a video with the aspect ratio of the image "
                f"({image.shape[1]}×{image.shape[0]}) and sides of at least 16 px: use a larger area "
                "(default: 589824), or crop the image."
            )
    elif height is None or width is None or height <= 0 or width <= 0 or height % 16 or width % 16:
        raise InputError(
            f"height and width must be passed together, as multiples of 16, not {height} and {width}: "
            "omit both to use the image's aspect ratio."
        )
    return height, width


def prepare_motion(
    image: Frames,
    pose_video: Clip | None,
    driving_video: DrivingVideo | None,
    pose_estimator: PoseEstimator | None,
    num_frames: int | None,
    *,
    driving_fps: float | None = None,
    main_person_only: bool = False,
    on_missing_reference: OnMissingReference = "keep",
) -> tuple[Any, DrivingPoses | None]:
    """Return the motion of a call, and how it was aligned.

    `pose_video` is used as it is; its alignment is None. The poses of `driving_video` are estimated and aligned to the
    image. Frames are passed to the estimator as they are; a file is read as the render job reads it (`decode_driving`).

    Raises:
        InputError: neither or both videos are given, there is no estimator, or the video is unreadable or too short.
        DrivingError: as `align_driving_pose`.
    """
    if (driving_video is None) == (pose_video is None):
        raise InputError(
            f"Pass either pose_video or driving_video, not {'neither' if driving_video is None else 'both'}."
        )
    is_file = isinstance(driving_video, (str, os.PathLike))
    if driving_fps is not None and not is_file:
        raise InputError("driving_fps requires driving_video to be a file: resample frames before the call.")
    if driving_video is None:
        return as_motion(pose_video, num_frames), None
    if pose_estimator is None:
        raise InputError("driving_video requires a pose_estimator, such as open_pose_estimator('dwpose').")
    frames, aspect = _read_driving(driving_video, num_frames, driving_fps) if is_file else (driving_video, None)
    frames = as_motion(frames, num_frames)
    driven = align_driving_pose(
        pose_estimator.estimate(frames),
        pose_estimator.estimate(image[None]),
        aspect or frames.shape[2] / frames.shape[1],
        image,
        main_person_only=main_person_only,
        on_missing_reference=on_missing_reference,
        estimator_name=pose_estimator.name,
    )
    for note in driven.notes():
        _log.warning("%s", note)
    return driven.people, driven


def align_driving_pose(
    driving: Sequence[PoseTrack],
    reference: Sequence[PoseTrack],
    driving_aspect: float,
    image: Frames,
    *,
    main_person_only: bool = False,
    on_missing_reference: OnMissingReference = "keep",
    estimator_name: str = "the pose estimator",
) -> DrivingPoses:
    """Give the people of a driving video the limb lengths and the place of the person in the image.

    Both `steadydancer render` and `SteadyDancerPipeline` use this rule. See `datasets.driving_poses` for the choice of
    the main person and of the frame in which the alignment is measured.

    Args:
        driving: all people found in the driving video, the main person first.
        reference: all people found in the image; only the first one is used.
        driving_aspect: width / height of the driving video.
        image: [H, W, 3].
        main_person_only: drop the other people, as the release does.
        on_missing_reference: if the image shows no neck and limb to align to, "keep" the pose of the driving video
            unchanged, or "raise".
        estimator_name: source of the keypoints, for messages.

    Raises:
        DrivingError: no person is found in the driving video, or none with enough joints to measure the alignment; or
            the image shows no person to align to and `on_missing_reference` is "raise".
    """
    remedy = "choose one with a single person in full view"
    if not any(track.pose.body_visible.any() for track in driving):
        raise DrivingError(f"{estimator_name} found no person in the driving video: {remedy}.")
    try:
        driven = driving_poses(
            [track.pose for track in driving],
            reference[0].pose if reference else None,
            driving_aspect,
            released_aspect(*image.shape[:2]),
            main_person_only,
        )
    except NoStartError as error:
        raise DrivingError(
            f"The driving video cannot be aligned with the keypoints of {estimator_name}: {error}."
        ) from error
    if not driven.aligned and on_missing_reference == "raise":
        raise DrivingError(
            f"{estimator_name} found no person with a measurable neck and limb in the reference image: {remedy}, or "
            'pass on_missing_reference="keep" to use the driving pose unchanged.'
        )
    return driven


def _read_driving(path: Any, num_frames: int | None, fps: float | None) -> tuple[Frames, float]:
    """Read the frames of a driving file, and the aspect (width / height) of its own pictures."""
    try:
        info = probe(path)
        times_s = driving_times_s(frame_times_s(path), num_frames, fps)
        if len(times_s) < (needed := num_frames or MIN_FRAMES):
            raise InputError(f"driving_video {Path(path).name} has {len(times_s)} frames, but {needed} are needed.")
        return decode_driving(path, times_s), info.width / info.height
    except VideoError as error:
        raise InputError(f"driving_video {Path(path).name} cannot be read ({error.reason}): {error.detail}") from error


def as_motion(clip: Any, num_frames: int | None) -> Any:
    """Convert a clip to `People` or to uint8 frames [F, H, W, 3], and cut it to its first `num_frames` frames.

    `num_frames` None takes as many as possible of 4k + 1.

    Raises:
        InputError: `clip` has fewer than `num_frames` frames, or is not a clip.
    """
    if isinstance(clip, PoseSequence):
        clip = [clip]
    people: People = [person for person in clip if isinstance(person, PoseSequence)]
    if people and len(people) < len(clip):
        raise InputError(f"A clip must hold keypoints or frames, not both: {len(people)} of {len(clip)} are keypoints.")
    lengths = {len(person) for person in people} or {len(clip)}
    if len(lengths) > 1:
        raise InputError(f"All people of a clip must have the same number of frames, not {sorted(lengths)}.")
    (length,) = lengths
    if length == 0:
        raise InputError("The motion is empty: pass frames or keypoints.")
    if num_frames is None:
        num_frames = (length - 1) // 4 * 4 + 1
    if length < num_frames:
        raise InputError(
            f"The motion has {length} frames and num_frames is {num_frames}: pass a longer motion, or num_frames="
            f"{(length - 1) // 4 * 4 + 1} (None uses as many frames as possible)."
        )
    if people:
        return [person[:num_frames] for person in people]
    frames = [as_frame(frame, "each frame of the motion") for frame in clip[:num_frames]]
    if isinstance(clip, np.ndarray):
        return clip[:num_frames]
    if len({frame.shape for frame in frames}) > 1:
        sizes = sorted({f"{width}×{height}" for height, width, _ in (frame.shape for frame in frames)})
        raise InputError(f"All frames of the motion must have the same size, not {', '.join(sizes)}.")
    return np.stack(frames)


def num_frames_of(motion: Any) -> int:
    """Return the number of frames of a motion from `as_motion`."""
    return len(motion) if isinstance(motion, np.ndarray) else len(motion[0])


def frames_of(motion: Motion, frames: Sequence[int]) -> Motion:
    """Select frames of a motion."""
    if isinstance(motion, np.ndarray):
        return motion[frames]
    return [person[np.asarray(frames)] for person in motion]


def draw_motion(motion: Any, image: Frames, drawing_area_px: int = RELEASED_DRAWING_AREA_PX) -> Frames:
    """Draw pose frames [F, H, W, 3] at the size of the reference image [H, W, 3], as the release prepares them."""
    height, width = image.shape[:2]
    if isinstance(motion, np.ndarray):
        return resize_frames(motion, height, width)
    return draw_pose_condition(motion, height, width, drawing_area_px)
