"""Measure one pair of the miniature X-Dance on its coded videos, beside the same measures of the truth.

The truth through the autoencoder and the codec of the renders is the ceiling of every number.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...datasets.arrays import Floats64, Frames
from ...datasets.images import read_image
from ...datasets.supplied_poses import load_supplied_pose
from ...datasets.toydance import load_masks
from ...datasets.video import decode, encode, frame_times_s
from ...models.encoders import decode_latents, encode_video, resize_image
from ...models.metrics import BODY_14, LIMBS, MAX_PSNR_DB, box_pck, first_frame_psnr, masked_psnr, pixel_jump, psnr
from ...models.pose.estimator import PoseEstimator
from .appearance import appearance

FPS = 16
Track = tuple[Floats64, np.ndarray]  # joints [F, 18, 2] in pixels, bool [F, 18]


@dataclass(frozen=True)
class PairFiles:
    """The files of a pair.

    Args:
        image: the reference picture.
        truth: the reference dancer in the right dance, with keypoints and silhouettes beside it.
        wrong: the same in another dancer's dance.
        render: of stage 3 with the right pose.
        wrong_render: of stage 3 with the other dancer's pose.
        control: with the right pose, by stage 2 trained on for as long; None leaves its jump out.
    """

    image: Path
    truth: Path
    wrong: Path
    render: Path
    wrong_render: Path
    control: Path | None = None


def measure_pair(files: PairFiles, vae: Any, estimator: PoseEstimator, **coding: Any) -> dict[str, Any]:
    """Measure a pair; values that are not measured are NaN.

    Args:
        files: the files of the pair.
        vae: the autoencoder of the renders.
        estimator: finds the joints in the renders.
        coding: `crf` and `chroma` of the renders, for the ceilings.

    Returns:
        metric → value. `appearance`, `appearance_reference` and `appearance_ceiling` are colours [9, 3].
    """
    render = read_frames(files.render)
    count, height, width = render.shape[:3]
    wrong_render = read_frames(files.wrong_render, count)
    truth, wrong = (read_frames(path, count, (height, width)) for path in (files.truth, files.wrong))
    driven, other = (true_joints(path, count, (height, width)) for path in (files.truth, files.wrong))
    own, union = silhouettes(files.truth, files.wrong, count, (height, width))
    reference = resize_image(read_image(files.image).pixels, height, width)
    ceiling, wrong_ceiling, first_ceiling = (
        round_trip(vae, frames, **coding) for frames in (truth, wrong, reference[None])
    )
    found, found_ceiling = (find_joints(estimator, frames) for frames in (render, ceiling))
    seen = find_joints(estimator, reference[None])
    right_db, wrong_db = (masked_psnr(frames, truth, union) for frames in (render, wrong_render))
    ceiling_db, wrong_ceiling_db = (masked_psnr(frames, truth, union) for frames in (ceiling, wrong_ceiling))
    frozen: Track = (np.repeat(found[0][:1], count, axis=0), np.repeat(found[1][:1], count, axis=0))
    return {
        "right_minus_wrong_pose_psnr_db": right_db - wrong_db,
        "right_minus_wrong_ceiling_db": ceiling_db - wrong_ceiling_db,
        "right_pose_psnr_db": right_db,
        "wrong_pose_psnr_db": wrong_db,
        "wrong_pose_own_truth_psnr_db": masked_psnr(wrong_render, wrong, union),
        "right_pose_ceiling_psnr_db": ceiling_db,
        "pck_0_1": box_pck(*driven, *found, BODY_14),
        "pck_0_1_limbs": box_pck(*driven, *found, LIMBS),
        "pck_0_1_limbs_wrong_pose": box_pck(*other, *found, LIMBS),
        "pck_0_1_wrong_pose": box_pck(*other, *found, BODY_14),
        "pck_0_1_frozen": box_pck(*driven, *frozen, BODY_14),
        "pck_0_1_limbs_frozen": box_pck(*driven, *frozen, LIMBS),
        "pck_0_1_ceiling": box_pck(*driven, *found_ceiling, BODY_14),
        "pck_0_1_limbs_ceiling": box_pck(*driven, *found_ceiling, LIMBS),
        "first_frame_psnr_db": min(first_frame_psnr(render, reference), MAX_PSNR_DB),
        "autoencoder_first_frame_psnr_db": min(first_frame_psnr(first_ceiling, reference), MAX_PSNR_DB),
        "autoencoder_psnr_db": psnr(ceiling, truth),
        "autoencoder_person_psnr_db": masked_psnr(ceiling, truth, own, first_frame=0),
        "psnr_db": psnr(render, truth),
        "jump_stage3": pixel_jump(render),
        "jump_stage2": np.nan if files.control is None else pixel_jump(read_frames(files.control, count)),
        "jump_ceiling": pixel_jump(ceiling),
        "appearance": appearance(render[1:], found[0][1:], found[1][1:]),
        "appearance_reference": appearance(reference[None], *seen),
        "appearance_ceiling": appearance(ceiling[1:], found_ceiling[0][1:], found_ceiling[1][1:]),
    }


def read_frames(path: Path, count: int | None = None, size: tuple[int, int] | None = None) -> Frames:
    """Read the first `count` frames of a video, shrunk by the decoder to `size` (height, width).

    Raises:
        ValueError: the video has fewer frames.
    """
    times_s = frame_times_s(path)[:count]
    if count is not None and len(times_s) < count:
        raise ValueError(f"{path} has {len(times_s)} frames, but {count} are compared")
    return decode(path, times_s, *(size or (None, None)))


def true_joints(path: Path, count: int, size: tuple[int, int]) -> Track:
    """Read the exact joints of the dancer in a video, in pixels of a picture of `size`."""
    supplied = load_supplied_pose(path)
    if supplied is None:
        raise ValueError(f"{path} has no keypoints beside it")
    pose = supplied[0][0][:count]
    return pose.body * np.array(size[::-1], np.float64), pose.body_visible


def find_joints(estimator: PoseEstimator, frames: Frames) -> Track:
    """Find the joints of the main person, in pixels; nothing is visible if no person is found."""
    tracks = estimator.estimate(frames)
    if not tracks:
        return np.zeros((len(frames), 18, 2)), np.zeros((len(frames), 18), bool)
    pose = tracks[0].pose
    return pose.body * np.array(frames.shape[2:0:-1], np.float64), pose.body_visible


def silhouettes(truth: Path, wrong: Path, count: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Read the silhouettes [F, H, W] of the dancer of the truth, and of both dances together."""
    own, other = (load_masks(path)[:count] for path in (truth, wrong))
    return _shrunk(own, size), _shrunk(own | other, size)


def _shrunk(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize silhouettes: a pixel counts if at least half of it is covered."""
    shares = [cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) for mask in masks]
    return np.stack(shares) >= 0.5


def round_trip(vae: Any, frames: Frames, **coding: Any) -> Frames:
    """Encode and decode frames by the autoencoder, then by the codec of the renders."""
    decoded = decode_latents(vae, encode_video(vae, frames))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coded.mp4"
        encode(decoded, path, FPS, **coding)
        return read_frames(path, len(frames))
