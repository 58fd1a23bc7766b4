"""The step of a cache: one clip's frames and keypoints → what the transformer will be told of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save

from ...datasets.artifact import written_aside
from ...datasets.schema import Row
from ...datasets.shards import Bucket, Sample, null_path, sample_members
from ...datasets.skeleton import PoseSequence
from ...datasets.storage import Location
from ...datasets.video import VideoError, decode, size_for_area
from ...models.components import load_components
from ...models.encoders import encode_image, encode_image_condition, encode_prompt, encode_video
from ...models.pose_condition import draw_pose_condition, encode_pose_condition
from ..fetched import fetched
from ..stage import BadClip, Stage
from .config import ENCODERS, CacheConfig

# What of a clip's row goes into its sample: where it comes from, so that every latent can be traced.
META = ("clip_id", "source_id", "source_path", "start_s", "end_s", "prompt", "pose_model")

_FIELDS: list[tuple[str, pa.DataType]] = [
    *((name, pa.string()) for name in ("clip_id", "source_id", "source_path", "prompt", "pose_model")),
    *((name, pa.float64()) for name in ("start_s", "end_s", "fps")),
    *((name, pa.int32()) for name in ("num_frames", "source_height", "source_width", "height", "width")),
    *((name, pa.large_binary()) for name in ("pose", "conditions")),
    *((name, pa.string()) for name in ("verdict", "reason", "detail")),
]
SCHEMA = pa.schema(_FIELDS)


@dataclass(frozen=True)
class Encoders:
    """The frozen networks of a cache."""

    vae: Any
    text_encoder: Any
    tokenizer: Any
    image_encoder: Any


def load_encoders(config: CacheConfig) -> Encoders:
    """Load them once per worker."""
    device = "cuda" if config.num_gpus else "cpu"
    return Encoders(**load_components(config.components, ENCODERS, getattr(torch, config.encoder_dtype), device))


@fetched("source_path")
def encode_clip(row: Row, config: CacheConfig, encoders: Encoders) -> Row:
    """Latents of video, image condition and pose, CLIP of the first frame and the first pose, text of true length."""
    height, width = size_for_area(row["source_height"], row["source_width"], config.max_area_px)
    image_height, image_width = image_size(row, config)
    times_s = row["start_s"] + np.arange(row["num_frames"]) / row["fps"]
    try:
        frames = decode(Path(row["source_path"]), times_s, image_height, image_width)
    except VideoError as error:
        raise BadClip(error.reason, error.detail) from error
    pose = PoseSequence.from_bytes(row["pose"])
    pose_frames = draw_pose_condition(pose, image_height, image_width, config.drawing_area_px)
    pose_latents, pose_image_embeds = encode_pose_condition(
        encoders.vae, encoders.image_encoder, pose_frames, height, width
    )
    tensors = {
        "latents": encode_video(encoders.vae, frames, height, width),
        "image_latents": encode_image_condition(encoders.vae, frames[0], row["num_frames"], height, width),
        "pose_latents": pose_latents,
        "image_embeds": encode_image(encoders.image_encoder, frames[0]),
        "pose_image_embeds": pose_image_embeds,
        "prompt_embeds": encode_prompt(encoders.text_encoder, encoders.tokenizer, [row["prompt"] or ""])[0],
    }
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise BadClip("non_finite_latents", "an encoder gave NaN or infinity")
    return {**row, "height": height, "width": width, "conditions": _to_bytes(tensors, config)}


def image_size(row: Row, config: CacheConfig) -> tuple[int, int]:
    """(height, width) at which a clip is read: the source's, at most twice the trained size, even.

    CLIP sees more than the trained size holds; above twice that nothing is gained for its 224 × 224 pixels.
    """
    height, _ = size_for_area(row["source_height"], row["source_width"], config.max_area_px)
    scale = min(1.0, 2 * height / row["source_height"])
    return round(row["source_height"] * scale / 2) * 2, round(row["source_width"] * scale / 2) * 2


def encode_null(bucket: Bucket, config: CacheConfig, encoders: Encoders) -> bytes:
    """Null conditions of a bucket: the pose clip with nobody in it, and the empty prompt."""
    num_frames, height, width = bucket
    black = np.zeros((num_frames, height, width, 3), np.uint8)
    pose_latents, pose_image_embeds = encode_pose_condition(encoders.vae, encoders.image_encoder, black, height, width)
    (prompt_embeds,) = encode_prompt(encoders.text_encoder, encoders.tokenizer, [""])
    tensors = {
        "pose_latents": pose_latents,
        "pose_image_embeds": pose_image_embeds,
        "prompt_embeds": prompt_embeds,
    }
    return _to_bytes(tensors, config)


def write_null(latents: Location, buckets: set[Bucket], config: CacheConfig) -> None:
    """Encode the null conditions that are not there yet."""
    missing = [bucket for bucket in sorted(buckets) if not null_path(latents, bucket).is_file()]
    if missing:
        encoders = load_encoders(config)
        for bucket in missing:
            with written_aside(null_path(latents, bucket)) as aside:
                aside.write_bytes(encode_null(bucket, config, encoders))


def to_sample(row: Row, config: CacheConfig) -> Sample:
    """A row as it goes into a shard; without members when it was quarantined."""
    index = {
        "clip_id": row["clip_id"],
        "source_id": row["source_id"],
        "verdict": row["verdict"] or "ok",
        "reason": row["reason"],
        "detail": row["detail"],
        "num_frames": row["num_frames"],
        "height": row["height"],
        "width": row["width"],
        "prompt_given": bool(row["prompt"]),
    }
    if index["verdict"] != "ok":
        return Sample(index)
    image_height, image_width = image_size(row, config)
    meta = {name: row[name] for name in META} | {
        "image_height": image_height,
        "image_width": image_width,
        "drawing_area_px": config.drawing_area_px,
    }
    return Sample(index, sample_members(meta, row["conditions"], row["pose"]))


def _to_bytes(tensors: dict[str, torch.Tensor], config: CacheConfig) -> bytes:
    dtype = getattr(torch, config.dtype)
    return save({name: tensor.to("cpu", dtype).contiguous() for name, tensor in tensors.items()})


def stages(config: CacheConfig) -> list[Stage]:
    """One stage: a clip's networks share its frames."""
    reads = ("source_path", "start_s", "fps", "num_frames", "source_height", "source_width", "prompt", "pose")
    adds = ("height", "width", "conditions")
    return [Stage("encode", encode_clip, reads, adds, load=load_encoders, num_gpus=config.num_gpus)]
