"""The row stage of a rendering job: one (image, driving video) pair → one mp4 and its record."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ...datasets import images
from ...datasets.driving_poses import MIN_FRAMES, DrivingPoses, decode_driving, driving_times_s
from ...datasets.images import Picture
from ...datasets.schema import Row
from ...datasets.sidecars import KEYPOINTS, sidecar_note
from ...datasets.storage import location
from ...datasets.storage.atomic import ordered_write
from ...datasets.storage.digests import content_digest
from ...datasets.supplied_poses import SUPPLIED
from ...datasets.video import VideoError, frame_times_s, probe
from ...models.components import load_components
from ...models.inference.step_memory import park_context_projections
from ...models.pipeline import SteadyDancerPipeline
from ...models.pipeline_inputs import MIN_SIDE_PX, DrivingError, InputError, align_driving_pose
from ...models.pose.estimator import PoseEstimator
from ..common.poses import find_poses, load_pose_estimator
from ..runtime.local_files import on_local_copies
from ..runtime.stage import BadClip, Stage
from .config import FROZEN, RenderConfig
from .sound import driving_sound

# Configuration fields that the pipeline takes as arguments of the same name.
PIPELINE_ARGUMENTS = (
    *("max_area_px", "drawing_area_px", "num_frames", "window_frames", "window_overlap", "window_opening"),
    "num_inference_steps",
    *("guidance_scale", "pose_guidance_scale", "pose_guidance_interval", "pose_guidance_unit"),
    *("negative_pose_shift", "solver", "flow_shift", "negative_prompt"),
)

_FIELDS: list[tuple[str, pa.DataType]] = [
    *((name, pa.string()) for name in ("id", "image", "driving", "prompt", "video", "pose_model")),
    *((name, pa.int32()) for name in ("height", "width", "num_frames")),
    ("aligned", pa.bool_()),
    ("sound", pa.string()),  # note on the driving video's sound; null: not requested
    ("pose_start_frame", pa.int32()),  # alignment is measured here, earlier frames repeat its pose; null: not aligned
    *((name, pa.string()) for name in ("verdict", "reason", "detail")),
]
SCHEMA = pa.schema(_FIELDS)


@dataclass(frozen=True)
class RenderTools:
    """Networks that a rendering worker keeps loaded."""

    pipeline: SteadyDancerPipeline
    estimator: PoseEstimator | None


@dataclass(frozen=True)
class RenderTask:
    """Input of a worker: the configuration, the paths and digests of the model, and the output folder.

    Paths are local or on a store.
    """

    config: RenderConfig
    checkpoint: str
    components: str
    digests: dict[str, str]
    out: str


def load_tools(task: RenderTask) -> RenderTools:
    """Load the pipeline and the pose estimator once per worker."""
    dtype, device = getattr(torch, task.config.dtype), "cuda" if task.config.num_gpus else "cpu"
    trained = load_components(task.checkpoint, ("transformer",), dtype, device)
    frozen = load_components(task.components, FROZEN, dtype, device)
    pipeline = SteadyDancerPipeline(**trained, **frozen)
    if task.config.park_context_projections:
        park_context_projections(pipeline.transformer, "cpu")
    pipeline.set_progress_bar_config(disable=True)
    return RenderTools(pipeline, load_pose_estimator(task.config.pose_model))


@on_local_copies("image", "driving")
def render_pair(row: Row, task: RenderTask, tools: RenderTools) -> Row:
    """Align the driving poses to the image, sample, and write `ID.mp4` with `ID.json` next to it."""
    config = task.config
    image, changes = read_image(Path(row["image"]))
    model, driven = driving_motion(row, image, config, tools.estimator)
    sound_note, sound = driving_sound(Path(row["driving"]), config)
    name = f"{row['id']}.mp4"

    def write(video: Path) -> dict[str, Any]:
        return tools.pipeline.render_to(
            video,
            image,
            driven.people,
            row["prompt"] or "",
            **{name: getattr(config, name) for name in PIPELINE_ARGUMENTS},
            seed=config.seed,
            fps=config.fps,
            crf=config.crf,
            chroma=config.chroma,
            sound=sound,
            model=task.digests,
            inputs={name: content_digest(row[name]) for name in ("image", "driving")},
            more_settings={
                "pose_model": model,
                "main_person_only": config.main_person_only,
                "on_missing_reference": config.on_missing_reference,
                **driven.to_record(),
                "sound": sound_note,
                "image_changes": list(changes),
                "config": config.model_dump(mode="json"),
            },
        )

    try:
        record = _write_whole(task.out, name, write)
    except InputError as error:
        raise BadClip("bad_input", str(error)) from error
    return {
        **row,
        "video": name,
        "pose_model": model,
        "aligned": driven.aligned,
        "pose_start_frame": driven.start_frame,
        **{name: record["video"][name] for name in ("height", "width", "num_frames")},
        "verdict": "ok",
        "sound": sound_note,
        "detail": "; ".join(
            [
                *driven.notes(),
                *([f"sound {sound_note}"] if sound_note and sound is None else []),
                *_sidecar_notes(row, config),
            ]
        )
        or None,
    }


def _write_whole(out: str, name: str, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Call `write` in a temporary folder and move the video and then its record to `out`, each atomically."""
    record_name = Path(name).with_suffix(".json").name
    with ordered_write(location(out), (name, record_name)) as folder:
        return write(folder / name)


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


def driving_motion(
    row: Row, image: np.ndarray, config: RenderConfig, estimator: PoseEstimator | None
) -> tuple[str, DrivingPoses]:
    """Return (source of the keypoints, the driving video's motion aligned to the image).

    Raises:
        BadClip: the video cannot be read, is too short, or has no person complete enough for the alignment; or the
            image has no person and `on_missing_reference` is `raise`.
    """
    path, place = Path(row["driving"]), Path(row["image"])
    try:
        info = probe(path)
        times_s = driving_times_s(frame_times_s(path), config.num_frames, config.driving_fps)
        if len(times_s) < (asked := config.num_frames or MIN_FRAMES):
            raise BadClip("too_short", f"{path} has {len(times_s)} frames, but {asked} are needed")
        model, _, tracks = find_poses(
            path, times_s, lambda: decode_driving(path, times_s), config.pose_model, estimator
        )
    except VideoError as error:
        raise BadClip(error.reason, f"{path}: {error.detail}") from error
    if model is None or not any(track.pose.body_visible.any() for track in tracks):
        what = "no pose model is installed (see `steadydancer weights check`)" if model is None else "no person found"
        raise BadClip("no_pose", f"{path}: {what}")
    _, _, seen = find_poses(place, np.zeros(1), lambda: image[None], config.pose_model, estimator)
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
    return model, driven


def _sidecar_notes(row: Row, config: RenderConfig) -> list[str]:
    """Return notes on sidecars next to the files that were ignored because they may belong to another file."""
    if config.pose_model not in ("auto", SUPPLIED):
        return []
    notes = [sidecar_note(Path(row[name]), (KEYPOINTS,)) for name in ("image", "driving")]
    return [note for note in notes if note]


def stages(config: RenderConfig) -> list[Stage]:
    """Return the only stage: all networks of a pair share its pose."""
    adds = ("video", "pose_model", "aligned", "pose_start_frame", "sound", "height", "width", "num_frames",
            "verdict", "detail")  # fmt: skip
    reads = ("id", "image", "driving", "prompt")
    return [Stage("render", render_pair, reads, adds, load=load_tools, num_gpus=config.num_gpus)]
