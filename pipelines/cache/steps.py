"""The row stages of a cache: read a clip's keypoints, then encode its frames → the transformer's inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import save

from ...datasets.artifact import ArtifactError
from ...datasets.clips import Clips
from ...datasets.schema import CROP_COLUMNS, Row
from ...datasets.shards import Bucket, Sample, null_path, sample_members
from ...datasets.skeleton import PoseSequence
from ...datasets.storage import Location
from ...datasets.storage.atomic import atomic_write
from ...datasets.video import decode, size_for_area
from ...models.components import load_components
from ...models.curation.captioner import Captioner
from ...models.encoders import encode_image, encode_image_condition, encode_prompt, encode_video
from ...models.pose_condition import draw_pose_condition, encode_pose_condition
from ..common.crop import (
    WHOLE,
    content_shares,
    content_size,
    crop_frames,
    cropped_shares,
    frame_of,
    size_to_decode,
    to_content,
)
from ..common.older_rules import stages_for
from ..runtime.local_files import on_local_copies, reading_video
from ..runtime.stage import BadClip, Stage
from .config import ENCODERS, CacheConfig

# Columns of a clip's row that its sample keeps, so that every latent can be traced to its source.
META = ("clip_id", "source_id", "source_path", "start_s", "end_s", "prompt", "prompt_from", "pose_model",
        "image_height", "image_width", *CROP_COLUMNS)  # fmt: skip

_WORDS = ("clip_id", "source_id", "source_path", "prompt", "pose_model", "measured_part", "pose_digest", "prompt_from")
_SIZES = ("num_frames", "source_height", "source_width", *CROP_COLUMNS, "image_height", "image_width", "height",
          "width")  # fmt: skip
_FIELDS: list[tuple[str, pa.DataType]] = [
    *((name, pa.string()) for name in _WORDS),
    *((name, pa.float64()) for name in ("start_s", "end_s", "fps")),
    *((name, pa.int32()) for name in _SIZES),
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
    captioner: Captioner | None = None


def load_encoders(config: CacheConfig) -> Encoders:
    """Load the networks, once per worker."""
    device, dtype = "cuda" if config.num_gpus else "cpu", getattr(torch, config.encoder_dtype)
    captioner = Captioner(config.captioner, dtype, device) if config.captioner else None
    return Encoders(**load_components(config.components, ENCODERS, dtype, device), captioner=captioner)


def find_pose(row: Row, config: CacheConfig, clips: Clips) -> Row:
    """Read a clip's measured keypoints in the worker; all of them (85 kB each) would not fit into the driver."""
    pose = clips.poses([row])[row["clip_id"]]
    if sha256(pose).hexdigest()[:16] != row["pose_digest"]:
        raise ArtifactError(
            f"{clips.measured.path / row['measured_part']} has other keypoints for {row['clip_id']} than the "
            "selection recorded: curate the clips again"
        )
    return {**row, "pose": pose}


@on_local_copies("source_path", unchanged_since="source_id")
def encode_clip(row: Row, config: CacheConfig, encoders: Encoders) -> Row:
    """Encode a clip: latents of video, image condition and pose; CLIP of first frame and first pose; unpadded text.

    Frames and keypoints are cropped to the picture inside the source's borders.
    """
    frames, pose = read_picture(row, config)
    height, width = trained_size(row, config)
    image_height, image_width = frames.shape[1:3]
    pose_frames = draw_pose_condition(pose, image_height, image_width, config.drawing_area_px)
    pose_latents, pose_image_embeds = encode_pose_condition(
        encoders.vae, encoders.image_encoder, pose_frames, height, width
    )
    prompt = prompt_of(row, frames, encoders.captioner)
    tensors = {
        "latents": encode_video(encoders.vae, frames, height, width),
        "image_latents": encode_image_condition(encoders.vae, frames[0], row["num_frames"], height, width),
        "pose_latents": pose_latents,
        "image_embeds": encode_image(encoders.image_encoder, frames[0]),
        "pose_image_embeds": pose_image_embeds,
        "prompt_embeds": encode_prompt(encoders.text_encoder, encoders.tokenizer, [prompt["prompt"] or ""])[0],
    }
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise BadClip("non_finite_latents", "an encoder gave NaN or infinity")
    sizes = {"height": height, "width": width, "image_height": image_height, "image_width": image_width}
    return {**row, **prompt, **sizes, "pose": pose.to_bytes(), "conditions": _to_bytes(tensors, config)}


