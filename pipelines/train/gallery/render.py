"""Render one gallery: validation clips from their cached conditions, with the weights of one step."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import cv2
import torch

from ....datasets.arrays import Frames
from ....datasets.artifact import RECORD
from ....datasets.sampler import draw_seed
from ....datasets.skeleton import PoseSequence
from ....datasets.storage import location
from ....datasets.storage.atomic import atomic_folder, atomic_write, write_json
from ....datasets.video import encode
from ....models.components import flow_scheduler, load_components
from ....models.encoders import decode_latents, encode_video
from ....models.negative_pose import Perturbation, negative_motion
from ....models.pipeline import SteadyDancerPipeline
from ....models.pose_condition import draw_pose_condition, resize_frames
from ..config import TrainConfig
from ..data.batches import TrainingData
from ..data.draws import SampleDraws
from ..run_folder import TrainingRefused
from .folder import REFERENCE_MEDIA, clear_failure, clip_name, gallery_name, gallery_settings
from .kept_weights import network_at

FPS = 16  # if the cache does not record it


def render_gallery(settings: dict[str, Any], steps: int) -> None:
    """Render OUT/gallery/step-NNNNNN with the weights after `steps`; the folder appears when it is complete.

    Args:
        settings: the settings of `train_loop`.
        steps: steps of the run.

    Raises:
        TrainingRefused: the weights are not kept, or no clip is held out.
        ComponentsError: the base has no VAE.
    """
    began = time.perf_counter()
    config, out = TrainConfig.model_validate(settings["config"]), Path(settings["out"])
    device = torch.device("cuda" if config.use_gpu else "cpu")
    data = TrainingData(location(settings["latents"]), config)
    keys = gallery_keys(data, config)
    vae = load_components(str(settings["base"]), ["vae"], device=device)["vae"]
    recorded_fps = data.shards.record.get("fps")
    fps = recorded_fps or FPS
    for key in keys:
        write_reference_media(out, key, data, vae, fps)
    pipeline = gallery_pipeline(network_at(out, steps, device), vae, config)
    place = out / gallery_name(steps)
    for leftover in place.parent.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside = place.with_name(f".{place.name}-{uuid.uuid4().hex[:8]}.tmp")
    # A gallery rendered with different settings is replaced.
    with atomic_folder(place, aside=aside, retire=lambda: shutil.rmtree(place, ignore_errors=True)):
        for key in keys:
            encode(render_clip(key, data, pipeline, config), aside / f"{key}.mp4", fps)
        facts = {
            "steps": steps,
            "clips": keys,
            "settings": gallery_settings(config),
            "size": data.shards.bucket[keys[0]],
        }
        rate: dict[str, Any] = {"fps": fps} if recorded_fps else {"fps": fps, "fps_assumed": True}
        write_json(aside / RECORD, {**facts, **rate, "seconds": time.perf_counter() - began})
    clear_failure(out, steps)


def gallery_pipeline(transformer: Any, vae: Any, config: TrainConfig) -> SteadyDancerPipeline:
    """Build a pipeline for cached conditions: it needs no text and image encoders."""
    scheduler = flow_scheduler(config.flow_shift)
    pipeline = SteadyDancerPipeline(transformer, vae, None, None, None, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def gallery_keys(data: TrainingData, config: TrainConfig) -> list[str]:
    """Return the keys of the first validation clips.

    Raises:
        TrainingRefused: no source is held out.
    """
    keys = list(dict.fromkeys(row.key for row in data.validation_draws()))[: config.gallery.num_clips]
    if not keys:
        raise TrainingRefused(
            f"validation_share: {config.validation_share} holds out no source, so a gallery has no clip: raise it"
        )
    return keys


def write_reference_media(out: Path, key: str, data: TrainingData, vae: Any, fps: float) -> None:
    """Write the reference image, the drawn pose, and the clip as reconstructed by the VAE.

    They are the same for all galleries and written once.
    """
    reference, pose, truth = (out / clip_name(key, name) for name in REFERENCE_MEDIA)
    if reference.exists() and pose.exists() and truth.exists():
        return
    (batch, motion) = _clip(key, data, vae.device, 0)
    frames = decode_latents(vae, batch.latents[0])
    truth.parent.mkdir(parents=True, exist_ok=True)
    encode(frames, truth, fps)
    encode(resize_frames(_drawn(key, data, motion), *frames.shape[1:3]), pose, fps)
    with atomic_write(reference) as aside:
        cv2.imwrite(str(aside), frames[0, ..., ::-1])


@torch.no_grad()
def render_clip(key: str, data: TrainingData, pipeline: SteadyDancerPipeline, config: TrainConfig) -> Frames:
    """Render one clip as uint8 [F, H, W, 3]; noise and negative pose depend on the key and the seed only."""
    gallery = config.gallery
    seed = draw_seed(gallery.seed, 0, 0, f"gallery/{key}")
    batch, motion = _clip(key, data, pipeline.device, seed)
    negative_pose = batch.conditions.pose_latents
    if gallery.pose_guidance_scale != 0:
        perturbation = Perturbation.draw(len(motion), torch.Generator().manual_seed(seed))
        (perturbed,) = negative_motion([motion], perturbation)
        _, height, width = data.shards.bucket[key]
        negative_pose = encode_video(pipeline.vae, _drawn(key, data, perturbed), height, width)[None]
    latents = pipeline.denoise(
        batch.noise,
        [batch.conditions],
        batch.null.prompt_embeds,
        [[negative_pose]],
        num_inference_steps=gallery.num_inference_steps,
        flow_shift=config.flow_shift,
        guidance_scale=gallery.guidance_scale,
        pose_guidance_scale=gallery.pose_guidance_scale,
    )
    frames: Frames = pipeline.decode_latents(latents, "uint8")[0]
    return frames


def _clip(key: str, data: TrainingData, device: torch.device, noise_seed: int) -> tuple[Any, PoseSequence]:
    """Load the clip as a batch of one with nothing dropped, and its keypoints."""
    batch = data.load([SampleDraws(key, sigma=1.0, noise_seed=noise_seed)], device)
    return batch, PoseSequence.from_bytes(data.shards.read(key)["pose"])


def _drawn(key: str, data: TrainingData, motion: PoseSequence) -> Frames:
    """Draw the keypoints as for the cache."""
    meta = data.shards.read(key)["meta"]
    return draw_pose_condition(motion, meta["image_height"], meta["image_width"], meta["drawing_area_px"])
