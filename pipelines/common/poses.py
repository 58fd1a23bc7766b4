"""Keypoints of a file: from its sidecar, otherwise from a pose estimator."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ...datasets.arrays import Floats64, Frames
from ...datasets.sidecars import KEYPOINTS, sidecar
from ...datasets.skeleton import PoseSequence
from ...datasets.supplied_poses import SUPPLIED, load_supplied_pose
from ...models.pose.estimator import REQUIRED_WEIGHTS, PoseEstimator, open_pose_estimator
from ...models.pose.track import PoseTrack
from ...models.weights import lookup
from ..runtime.stage import BadClip

# Estimators of human poses, the best first.
ESTIMATORS = ("dwpose", "blazepose")


def load_pose_estimator(pose_model: str, device: str = "cpu") -> PoseEstimator | None:
    """Load a pose estimator by name; `auto` selects the best one whose weights are present, `supplied` returns None.

    BlazePose runs on the CPU for either device ("cpu" or "cuda").
    """
    if pose_model == SUPPLIED:
        return None
    if pose_model != "auto":
        return open_pose_estimator(pose_model, device=device)
    for name in ESTIMATORS:
        if all(lookup.find(lookup.weight(part)) for part in REQUIRED_WEIGHTS[name]):
            return open_pose_estimator(name, device=device)
    return None


def find_poses(
    path: Path,
    times_s: Floats64,
    read_frames: Callable[[], Frames],
    pose_model: str,
    estimator: PoseEstimator | None,
    keep: Callable[[Floats64, Callable[[], list[PoseTrack]]], list[PoseTrack]] | None = None,
) -> tuple[str | None, int | None, list[PoseTrack]]:
    """Find the keypoints of the people in a video (or in an image: one frame).

    Args:
        path: the file; a sidecar (see `datasets/sidecars`) supplies its keypoints.
        times_s: times of the frames, from the first frame.
        read_frames: returns the frames at these times; called only if an estimator is needed.
        pose_model: `auto`, `supplied` or an estimator's name; a name ignores sidecars.
        estimator: result of `load_pose_estimator`.
        keep: called with the times and a function that makes the estimate; returns the estimate, made now or earlier.
            None: it is made now.

    Returns:
        (source of the keypoints, number of people or None if it cannot count, tracks with the main person first);
        the source is None if there is neither a sidecar nor an estimator.

    Raises:
        BadClip: the sidecar is damaged, or ends before `times_s` does.
    """
    supplied = _supplied_poses(path, times_s) if pose_model in ("auto", SUPPLIED) else None
    if supplied is not None:
        seen = [person for person in supplied if person.body_visible.any()]
        return SUPPLIED, len(seen), [PoseTrack(person, confidence=None) for person in seen]
    if estimator is None:
        return None, None, []
    estimate = partial(_estimate, estimator, read_frames)
    tracks = estimate() if keep is None else keep(times_s, estimate)
    return estimator.name, len(tracks) if estimator.counts_people else None, tracks


def _estimate(estimator: PoseEstimator, read_frames: Callable[[], Frames]) -> list[PoseTrack]:
    return estimator.estimate(read_frames())


def _supplied_poses(path: Path, times_s: Floats64) -> list[PoseSequence] | None:
    """Read poses at these times from a file's sidecar, one sequence per person; None without a sidecar."""
    try:
        supplied = load_supplied_pose(path)
    except ValueError as error:
        raise BadClip("unreadable_pose", str(error)) from error
    if supplied is None:
        return None
    persons, fps = supplied
    index = np.floor(times_s * fps + 1e-6).astype(int)
    for person in persons:
        # Allow one frame: containers round the last frame's time.
        if index.max() > len(person):
            seconds = f"{len(person) / fps:.2f} s of keypoints, frames until {times_s.max():.2f} s"
            raise BadClip("pose_too_short", f"{_name(path)}: {seconds}")
        if not np.isfinite(person.body).all():
            raise BadClip("unreadable_pose", f"{_name(path)} has keypoints that are not finite numbers")
    return [person[np.minimum(index, len(person) - 1)] for person in persons]


def _name(path: Path) -> str:
    found = sidecar(path, KEYPOINTS)
    return found.name if found else path.name
