"""The poses of a comparison: those that a render was asked to follow, those that it shows, and the reference's.

All come from the same estimator on pictures with an equal longer side. The driven pose is aligned to the reference as
`render` aligns it. The driving clip is also compared with its own coded copy, which gives the estimator's limit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.arrays import Floats64, Frames, Integers
from ...datasets.driving_poses import POSE_SIDE_PX
from ...datasets.local_copies import local_copy
from ...datasets.sidecars import KEYPOINTS, sidecar
from ...datasets.skeleton import PoseSequence
from ...datasets.storage import StorageError
from ...datasets.supplied_poses import SUPPLIED
from ...datasets.video import VideoError, frame_times_s, probe
from ...models.metrics import people_metrics
from ...models.pipeline_inputs import DrivingError, align_driving_pose
from ...models.pose.estimator import REQUIRED_WEIGHTS
from ...models.pose.track import PoseTrack
from ...models.weights import lookup
from ..common.poses import find_poses
from ..runtime.stage import BadClip
from .driving import driven_times, sized, unreadable
from .judges import Judges
from .protocols import Codec
from .scores import NotMeasured
from .video import Rendered, Video, shrunk, through_codec


@dataclass(frozen=True)
class Clip:
    """The poses of a driving clip, in shares of its own picture.

    Args:
        tracks: its people, the main one first.
        aspect: width / height of its picture.
        ceiling: `pose_metrics` of the clip against its own coded copy; None for supplied keypoints.
    """

    tracks: list[PoseTrack]
    aspect: float
    ceiling: dict[str, Any] | None


@dataclass(frozen=True)
class Driven:
    """The poses that a render was asked to follow, in shares of the render's picture.

    Args:
        people: at least one person, the main one first; F frames each.
        clip: the driving clip.
        source: estimator, or `supplied`.
        note: how they were had.
    """

    people: list[PoseSequence]
    clip: Clip
    source: str
    note: str

    @property
    def is_measurable(self) -> bool:
        """Whether the estimator sees the clip's motion: supplied keypoints always do."""
        ceiling = self.clip.ceiling
        return ceiling is None or ceiling["velocity_correlation"] >= 0.5


def estimator_name(video: Video, pose_model: str) -> str:
    """Return the source of all keypoints of a comparison: `supplied`, or the name of an estimator.

    `auto` is `supplied` if the render and its driving clip both have keypoints beside them, else the estimator of the
    render if its weights are here, else the best whose weights are.
    """
    if pose_model != "auto":
        return pose_model
    driving = video.row["driving"] or video.row["truth"]
    if _has_keypoints(video.row["video"]) and driving and _has_keypoints(driving):
        return SUPPLIED
    rendered_by = str(video.row["pose_model"])
    parts = REQUIRED_WEIGHTS.get(rendered_by)
    return rendered_by if parts and all(lookup.find(lookup.weight(part)) for part in parts) else "auto"


def source_name(name: str, judges: Judges) -> str:
    """Return `supplied`, or the name of the estimator that was used: `auto` says nothing about a number."""
    return name if name == SUPPLIED else str(judges.estimator(name).name)


def rendered_people(video: Video, name: str, judges: Judges) -> list[PoseSequence]:
    """Return the people that a render shows, in shares of its picture; empty if there are none."""
    times_s = video.times_s[video.positions]
    return [track.pose for track in _find(Path(video.row["video"]), times_s, video.frames, name, judges)]


def reference_people(video: Video, name: str, judges: Judges) -> list[PoseTrack]:
    """Return the people of the reference picture.

    Raises:
        NotMeasured: there is no reference picture.
    """
    frame = video.image[None]
    path = Path(video.row["image"] or video.row["video"])
    return video.once(f"reference {name}", lambda: _find(path, np.zeros(1), frame, name, judges))


def driven_people(video: Video, name: str, judges: Judges) -> Driven:
    """Return what a render was asked to follow: the driving video's motion, or without one the truth's.

    Raises:
        NotMeasured: there is neither, it cannot be read, or it shows no person.
    """
    if video.row["driving"]:
        clip, positions, notes = _driving_clip(video, name, judges)
        people, aligned = _aligned(video, clip, name, judges)
        people = [person[positions] for person in people]
        note = "; ".join(filter(None, [*notes, aligned]))
    elif video.row["truth"]:
        clip = _truth_clip(video, name, judges)
        people, note = _seen(clip.tracks), "the driven pose is that of the ground truth"
    else:
        raise NotMeasured("no_driving", "neither a driving video nor a ground truth was given")
    if not people:
        raise NotMeasured("no_pose", "no person is found in the driving video")
    return Driven(people, clip, name, note)


