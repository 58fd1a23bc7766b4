"""The stage `encode`: encode texts, image and poses of a pair; what other rows have already encoded is read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...datasets.arrays import Frames
from ...datasets.rules import versions
from ...datasets.schema import Row
from ...datasets.skeleton import PoseSequence
from ...datasets.storage.result_store import Result, ResultStore
from ...models import encoders
from ...models.conditions import with_frame_mask
from ...models.encoded_inputs import EncodedInputs, encode_negative_windows, encode_pose_windows
from ...models.long_video import Window, draw_noise, plan_windows
from ...models.negative_pose import Perturbation
from ...models.pipeline import WAN_NEGATIVE_PROMPT
from ...models.pipeline_inputs import InputError, as_motion, num_frames_of, video_size
from ..runtime.local_files import on_local_copies
from ..runtime.stage import BadClip
from .config import RESOURCES, RenderConfig
from .motion import read_image, read_motion
from .results import tensor_result, tensors_of
from .task import CheckpointTask, Components, RenderTask

# Configuration fields that do not change the latents: sampling does not see them.
_NOT_SAMPLED = {
    *("components", "seed", "num_seeds", "fps", "crf", "chroma", "sound", *RESOURCES),
    *("num_frames", "driving_fps", "main_person_only", "on_missing_reference", "first_pose", "pose_model"),
    "negative_prompt",
}


@dataclass(frozen=True)
class _Pair:
    """What is encoded of a pair, and with what."""

    row: Row
    config: RenderConfig
    place: CheckpointTask
    image: Frames
    people: list[PoseSequence]
    height: int
    width: int
    windows: Sequence[Window]
    where: dict[str, str]

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width and drawing area."""
        return self.height, self.width, self.config.drawing_area_px


@on_local_copies("image")
def encode_pair(row: Row, task: RenderTask, components: Components) -> Row:
    """Encode what is not in the work folder yet, and name the results; nothing if the pair is denoised already."""
    pair, store = _read(row, task), task.store
    keys = _keys(pair, store)
    sampling = task.config.model_dump(mode="json", exclude=_NOT_SAMPLED)
    network = {"checkpoint": next(iter(pair.place.digests.values())), "lora": pair.place.digests.get("distilled_lora")}
    latents = store.key("latents", inputs=keys, **network, seed=row["seed"], config=sampling, **pair.where)
    if store.get(latents) is None:
        _encode(pair, store, keys, components)
    encoded = {"keys": keys, "height": pair.height, "width": pair.width, "num_frames": len(pair.people[0])}
    return {**row, "encoded": json.dumps(encoded), "latents": latents}


def _read(row: Row, task: RenderTask) -> _Pair:
    config = task.config
    image, _ = read_image(Path(row["image"]))
    people, _ = read_motion(task.store, row["motion"])
    try:
        height, width = video_size(image, None, None, config.max_area_px)
        people = as_motion(people, config.num_frames)
        windows = windows_of(num_frames_of(people), config)
    except InputError as error:
        raise BadClip("bad_input", str(error)) from error
    where = {"dtype": config.dtype, "device": task.device}
    return _Pair(row, config, task.checkpoints[row["checkpoint"]], image, people, height, width, windows, where)


def windows_of(num_frames: int, config: RenderConfig) -> list[Window]:
    """Return the windows of a video."""
    return plan_windows(num_frames, config.window_frames, config.window_overlap, config.window_opening)


def _keys(pair: _Pair, store: ResultStore) -> dict[str, str]:
    """Return the key of each result: everything that determines it."""
    row, config, digests = pair.row, pair.config, pair.place.digests
    spans = [[window.start, window.stop, window.opening] for window in pair.windows]
    image = {"image": row["image_digest"], "rules": versions("pictures")}
    vae = {"vae": digests.get("vae"), "device": pair.where["device"]}  # always float32
    if config.rendering_mode.tiles_autoencoder:
        vae["tiles"] = "of 256 px, 192 apart"
    tower = {"image_encoder": digests.get("image_encoder"), **pair.where}
    texts = [row["prompt"] or "", _negative_prompt(config)]
    text_parts = {name: digests.get(name) for name in ("text_encoder", "tokenizer")}
    pose = {"motion": row["motion"], "image_size": list(pair.image.shape[:2]), "size": pair.size, "windows": spans}
    keys = {
        # In one batch, as a call encodes them.
        "text": store.key("text", texts=texts, **text_parts, **pair.where),
        "image": store.key("image", **image, encoder=tower),
        "image_condition": store.key(
            "image_condition",
            **image,
            encoder=vae,
            size=[pair.height, pair.width],
            frames=len(pair.windows[0].pixel_frames),
        ),
        "pose": store.key("pose", **pose, encoders=[vae, tower]),
    }
    if config.pose_guidance_scale != 0:
        drawn = {"seed": row["seed"], "shift": config.negative_pose_shift}
        keys["negative_pose"] = store.key("negative_pose", **pose, encoder=vae, **drawn)
    return keys


