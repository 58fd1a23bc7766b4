"""The step of a rendering job: one (image, driving video) pair → one mp4 and its record."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch

from ...datasets.digests import content_digest
from ...datasets.node_cache import scratch
from ...datasets.object_store import put
from ...datasets.schema import Row
from ...datasets.skeleton import PoseSequence, align_people_to_reference
from ...datasets.storage import ObjectPath, location
from ...datasets.video import VideoError, decode, frame_times_s, probe
from ...models.call_checks import LEAST_SIDE_PX, InputError
from ...models.components import load_components
from ...models.pipeline import SteadyDancerPipeline
from ...models.pose_condition import released_aspect
from ...models.pose_estimator import PoseEstimator
from ...models.step_memory import park_context_projections
from ..fetched import fetched
from ..poses import find_poses, load_pose_estimator
from ..stage import BadClip, Stage
from .config import FROZEN, RenderConfig

POSE_SIDE_PX = 768
NECK = 1
# What the pipeline is told of the configuration, under the same names.
CALL = (
    *("max_area_px", "drawing_area_px", "num_frames", "window_frames", "window_overlap", "num_inference_steps"),
    *("guidance_scale", "pose_guidance_scale", "pose_guidance_interval", "pose_guidance_unit"),
    *("solver", "flow_shift", "negative_prompt"),
)

_FIELDS: list[tuple[str, pa.DataType]] = [
    *((name, pa.string()) for name in ("id", "image", "driving", "prompt", "video", "pose_model")),
    *((name, pa.int32()) for name in ("height", "width", "num_frames")),
    ("aligned", pa.bool_()),
    *((name, pa.string()) for name in ("verdict", "reason", "detail")),
]
SCHEMA = pa.schema(_FIELDS)


@dataclass(frozen=True)
class RenderTools:
    """What a rendering worker keeps loaded, and where it writes."""

    pipeline: SteadyDancerPipeline
    estimator: PoseEstimator | None


@dataclass(frozen=True)
class RenderTask:
    """What a worker is told: the configuration, the model's places and digests, and the folder to write to.

    The places are of this machine or on a store.
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


@fetched("image", "driving")
def render_pair(row: Row, task: RenderTask, tools: RenderTools) -> Row:
    """Align the driving poses to the image, sample, and write `ID.mp4` with `ID.json` beside it."""
    config = task.config
    image = read_image(Path(row["image"]))
    model, people, aspect = _driving_poses(row, config, tools.estimator)
    reference = _reference_pose(Path(row["image"]), image, config, tools.estimator)
    if reference is not None:
        people = align_people_to_reference(people, reference, aspect, released_aspect(*image.shape[:2]))
    name = f"{row['id']}.mp4"

    def write(video: Path) -> dict[str, Any]:
        return tools.pipeline.render_to(
            video,
            image,
            people,
            row["prompt"] or "",
            **{name: getattr(config, name) for name in CALL},
            seed=config.seed,
            fps=config.fps,
            model=task.digests,
            inputs={name: content_digest(row[name]) for name in ("image", "driving")},
            more_settings={
                "pose_model": model,
                "num_people": len(people),
                "aligned": reference is not None,
                "config": config.model_dump(mode="json"),
            },
        )

    try:
        record = _written(task.out, name, write)
    except InputError as error:
        raise BadClip("bad_input", str(error)) from error
    return {
        **row,
        "video": name,
        "pose_model": model,
        "aligned": reference is not None,
        **{name: record["video"][name] for name in ("height", "width", "num_frames")},
        "verdict": "ok",
        "detail": None if reference is not None else "no pose found in the image: the driving pose is used as it is",
    }


def _written(out: str, name: str, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What `write` gives; the video and the record beside it lie in `out`, each whole, the record last."""
    folder = location(out)
    if not isinstance(folder, ObjectPath):
        return write(folder / name)
    with tempfile.TemporaryDirectory(dir=scratch()) as here:
        video = Path(here) / name
        record = write(video)
        for file in (video, video.with_suffix(".json")):
            put(file, folder / file.name)
    return record


def read_image(path: Path) -> np.ndarray:
    """RGB uint8 [H, W, 3] of an image file.

    Raises:
        BadClip: it cannot be read, or is smaller than `LEAST_SIDE_PX` on a side.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise BadClip("unreadable_image", f"{path}: {error.strerror}") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise BadClip("unreadable_image", f"{path} is no image that OpenCV reads")
    if min(image.shape[:2]) < LEAST_SIDE_PX:
        size = f"{image.shape[1]}×{image.shape[0]}"
        raise BadClip("too_small", f"{path} is {size}, {LEAST_SIDE_PX}×{LEAST_SIDE_PX} is the least")
    return np.ascontiguousarray(image[..., ::-1])


def _driving_poses(
    row: Row, config: RenderConfig, estimator: PoseEstimator | None
) -> tuple[str | None, list[PoseSequence], float]:
    """(model, everybody's pose in `num_frames` frames with the main person first, width / height) of the driving."""
    path = Path(row["driving"])
    try:
        info = probe(path)
        native = frame_times_s(path)
        times_s = native if config.driving_fps is None else np.arange(0, native[-1] + 1e-6, 1 / config.driving_fps)
        num_frames = config.num_frames or max(5, (len(times_s) - 1) // 4 * 4 + 1)
        if len(times_s) < num_frames:
            raise BadClip("too_short", f"{path} has {len(times_s)} frames, {num_frames} are asked")
        times_s = times_s[:num_frames]
        scale = min(1.0, POSE_SIDE_PX / max(info.height, info.width))
        height, width = (round(side * scale / 2) * 2 for side in (info.height, info.width))
        model, _, tracks = find_poses(
            path, times_s, lambda: decode(path, times_s, height, width), config.pose_model, estimator
        )
    except VideoError as error:
        raise BadClip(error.reason, f"{path}: {error.detail}") from error
    if not tracks or not tracks[0].pose.body_visible.any():
        what = "no pose model is here (`steadydancer weights check`)" if model is None else "nobody was found"
        raise BadClip("no_pose", f"{path}: {what}")
    people = [track.pose for track in tracks][: 1 if config.main_person_only else None]
    return model, people, info.width / info.height


def _reference_pose(
    path: Path, image: np.ndarray, config: RenderConfig, estimator: PoseEstimator | None
) -> PoseSequence | None:
    """The pose in the reference image, if a neck is seen in it: alignment measures from there."""
    _, _, tracks = find_poses(path, np.zeros(1), lambda: image[None], config.pose_model, estimator)
    return tracks[0].pose if tracks and tracks[0].pose.body_visible[0, NECK] else None


def stages(config: RenderConfig) -> list[Stage]:
    """One stage: a pair's networks share its pose."""
    adds = ("video", "pose_model", "aligned", "height", "width", "num_frames", "verdict", "detail")
    reads = ("id", "image", "driving", "prompt")
    return [Stage("render", render_pair, reads, adds, load=load_tools, num_gpus=config.num_gpus)]