def _driving_clip(video: Video, name: str, judges: Judges) -> tuple[Clip, Integers, list[str]]:
    """Return the clip of the driven frames, the positions of the scored ones among them, and remarks."""
    row, rendered = video.row, video.rendered
    longest_px = min(POSE_SIDE_PX, max(video.size))
    try:
        with local_copy(row["driving"]) as path:
            times_s, positions, notes = driven_times(video, frame_times_s(path))
            if not len(positions):
                raise NotMeasured("too_short", "the driving video ends before the first scored frame")
            key = (row["driving"], name, longest_px, tuple(np.round(times_s, 4)), rendered.crf, rendered.chroma)
            clip = judges.remember(key, lambda: _read_clip(path, times_s, longest_px, rendered, name, judges))
    except (VideoError, StorageError, OSError) as error:
        raise unreadable(row["driving"], error) from error
    return clip, positions, notes


def _read_clip(path: Path, times_s: Floats64, longest_px: int, rendered: Rendered, name: str, judges: Judges) -> Clip:
    info = probe(path)
    frames = sized(path, info, times_s, longest_px)
    return _clip(path, times_s, frames, info.width / info.height, rendered, name, judges)


def _truth_clip(video: Video, name: str, judges: Judges) -> Clip:
    pair = video.pair
    aspect = video.size[1] / video.size[0]
    return _clip(Path(video.row["truth"]), pair.truth_times_s, pair.truth, aspect, video.rendered, name, judges)


def _clip(
    path: Path, times_s: Floats64, frames: Frames, aspect: float, rendered: Rendered, name: str, judges: Judges
) -> Clip:
    tracks = _find(path, times_s, frames, name, judges)
    ceiling = None
    if name != SUPPLIED and tracks:
        coded = through_codec(
            shrunk(frames, POSE_SIDE_PX), rendered.fps, Codec(crf=rendered.crf, chroma=rendered.chroma)
        )
        again = [track.pose for track in _find(path, times_s, coded, name, judges)]
        height, width = frames.shape[1:3]
        ceiling = compare_people([tracks[0].pose], again, width, height)["people"][0]
    return Clip(tracks, aspect, ceiling)


def _aligned(video: Video, clip: Clip, name: str, judges: Judges) -> tuple[list[PoseSequence], str]:
    """Return the clip's people as `render` aligns them, or unchanged, and which of the two."""
    row = video.row
    # Of a video without a record, only a pair of different people is aligned: its driving clip is no truth.
    wants = row["aligned"] is not False if video.rendered.has_record else bool(row["image"]) and not row["truth"]
    if not wants or not _seen(clip.tracks):
        return _seen(clip.tracks), "the driven pose is not aligned to the reference"
    try:
        driven = align_driving_pose(
            clip.tracks,
            reference_people(video, name, judges),
            clip.aspect,
            video.image,
            main_person_only=video.rendered.main_person_only,
            estimator_name=name,
        )
    except DrivingError as error:
        raise NotMeasured("no_pose", str(error)) from error
    return driven.people, "" if driven.aligned else "no person to align to is found in the reference image"


def compare_people(
    driven: Sequence[PoseSequence], render: Sequence[PoseSequence], width: int, height: int
) -> dict[str, Any]:
    """Return `people_metrics` of poses in shares of a picture of this size, and `tracks`, the rendered ones."""
    count = len(driven[0])
    size = np.array([width, height], np.float64)
    tracks = [pose[np.arange(count)] for pose in render if pose.body_visible.any()]

    def stacked(poses: Sequence[PoseSequence]) -> tuple[Floats64, Any]:
        if not poses:
            return np.zeros((0, count, 18, 2)), np.zeros((0, count, 18), bool)
        return np.stack([pose.body for pose in poses]) * size, np.stack([pose.body_visible for pose in poses])

    return people_metrics(*stacked(driven), *stacked(tracks), width, height) | {"tracks": tracks}


def _find(path: Path, times_s: Floats64, frames: Frames, name: str, judges: Judges) -> list[PoseTrack]:
    """Find the people in frames, or beside the file at `path`."""
    estimator, model = None, SUPPLIED
    if name != SUPPLIED:
        estimator = judges.estimator(name)
        if estimator is None:
            raise NotMeasured("weights_missing", "no pose estimator is here: see `steadydancer weights check`")
        model = estimator.name
    try:
        source, _, tracks = find_poses(path, times_s, lambda: shrunk(frames, POSE_SIDE_PX), model, estimator)
    except BadClip as bad:
        raise NotMeasured(bad.reason, bad.detail) from bad
    if source is None:
        raise NotMeasured("no_keypoints", f"{path.name} has no keypoints beside it")
    return tracks


def _seen(tracks: Sequence[PoseTrack]) -> list[PoseSequence]:
    return [track.pose for track in tracks if track.pose.body_visible.any()]


def _has_keypoints(file: str) -> bool:
    try:
        with local_copy(file) as path:
            return sidecar(path, KEYPOINTS) is not None
    except OSError:  # a store that cannot be reached is the reason of a null later
        return False
