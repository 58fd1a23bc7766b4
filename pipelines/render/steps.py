"""The step of a rendering job: one (image, driving video) pair → one mp4 and its record."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch

from ... import __version__
from ...datasets.artifact import content_digest, write_json
from ...datasets.schema import Row
from ...datasets.skeleton import PoseSequence, align_to_reference, perturb
from ...datasets.video import VideoError, decode, encode, frame_times_s, probe
from ...models.components import load_components
from ...models.driving import Perturbation
from ...models.pipeline import SteadyDancerPipeline
from ...models.pose_condition import draw_pose_condition
from ...models.pose_estimator import PoseEstimator
from ..poses import find_poses, load_pose_estimator
from ..stage import BadClip, Stage
from .config import FROZEN, RenderConfig

POSE_SIDE_PX = 768
NECK = 1

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
    """What a worker is told: the configuration, the model's place and digest, and the folder to write to."""

    config: RenderConfig
    checkpoint: str
    checkpoint_digest: str
    components: str
    out: str


def load_tools(task: RenderTask) -> RenderTools:
    """Load the pipeline and the pose estimator once per worker."""
    dtype, device = getattr(torch, task.config.dtype), "cuda" if task.config.num_gpus else "cpu"
    trained = load_components(task.checkpoint, ("transformer",), dtype, device)
    frozen = load_components(task.components, FROZEN, dtype, device)
    pipeline = SteadyDancerPipeline(**trained, **frozen)
    pipeline.set_progress_bar_config(disable=True)
    return RenderTools(pipeline, load_pose_estimator(task.config.pose_model))


def render_pair(row: Row, task: RenderTask, tools: RenderTools) -> Row:
    """Align the driving pose to the image, sample, and write `ID.mp4` with `ID.json` beside it."""
    config = task.config
    image = read_image(Path(row["image"]))
    model, driving, aspect = _driving_pose(row, config, tools.estimator)
    reference = _reference_pose(Path(row["image"]), image, config, tools.estimator)
    image_height, image_width = image.shape[:2]
    pose = driving
    if reference is not None:
        pose = align_to_reference(driving, reference, aspect, image_width / image_height)
    generator = torch.Generator("cpu").manual_seed(config.seed)
    perturbation = Perturbation.draw(config.num_frames, generator)
    pose_frames, negative_pose_frames = (
        draw_pose_condition(drawn, image_height, image_width, config.drawing_area_px)
        for drawn in (pose, perturb(pose, perturbation.scale, perturbation.aspect))
    )
    (frames,) = tools.pipeline(
        image=image,
        pose_video=pose_frames,
        negative_pose_video=negative_pose_frames,
        prompt=row["prompt"] or "",
        negative_prompt=config.negative_prompt,
        max_area_px=config.max_area_px,
        num_frames=config.num_frames,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        pose_guidance_scale=config.pose_guidance_scale,
        pose_guidance_interval=config.pose_guidance_interval,
        flow_shift=config.flow_shift,
        generator=generator,
        output_type="uint8",
    ).frames
    settings = {
        "checkpoint": task.checkpoint_digest,
        "image": content_digest(row["image"]),
        "driving": content_digest(row["driving"]),
        "prompt": row["prompt"] or "",
        "pose_model": model,
        "aligned": reference is not None,
        "config": config.model_dump(mode="json"),
        "version": __version__,
    }
    video = Path(task.out) / f"{row['id']}.mp4"
    encode(frames, video, config.fps, {"comment": f"SteadyDancer {task.checkpoint_digest[:16]} seed {config.seed}"})
    write_json(video.with_suffix(".json"), settings)
    return {
        **row,
        "video": video.name,
        "pose_model": model,
        "aligned": reference is not None,
        "height": frames.shape[1],
        "width": frames.shape[2],
        "num_frames": len(frames),
        "verdict": "ok",
        "detail": None if reference is not None else "no pose found in the image: the driving pose is used as it is",
    }


def read_image(path: Path) -> np.ndarray:
    """RGB uint8 [H, W, 3] of an image file.

    Raises:
        BadClip: it cannot be read, or is smaller than 32 px on a side.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise BadClip("unreadable_image", f"{path}: {error.strerror}") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise BadClip("unreadable_image", f"{path} is no image that OpenCV reads")
    if min(image.shape[:2]) < 32:
        raise BadClip("too_small", f"{path} is {image.shape[1]}×{image.shape[0]}, 32×32 is the least")
    return np.ascontiguousarray(image[..., ::-1])


def _driving_pose(
    row: Row, config: RenderConfig, estimator: PoseEstimator | None
) -> tuple[str | None, PoseSequence, float]:
    """(model, pose of `num_frames` frames, width / height) of the driving video."""
    path = Path(row["driving"])
    try:
        info = probe(path)
        native = frame_times_s(path)
        times_s = native if config.driving_fps is None else np.arange(0, native[-1] + 1e-6, 1 / config.driving_fps)
        if len(times_s) < config.num_frames:
            raise BadClip("too_short", f"{path} has {len(times_s)} frames, {config.num_frames} are asked")
        times_s = times_s[: config.num_frames]
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
    return model, tracks[0].pose, info.width / info.height


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
