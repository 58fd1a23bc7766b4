"""The stage `motion`: find the people of image and driving video, and align their poses to the image."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets import driving_poses, images
from ...datasets.arrays import Floats64, Frames
from ...datasets.driving_poses import MIN_FRAMES, DrivingPoses, decode_driving, driving_times_s
from ...datasets.images import Picture
from ...datasets.rules import versions
from ...datasets.schema import Row
from ...datasets.sidecars import KEYPOINTS, sidecar_note
from ...datasets.skeleton import PoseSequence
from ...datasets.storage.digests import content_digest
from ...datasets.storage.result_store import Array, Result, ResultStore
from ...datasets.supplied_poses import SUPPLIED
from ...datasets.video import VideoError, frame_times_s, probe
from ...models.pipeline_inputs import MIN_SIDE_PX, DrivingError, align_driving_pose
from ...models.pose.estimator import REQUIRED_WEIGHTS, PoseEstimator
from ...models.pose.track import PoseTrack
from ...models.weights import lookup
from ..common.poses import find_poses, load_pose_estimator
from ..runtime.local_files import on_local_copies
from ..runtime.stage import BadClip
from .config import RenderConfig
from .task import RenderTask


@dataclass(frozen=True)
class MotionTools:
    """The pose estimator of a worker, and the digests of its weights."""

    estimator: PoseEstimator | None
    weights: Mapping[str, str]


def load_motion_tools(task: RenderTask) -> MotionTools:
    """Load the pose estimator once per worker."""
    estimator = load_pose_estimator(task.config.pose_model)
    names = REQUIRED_WEIGHTS.get(estimator.name, ()) if estimator else ()
    found = {name: lookup.find(lookup.weight(name)) for name in names}
    return MotionTools(estimator, {name: content_digest(folder) for name, folder in found.items() if folder})


@on_local_copies("image", "driving")
def find_motion(row: Row, task: RenderTask, tools: MotionTools) -> Row:
    """Write the aligned poses of a pair to the work folder; estimates are kept by file, for other pairs."""
    config, store = task.config, task.store
    image, changes = read_image(Path(row["image"]))

    @cache
    def digest(name: str) -> str:
        return content_digest(row[name])

    kept = {name: partial(_kept_tracks, store, tools, partial(digest, name)) for name in ("image", "driving")}
    model, driven = driving_motion(row, image, config, tools.estimator, kept)
    value = {"record": driven.to_record(), "notes": driven.notes()}
    return {
        **row,
        **{f"{name}_digest": digest(name) for name in ("image", "driving")},
        "changes": json.dumps(list(changes)),
        "notes": json.dumps(sidecar_notes(row, config)),
        "motion": store.put_by_content("motion", pack_people(driven.people), value, map(digest, ("image", "driving"))),
        "pose_model": model,
        "aligned": driven.aligned,
        "pose_start_frame": driven.start_frame,
    }


def read_image(path: Path) -> Picture:
    """Read an image file as image viewers display it.

    Raises:
        BadClip: the file cannot be read, or a side is shorter than `MIN_SIDE_PX`.
    """
    try:
        picture = images.read_image(path)
    except images.ImageError as error:
        raise BadClip("unreadable_image", str(error)) from error
    height, width = picture.pixels.shape[:2]
    if min(height, width) < MIN_SIDE_PX:
        raise BadClip("too_small", f"{path} is {width}×{height} px, but the minimum is {MIN_SIDE_PX}×{MIN_SIDE_PX}")
    return picture


Keep = Callable[[Floats64, Callable[[], list[PoseTrack]]], list[PoseTrack]]


def driving_motion(
    row: Row,
    image: Frames,
    config: RenderConfig,
    estimator: PoseEstimator | None,
    kept: Mapping[str, Keep] | None = None,
) -> tuple[str, DrivingPoses]:
    """Return (source of the keypoints, the driving video's motion aligned to the image).

    Args:
        row: the pair, with local paths.
        image: its image.
        config: settings.
        estimator: finds people; None: supplied keypoints only.
        kept: for "image" and "driving", how an estimate of frames at these times is made or read; None: made.

    Raises:
        BadClip: the video cannot be read, is too short, or has no person complete enough for the alignment; or the
            image has no person and `on_missing_reference` is `raise`.
    """
    path, place = Path(row["driving"]), Path(row["image"])
    kept = kept or {}
    try:
        info = probe(path)
        times_s = driving_times_s(frame_times_s(path), config.num_frames, config.driving_fps)
        if len(times_s) < (asked := config.num_frames or MIN_FRAMES):
            raise BadClip("too_short", f"{path} has {len(times_s)} frames, but {asked} are needed")
        model, _, tracks = find_poses(
            path, times_s, lambda: decode_driving(path, times_s), config.pose_model, estimator, kept.get("driving")
        )
    except VideoError as error:
        raise BadClip(error.reason, f"{path}: {error.detail}") from error
    if model is None or not any(track.pose.body_visible.any() for track in tracks):
        what = "no pose model is installed (see `steadydancer weights check`)" if model is None else "no person found"
        raise BadClip("no_pose", f"{path}: {what}")
    _, _, seen = find_poses(place, np.zeros(1), lambda: image[None], config.pose_model, estimator, kept.get("image"))
    try:
        driven = align_driving_pose(
            tracks,
            seen,
            info.width / info.height,
            image,
            main_person_only=config.main_person_only,
            on_missing_reference=config.on_missing_reference,
            estimator_name=model,
        )
    except DrivingError as error:
        raise BadClip("no_pose", f"{path}: {error}") from error
    if config.first_pose == "reference":
        if not driven.aligned:
            raise BadClip("no_pose", f"{place} shows no person whose pose can be that of frame 0")
        driven = replace(driven, people=[_with_first(seen[0].pose, driven.people[0]), *driven.people[1:]])
    return model, driven


def _with_first(reference: PoseSequence, driven: PoseSequence) -> PoseSequence:
    """Return a motion whose frame 0 has the pose of the image; the driven face stays where only that is known."""
    arrays = {}
    for field in fields(PoseSequence):
        array, first = getattr(driven, field.name), getattr(reference, field.name)
        if array is not None and first is not None:
            arrays[field.name] = np.concatenate([first[:1].astype(array.dtype), array[1:]])
    return replace(driven, **arrays)


def _kept_tracks(
    store: ResultStore,
    tools: MotionTools,
    digest: Callable[[], str],
    times_s: Floats64,
    estimate: Callable[[], list[PoseTrack]],
) -> list[PoseTrack]:
    """Return the estimate of a file's frames at these times, which is made once for all pairs of the file."""
    name = tools.estimator.name if tools.estimator else None
    key = store.key("poses", file=digest(), times_s=times_s.tolist(), estimator=name, weights=dict(tools.weights),
                    side_px=driving_poses.POSE_SIDE_PX, rules=versions("pictures"))  # fmt: skip

    def compute() -> Result:
        tracks = estimate()
        arrays = pack_people([track.pose for track in tracks])
        confidences = {f"{k}.confidence": track.confidence for k, track in enumerate(tracks)}
        arrays |= {name: one for name, one in confidences.items() if one is not None}
        return Result(arrays, {"num_people": len(tracks)}, [digest()])

    found = store.get_or_compute(key, compute)
    people = unpack_people(found.arrays)
    confidences = [found.arrays.get(f"{k}.confidence") for k in range(len(people))]
    return [PoseTrack(pose, one) for pose, one in zip(people, confidences, strict=True)]


def pack_people(people: list[PoseSequence]) -> dict[str, Array]:
    """Return the arrays of people's poses by name, in their own types."""
    named = {f"{k}.{field.name}": getattr(one, field.name) for k, one in enumerate(people) for field in fields(one)}
    return {name: array for name, array in named.items() if array is not None}


def unpack_people(arrays: Mapping[str, Array]) -> list[PoseSequence]:
    """Return the people of `pack_people`; other entries are ignored."""
    names = {field.name for field in fields(PoseSequence)}
    by_person: dict[int, dict[str, Any]] = {}
    for whole, array in arrays.items():
        person, name = whole.split(".")
        if name in names:
            by_person.setdefault(int(person), {})[name] = array
    return [PoseSequence(**by_person[person]) for person in sorted(by_person)]


def read_motion(store: ResultStore, key: str) -> tuple[list[PoseSequence], dict[str, Any]]:
    """Read a motion from the work folder: (people, its record and notes)."""
    found = store.require(key)
    return unpack_people(found.arrays), found.value


def sidecar_notes(row: Row, config: RenderConfig) -> list[str]:
    """Return notes on sidecars next to the files that were ignored because they may belong to another file."""
    if config.pose_model not in ("auto", SUPPLIED):
        return []
    notes = [sidecar_note(Path(row[name]), (KEYPOINTS,)) for name in ("image", "driving")]
    return [note for note in notes if note]