def read_picture(row: Row, config: CacheConfig) -> tuple[np.ndarray, PoseSequence]:
    """Read a clip's frames [F, H, W, 3] inside its borders, and its keypoints as shares of them.

    Raises:
        BadClip: the source cannot be read.
    """
    whole_height, whole_width = decoded_size(row, config)
    times_s = row["start_s"] + np.arange(row["num_frames"]) / row["fps"]
    with reading_video():
        frames = decode(Path(row["source_path"]), times_s, whole_height, whole_width)
    pose, shares = PoseSequence.from_bytes(row["pose"]), content_shares(frame_of(row))
    if shares == WHOLE:
        return frames, pose
    exact = cropped_shares(shares, whole_height, whole_width)
    return np.ascontiguousarray(crop_frames(frames, shares)), to_content(pose, exact)


def trained_size(row: Row, config: CacheConfig) -> tuple[int, int]:
    """Return the (height, width) of the bucket: the picture's aspect at the trained area."""
    return size_for_area(*content_size(frame_of(row)), config.max_area_px)


def decoded_size(row: Row, config: CacheConfig) -> tuple[int, int]:
    """Return the even (height, width) at which to decode the whole frame: its picture at most twice the trained size.

    CLIP benefits from more detail than the trained size has; beyond twice that, its 224 × 224 pixels gain nothing.
    """
    return size_to_decode(frame_of(row), trained_size(row, config)[0])


def prompt_of(row: Row, frames: np.ndarray, captioner: Captioner | None) -> dict[str, str | None]:
    """Return `prompt`, and its origin in `prompt_from`: "supplied", "captioner" or "none"."""
    if row["prompt"]:
        return {"prompt": row["prompt"], "prompt_from": "supplied"}
    caption = captioner(frames) if captioner else None
    return {"prompt": caption or None, "prompt_from": "captioner" if caption else "none"}


def encode_null(bucket: Bucket, config: CacheConfig, encoders: Encoders) -> bytes:
    """Encode the null conditions of a bucket: a black pose video and the empty prompt."""
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


def write_null(latents: Location, buckets: set[Bucket], config: CacheConfig) -> dict[str, str]:
    """Encode the missing null conditions; return the sha256 of each file by name."""
    missing = [bucket for bucket in sorted(buckets) if not null_path(latents, bucket).is_file()]
    if missing:
        encoders = load_encoders(config.model_copy(update={"captioner": None}))
        for bucket in missing:
            with atomic_write(null_path(latents, bucket)) as aside:
                aside.write_bytes(encode_null(bucket, config, encoders))
    files = [null_path(latents, bucket) for bucket in sorted(buckets)]
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in files}


def to_sample(row: Row, config: CacheConfig, mark: str) -> Sample:
    """Convert a row to a shard's sample; a quarantined row has no members.

    Args:
        row: output of the last stage.
        config: configuration of the cache.
        mark: the cache's fingerprint.
    """
    names = ("clip_id", "source_id", "reason", "detail", "num_frames", "height", "width", "prompt_from")
    index = {name: row[name] for name in names} | {"verdict": row["verdict"] or "ok", "fingerprint": mark}
    if index["verdict"] != "ok":
        return Sample(index)
    meta = {name: row[name] for name in META} | {"drawing_area_px": config.drawing_area_px}
    return Sample(index, sample_members(meta, row["conditions"], row["pose"]))


def _to_bytes(tensors: dict[str, torch.Tensor], config: CacheConfig) -> bytes:
    dtype = getattr(torch, config.dtype)
    return save({name: tensor.to("cpu", dtype).contiguous() for name, tensor in tensors.items()})


def open_clips(clips: Location, config: CacheConfig) -> Clips:
    """Open the curation; called once per worker."""
    return Clips(clips)


def stages(config: CacheConfig, clips: Location, curated: Mapping[str, Any]) -> list[Stage]:
    """Return the stages, all with the same resources so that they run in one worker. `curated`: the clips' record."""
    place = clips.absolute()
    located_by = ("clip_id", "source_path", "measured_part", "pose_digest")
    reads = ("source_path", "source_id", "start_s", "fps", "num_frames", "source_height", "source_width",
             *CROP_COLUMNS, "prompt", "pose")  # fmt: skip
    adds = ("height", "width", "image_height", "image_width", "prompt", "prompt_from", "conditions")
    gpus = config.num_gpus
    return [
        *stages_for(curated, gpus),
        Stage("pose", find_pose, located_by, ("pose",), load=partial(open_clips, place), num_gpus=gpus),
        Stage("encode", encode_clip, reads, adds, load=load_encoders, num_gpus=gpus),
    ]