def _negative_prompt(config: RenderConfig) -> str:
    return WAN_NEGATIVE_PROMPT if config.negative_prompt is None else config.negative_prompt


def _encode(pair: _Pair, store: ResultStore, keys: dict[str, str], components: Components) -> None:
    place, files = pair.place, files_of(pair.row)

    def text() -> Result:
        encoder, tokenizer = (components.get(place, name) for name in ("text_encoder", "tokenizer"))
        texts = [pair.row["prompt"] or "", _negative_prompt(pair.config)]
        prompt, negative = encoders.encode_prompt(encoder, tokenizer, texts)
        return tensor_result({"prompt": prompt, "negative": negative}, ())

    def image() -> Result:
        embeds = encoders.encode_image(components.get(place, "image_encoder"), pair.image)
        return tensor_result({"embeds": embeds}, files[:1])

    def image_condition() -> Result:
        frames = len(pair.windows[0].pixel_frames)
        vae = components.get(place, "vae")
        latents = encoders.encode_image_condition(vae, pair.image, frames, pair.height, pair.width)
        return tensor_result({"latents": latents}, files[:1])

    def pose() -> Result:
        vae, tower = (components.get(place, name) for name in ("vae", "image_encoder"))
        latents, embeds = encode_pose_windows(vae, tower, pair.people, pair.image, pair.windows, *pair.size)
        return tensor_result({"embeds": embeds, **_numbered(latents)}, files)

    def negative_pose() -> Result:
        generator = torch.Generator("cpu").manual_seed(pair.row["seed"])
        draw_noise(pair.windows, pair.height, pair.width, generator)  # a call draws the noise first
        drawn = Perturbation.draw(len(pair.people[0]), generator, pair.config.negative_pose_shift)
        vae = components.get(place, "vae")
        latents = encode_negative_windows(vae, pair.people, drawn, pair.image, pair.windows, *pair.size)
        return tensor_result(_numbered(latents), files)

    computed = {"text": text, "image": image, "image_condition": image_condition, "pose": pose,
                "negative_pose": negative_pose}  # fmt: skip
    for name, key in keys.items():
        store.get_or_compute(key, computed[name])


def files_of(row: Row) -> list[str]:
    """Return the digests of a pair's image and driving video."""
    return [row["image_digest"], row["driving_digest"]]


def _numbered(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"window {k}": tensor for k, tensor in enumerate(tensors)}


def read_encoded(store: ResultStore, encoded: dict[str, Any], config: RenderConfig) -> EncodedInputs:
    """Read the encoded inputs of a pair from the work folder.

    Raises:
        SteadyDancerError: one of them is missing.
    """
    found = {name: tensors_of(store.require(key)) for name, key in encoded["keys"].items()}
    windows = windows_of(encoded["num_frames"], config)

    def of_windows(name: str) -> list[Tensor]:
        return [found[name][f"window {k}"] for k in range(len(windows))]

    return EncodedInputs(
        height=encoded["height"],
        width=encoded["width"],
        num_frames=encoded["num_frames"],
        windows=windows,
        image_latents=with_frame_mask(found["image_condition"]["latents"][None]),
        image_embeds=found["image"]["embeds"][None],
        pose_latents=of_windows("pose"),
        pose_image_embeds=found["pose"]["embeds"],
        prompt_embeds=found["text"]["prompt"][None],
        negative_prompt_embeds=found["text"]["negative"][None],
        negative_pose_latents=[of_windows("negative_pose")] if "negative_pose" in found else (),
    )
